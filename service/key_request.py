"""What is asked for when a key is made or rotated; imports no torch."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from service.callers import Role
from service.errors import ServiceError
from service.explain import explain, path_text
from service.keys import NewKey
from service.limits import Limits
from service.steer_schema import Name, Strict

DEFAULT_GRACE_SECONDS = 3600
MAX_YEARS = 100
T = TypeVar("T", bound=Strict)


class KeyRequestError(ServiceError):
    """A key that cannot be as it is asked for."""


def parse_time(text: str) -> datetime:
    """Return a time with a zone, in UTC.

    Raises:
        ValueError: It is none, says no zone, or is further away than a key lasts.
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time says its zone: 2027-01-31T12:00:00Z")
    if at.replace(tzinfo=UTC) > datetime.now(UTC) + timedelta(days=366 * MAX_YEARS):
        raise ValueError(f"more than {MAX_YEARS} years away: leave it out for a key without an end")
    if at.year < MAX_YEARS:
        raise ValueError("this time is long past")
    return at.astimezone(UTC)


def _is_time(text: str) -> str:
    parse_time(text)
    return text


TimeText = Annotated[str, StringConstraints(max_length=64), AfterValidator(_is_time)]


class LimitsRequest(Strict):
    """Limits of a key; what is left out is not limited beyond what holds for everyone."""

    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    concurrent: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_body_bytes: Annotated[int, Field(ge=1, le=1 << 30)] | None = None
    max_seconds: Annotated[float, Field(gt=0, le=86_400)] | None = None


class KeyRequest(Strict):
    """A key to be made."""

    name: Name
    role: Role
    tenant: Name | None = None
    expires_at: TimeText | None = None
    limits: LimitsRequest = LimitsRequest()

    def wanted(self) -> NewKey:
        """Return what the store is to make."""
        expires_at = None if self.expires_at is None else parse_time(self.expires_at)
        limits = Limits(**self.limits.model_dump())
        return NewKey(self.name, self.role, self.tenant, limits, expires_at)


class Rotation(Strict):
    """How a key is rotated."""

    grace_seconds: Annotated[float, Field(ge=0, le=90 * 86_400)] = DEFAULT_GRACE_SECONDS


def read_key(body: object) -> NewKey:
    """Return the key that a JSON value asks for.

    Raises:
        KeyRequestError: It has another form.
    """
    return _validated(KeyRequest, body).wanted()


def read_rotation(body: object) -> Rotation:
    """Return the rotation that a JSON value asks for.

    Raises:
        KeyRequestError: It has another form.
    """
    return _validated(Rotation, body)


def _validated(model: type[T], body: object) -> T:
    if not isinstance(body, Mapping):
        raise KeyRequestError(f"the body is an object with {', '.join(model.model_fields)}")
    fields: dict[str, Any] = dict(body)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        complaint = next(iter(explain(error, model)))
        raise KeyRequestError(f"{path_text(complaint.path)}: {complaint.message}") from error
