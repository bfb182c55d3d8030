"""The end of a server: what has begun is finished, and nothing new is begun."""

import asyncio
import math
import time
from collections.abc import Generator
from contextlib import contextmanager

from service.api.errors import HttpError


class Drain:
    """Counts requests under way, and refuses new ones once it has begun. One event loop."""

    def __init__(self) -> None:
        """Let everybody in."""
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._until: float | None = None

    @property
    def inside(self) -> int:
        """How many requests are under way."""
        return self._inside

    @property
    def reason(self) -> str | None:
        """Why nothing new is begun; None if it is."""
        if self._until is None:
            return None
        return "the server is ending: it finishes what it has begun"

    def begin(self, seconds: float) -> None:
        """Let nobody in from now on; what is under way has so many seconds."""
        self._until = time.monotonic() + seconds

    async def emptied(self) -> bool:
        """Wait until nothing is under way, at most until the time is over; say which it was."""
        left = (self._until or 0.0) - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                await self._empty.wait()
        except TimeoutError:
            return not self._inside
        return True

    @contextmanager
    def request(self) -> Generator[None]:
        """Be under way.

        Raises:
            HttpError: 503, the server is ending; ``Retry-After`` says when it has.
        """
        if self._until is not None:
            left = max(1, math.ceil(self._until - time.monotonic()))
            message = f"{self.reason}; ask again, or ask another server"
            raise HttpError(503, "draining", message, headers={"Retry-After": str(left)})
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()
