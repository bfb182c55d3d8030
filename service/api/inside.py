"""How the server asks itself: in at the place where a request is that our middleware let in."""

from asyncio import timeout
from collections.abc import Mapping
from typing import Any

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.keys import Keys
from service.callers import PROBER

ANSWER_SECONDS = 60.0
"""How long an answer may take before it counts as failed."""


class Inside:
    """Asks an application within our middleware; the caller sets what the middleware would."""

    def __init__(self, app: ASGIApp, inner: ASGIApp, keys: Keys) -> None:
        """Ask ``inner``, which is ``app`` within our middleware."""
        self._app, self._inner, self._keys = app, inner, keys

    async def post(self, route: str, body: Mapping[str, Any], name: str) -> httpx.Response:
        """Return the answer to a request that ``name`` names.

        Raises:
            TimeoutError: There is none in ``ANSWER_SECONDS``.
            httpx.HTTPError: It broke off.
        """
        transport = httpx.ASGITransport(self._entered, raise_app_exceptions=False)
        async with (
            timeout(ANSWER_SECONDS),
            httpx.AsyncClient(transport=transport, base_url="http://inside") as client,
        ):
            return await client.post(route, json=dict(body), headers={"X-Request-Id": name})

    async def _entered(self, scope: Scope, receive: Receive, send: Send) -> None:
        admitted = self._keys.admitted(scope, PROBER)
        await self._inner({**admitted, "app": self._app}, receive, send)
