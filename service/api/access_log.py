"""The line that each request leaves in a log of JSON objects: who asked what, and how it went.

It stands outside all else, so that what is refused has its line too, and every line that is written
while a request is handled names it. Nothing of what was said is in it, and no query.
"""

import logging
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.access import route_path
from service.api.identity import request_of, with_request
from service.handling import HANDLING, Handling
from service.json_log import ACCESS, FIELDS

MAX_ROUTE = 200
"""Characters kept of a path."""

_log = logging.getLogger(ACCESS)


class AccessLog:
    """An application that writes a line for each request."""

    def __init__(self, app: ASGIApp, unlogged: Iterable[str] = ()) -> None:
        """Write for ``app``; requests to the paths ``unlogged`` get no line unless they fail."""
        self._app, self._unlogged = app, frozenset(unlogged)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and write its line once it is over."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = with_request(scope)
        started, answer = time.monotonic(), _Answer(send)
        handling = Handling(request_of(scope))
        token = HANDLING.set(handling)
        try:
            await self._app(scope, receive, answer)
        finally:
            self._write(scope, handling, answer, time.monotonic() - started)
            handling.is_over = True
            HANDLING.reset(token)

    def _write(self, scope: Scope, handling: Handling, answer: "_Answer", seconds: float) -> None:
        route = route_path(scope)
        if route in self._unlogged and (answer.status or 500) < 400:
            return
        client = scope.get("client")
        fields = {
            "method": scope["method"],
            "route": route[:MAX_ROUTE],
            "status": answer.status,
            "seconds": round(seconds, 3),
            "client": client[0] if client else None,
            **_tokens(handling),
        }
        said = f"{fields['method']} {fields['route']} {answer.status or 'unanswered'}"
        _log.info("%s", said, extra={FIELDS: fields})


def _tokens(handling: Handling) -> dict[str, int]:
    if handling.tokens is None:
        return {}
    prompt, generated = handling.tokens
    return {"prompt_tokens": prompt, "generated_tokens": generated}


class _Answer:
    """A ``send`` that keeps the status; None until the answer begins."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
        await self._send(message)
