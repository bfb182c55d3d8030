"""The books of an engine's tables, and the way what is booked reaches every rank.

One process owns them, since two could book one row. Where an engine has several API processes the
others ask the owner (``service.engine.book_client``, ``service.engine.book_keeper``); whoever asks
has a program placed before a request under it is stamped, and says when none is left.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from forward.allocation import Allocator, Placement
from forward.program import Program
from service.engine.wire import TableUpdate, table_digest

Write = Callable[[TableUpdate], Awaitable[Sequence[str]]]
"""Writes an update on all ranks and returns the table digest of each."""


class ActivationError(RuntimeError):
    """What was to be placed is not, or ranks disagree on it; nothing may be served on it."""


class Books(Protocol):
    """What ``Slots`` keep their slots on."""

    @property
    def used(self) -> dict[str, int]:
        """Indices in use by table name."""
        ...

    @property
    def size(self) -> dict[str, int]:
        """Indices there are by table name."""
        ...

    async def check_all(self, programs: Iterable[Program]) -> None:
        """Refuse programs that cannot all be placed beside what is; the books stay as they are.

        Raises:
            CapacityError: As ``place``.
        """
        ...

    async def place(self, program: Program) -> Placement:
        """Book a program and have its rows on every rank; what is there by content is shared.

        Raises:
            CapacityError: It does not fit; nothing was written.
            ActivationError: The ranks' tables differ afterwards, or nobody keeps the books.
        """
        ...

    def release(self, program: Program) -> None:
        """Take a placed program off the books, once for each time it was placed."""
        ...


class OwnBooks:
    """The books themselves. One event loop owns them; writing is serialised."""

    def __init__(self, allocator: Allocator, write: Write) -> None:
        """Keep books on ``allocator``; ``write`` reaches every rank."""
        self._allocator, self._write = allocator, write
        self._lock = asyncio.Lock()
        self._rows: dict[int, str] = {}
        self._reads: dict[int, str] = {}
        self.on_change: Callable[[], None] = lambda: None

    @property
    def used(self) -> dict[str, int]:
        """Indices in use by table name."""
        return self._allocator.used

    @property
    def size(self) -> dict[str, int]:
        """Indices there are by table name."""
        return self._allocator.size

    async def check_all(self, programs: Iterable[Program]) -> None:
        """Refuse programs that cannot all be placed; see ``Books``."""
        self._allocator.check_all(programs)

    async def place(self, program: Program) -> Placement:
        """Book a program and write its rows on every rank; see ``Books``."""
        async with self._lock:
            placement = self._allocator.place(program)
            try:
                await self._write_rows(placement)
            except BaseException:
                self._allocator.release(program)
                raise
            finally:
                self.on_change()
        return placement

    def release(self, program: Program) -> None:
        """Take a placed program off the books; see ``Books``."""
        self._allocator.release(program)
        self.on_change()

    async def _write_rows(self, placement: Placement) -> None:
        if not placement.patches:
            return
        contents = zip(placement.rows, placement.program.contents, strict=True)
        new = {row: content.digest for row, content in contents if row}
        reads = {column: read for (_, read), column in placement.columns.items()}
        self._rows.update(new)
        self._reads.update(reads)
        update = TableUpdate(placement.patches, new, placement.gates, reads)
        digests = await self._write(update)
        expected = table_digest(self._rows, self._reads)
        if set(digests) != {expected}:
            raise ActivationError(
                f"after writing rows {sorted(new)} the ranks report table digests "
                f"{sorted(set(digests))}, expected {expected}: the tables are not what was applied"
            )
