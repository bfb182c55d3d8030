"""``GET openapi.json``: the description of the routes that are served."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.openapi.build import Schema, describe


class DescriptionRoutes:
    """The handler; what it says is made once."""

    def __init__(self) -> None:
        """Make nothing yet: it takes a while, and few ask."""
        self._made: Schema | None = None

    async def all(self, request: Request) -> Response:
        """Describe these routes to programs, as OpenAPI 3.1."""
        if self._made is None:
            self._made = describe(request.app.routes)
        return JSONResponse(self._made)
