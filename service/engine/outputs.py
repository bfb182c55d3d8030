"""An engine's stream of outputs that can be waited for together with scores."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from vllm.outputs import RequestOutput


class Outputs:
    """An engine's stream that can be waited for together with scores."""

    def __init__(
        self,
        stream: AsyncGenerator[RequestOutput, None],
        first: RequestOutput | None,
        changed: asyncio.Event,
    ) -> None:
        """Give ``first`` first; ``changed`` is set when an output or a score is there."""
        self._stream, self._changed = stream, changed
        self._first = first
        self._pending: asyncio.Future[RequestOutput | None] | None = None
        self.has_ended = first is None

    async def next(self, timeout: float | None, heeds: bool = True) -> RequestOutput | None:
        """Return an output, or None when something else may have changed or the time is up.

        Args:
            timeout: Seconds to wait at most.
            heeds: Whether a score ends the waiting too; if not, the next output does. It comes
                with the score's own step, so looking at both then saves a turn for each token.
        """
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if not heeds and timeout is None and self._pending is None:
            output = await anext(self._stream, None)
            self.has_ended = output is None
            return output
        self._ask()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        self._changed.clear()
        return self._take()

    def _ask(self) -> None:
        if self._pending is None and not self.has_ended:
            self._pending = asyncio.ensure_future(anext(self._stream, None))
            self._pending.add_done_callback(lambda _: self._changed.set())

    def _take(self) -> RequestOutput | None:
        if self._pending is None or not self._pending.done():
            return None
        pending, self._pending = self._pending, None
        output = pending.result()
        self.has_ended = output is None
        return output

    async def close(self) -> None:
        """End the stream: the engine aborts what it still makes for it."""
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.wait([self._pending])
            if not self._pending.cancelled():
                self._pending.exception()  # looked at: nobody waits for it
        await self._stream.aclose()
