"""What every described body and answer has in common."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Json = dict[str, Any]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[int, Field(ge=1)]
Time = Annotated[str, Field(description="ISO 8601, UTC")]


class Shape(BaseModel):
    """An object with these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """What went wrong; some codes add fields, such as ``problems`` with their lines."""

    message: str
    type: str
    param: str | None
    code: str


class Refusal(Shape):
    """An error, in OpenAI's shape."""

    error: Problem
