"""The door that requests come in by: shut, it lets nobody in and waits until all have left.

vLLM's own pause does not do alone. While it waits, a request that has been preempted counts as a
new one: it stays queued, the pause is over, and the rest of its answer comes from other weights.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass


class DoorError(RuntimeError):
    """Nobody may come in, or those inside did not leave in time."""


@dataclass(eq=False)
class _Visit:
    is_live: bool = True


_VISIT: ContextVar[_Visit | None] = ContextVar("trimtab_visit", default=None)


class Door:
    """Counts who is inside. One event loop owns it."""

    def __init__(self) -> None:
        """Make an open door with nobody inside."""
        self._inside = 0
        self._opened, self._empty = asyncio.Event(), asyncio.Event()
        self._opened.set()
        self._empty.set()
        self._reason: str | None = None

    @property
    def inside(self) -> int:
        """How many have come in and not left."""
        return self._inside

    @property
    def reason(self) -> str | None:
        """Why it is closed for good; None if it is not."""
        return self._reason

    @property
    def is_closed(self) -> bool:
        """Whether it is closed for good."""
        return self._reason is not None

    @asynccontextmanager
    async def passage(self) -> AsyncGenerator[None]:
        """Come in and leave at the end; a shut door is waited for, unless on a visit already.

        Raises:
            DoorError: The door is closed for good.
        """
        visit = _VISIT.get()
        while not self._opened.is_set() and (visit is None or not visit.is_live):
            await self._opened.wait()
        if self._reason is not None:
            raise DoorError(self._reason)
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def visit(self) -> AsyncGenerator[None]:
        """Come in with all that this context starts: what is chosen here holds for all of it.

        Whoever chooses a policy and then generates does both in one visit. A passage inside it
        need not wait at a door that is shut because of the visit.

        Raises:
            DoorError: The door is closed for good.
        """
        async with self.passage():
            visit = _Visit()
            token = _VISIT.set(visit)
            try:
                yield
            finally:
                visit.is_live = False
                _VISIT.reset(token)

    @asynccontextmanager
    async def shut(self, seconds: float) -> AsyncGenerator[None]:
        """Keep the door shut while the context lasts; it begins when nobody is inside.

        Raises:
            DoorError: Somebody was still inside after ``seconds``.
        """
        self._opened.clear()
        try:
            try:
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
            except TimeoutError as error:
                raise DoorError(
                    f"{self._inside} requests were still being answered after {seconds:g} s, and "
                    "an answer has one revision, first token to last; nothing was changed: try "
                    "again when fewer long answers run"
                ) from error
            yield
        finally:
            self._opened.set()

    def close_for_good(self, reason: str) -> None:
        """Let nobody in again: ``reason`` is what they are told."""
        self._reason = reason
