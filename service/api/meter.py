"""Holds a request to the limits of its key: rate, requests at once, body, time."""

import asyncio
import json
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from service.api.body import too_large
from service.api.errors import HttpError, Shape, error_body
from service.api.keys import caller_of
from service.limits import Limiter

Handler = Callable[[Scope, Receive, Send], Awaitable[None]]
ENDING_SECONDS = 2.0
"""How long a request that is over its time may take to end by itself."""


class Meter:
    """Runs handlers within the limits of who asks."""

    def __init__(self, limiter: Limiter) -> None:
        """Count with ``limiter``."""
        self._limiter = limiter

    async def run(
        self,
        handler: Handler,
        scope: Scope,
        receive: Receive,
        send: Send,
        shape: Shape,
        is_timed: bool,
    ) -> None:
        """Run a handler.

        Args:
            handler: What answers.
            scope: With who asks.
            receive: As in ASGI.
            send: As in ASGI.
            shape: Of errors on this route.
            is_timed: Whether the time counts: a change of policies is not cut off half-way.

        Raises:
            LimitError: It is one request too many.
            HttpError: 413, the body is too large; 408 or 504, the time is over and nothing is sent.
        """
        caller = caller_of(scope)
        limits = caller.limits
        with self._limiter.admit(caller.key, limits):
            if limits.max_body_bytes is not None:
                receive = within(limits.max_body_bytes, Headers(scope=scope), receive)
            if limits.max_seconds is None or not is_timed:
                await handler(scope, receive, send)
            else:
                timed = Timed(limits.max_seconds, receive, send, shape)
                await timed.run(handler, scope)


def within(limit: int, headers: Headers, receive: Receive) -> Receive:
    """Return a ``receive`` that refuses a body of more than ``limit`` bytes.

    Raises:
        HttpError: 413, the body says so itself.
    """
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large(limit)
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise too_large(limit)
        return message

    return counted


class Timed:
    """One request with an end: to its handler, the client is gone then."""

    def __init__(self, seconds: float, receive: Receive, send: Send, shape: Shape) -> None:
        """Give a request so many seconds."""
        self._seconds, self._receive, self._send = seconds, receive, send
        self._shape: Shape = shape
        self._over = asyncio.Event()
        self._is_read = self._is_started = self._is_stream = self._is_done = False

    async def run(self, handler: Handler, scope: Scope) -> None:
        """Run the handler; when the time is over, end it and say so.

        Raises:
            HttpError: 408 or 504, the time is over and nothing was sent.
        """
        work = asyncio.ensure_future(handler(scope, self._incoming, self._outgoing))
        try:
            await asyncio.wait({work}, timeout=self._seconds)
            if work.done() or self._is_done:
                await work
                return
            self._over.set()
            # Whatever it ends with now, the client hears that its time is over.
            ending = asyncio.gather(work, return_exceptions=True)
            await asyncio.wait({ending}, timeout=ENDING_SECONDS)
        finally:
            work.cancel()
        await self._say_so()

    async def _incoming(self) -> Message:
        coming = asyncio.ensure_future(self._receive())
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait({coming, over}, return_when=asyncio.FIRST_COMPLETED)
            if self._over.is_set():
                return {"type": "http.disconnect"}
            message = coming.result()
            self._is_read = self._is_read or not message.get("more_body", False)
            return message
        finally:
            coming.cancel()
            over.cancel()

    async def _outgoing(self, message: Message) -> None:
        if self._over.is_set():
            return
        if message["type"] == "http.response.start":
            self._is_started = True
            kind = Headers(raw=list(message.get("headers", ()))).get("content-type", "")
            self._is_stream = kind.startswith("text/event-stream")
        elif message["type"] == "http.response.body":
            self._is_done = not message.get("more_body", False)
        await self._send(message)

    async def _say_so(self) -> None:
        """Refuse, or end a stream with an error; another answer that has begun breaks off."""
        refused = self._refusal()
        if not self._is_started:
            raise refused
        if self._is_stream:
            event = json.dumps(error_body(refused, self._shape))
            name = "event: error\n" if self._shape == "anthropic" else ""
            text = f"\n\n{name}data: {event}\n\n".encode()
            await self._send({"type": "http.response.body", "body": text, "more_body": False})

    def _refusal(self) -> HttpError:
        status = 504 if self._is_read else 408
        message = f"the request took longer than the {self._seconds:g} s that its key allows"
        return HttpError(status, "time_limit", message)
