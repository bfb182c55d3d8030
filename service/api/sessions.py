"""Sessions over HTTP: a key is sent once, and a cookie that scripts cannot read stands for it."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.cookies import clear_cookie, cookie_of, set_cookie
from service.api.errors import HttpError
from service.api.keys import Keys, bearer, caller_of

NO_STORE = {"cache-control": "no-store"}


class SessionRoutes:
    """Handlers."""

    def __init__(self, keys: Keys) -> None:
        """Begin sessions of ``keys``."""
        self._keys = keys

    async def show(self, request: Request) -> Response:
        """Say who asks, by a session or by a key."""
        return self._who(request)

    async def begin(self, request: Request) -> Response:
        """Begin a session of the key that the request carries."""
        if bearer(request.headers) is None:
            message = "a session is begun with a key: Authorization: Bearer <key>"
            raise HttpError(401, "missing_key", message)
        caller = caller_of(request.scope)
        secret = await asyncio.to_thread(self._keys.sessions.begin, caller.key)
        response = self._who(request)
        set_cookie(response, request.scope, secret)
        return response

    async def end(self, request: Request) -> Response:
        """End the session of the request's cookie."""
        if (secret := cookie_of(request.headers)) is not None:
            await asyncio.to_thread(self._keys.sessions.end, secret)
        response = Response(status_code=204, headers=NO_STORE)
        clear_cookie(response)
        return response

    def _who(self, request: Request) -> JSONResponse:
        caller = caller_of(request.scope)
        shown = {
            "name": caller.name,
            "key": caller.key or None,
            "role": caller.role,
            "tenant": caller.tenant,
        }
        return JSONResponse(shown, headers=NO_STORE)
