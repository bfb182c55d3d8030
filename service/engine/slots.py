"""Slots: rows of the tables held by active programs, kept until their last request ends.

A slot belongs to an active program, not to a request: how many are needed depends on how many
policies are active. Activation books rows, writes them on every rank and only then hands out the
slot; retirement frees rows when the last request that holds the slot lets go. One event loop owns
the books, so no lock guards them; ``place`` and writing are serialised by a lock of their own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from forward.allocation import Allocator, Placement
from forward.program import Program
from service.engine.wire import TableUpdate, table_digest

Write = Callable[[TableUpdate], Awaitable[Sequence[str]]]
"""Writes an update on all ranks and returns the table digest of each."""


class ActivationError(RuntimeError):
    """Ranks disagree on what their tables hold; nothing may be served on them."""


@dataclass(eq=False)
class Slot:
    """A placed program and how many hold it; ``is_retired`` means no new request may."""

    placement: Placement
    users: int = 0
    is_retired: bool = False


class Slots:
    """All slots of one engine."""

    def __init__(self, allocator: Allocator, write: Write) -> None:
        """Keep slots on ``allocator``'s books; ``write`` reaches every rank."""
        self._allocator, self._write = allocator, write
        self._lock = asyncio.Lock()
        self._rows: dict[int, str] = {}
        self._reads: dict[int, str] = {}
        self._live: list[Slot] = []

    @property
    def used(self) -> dict[str, int]:
        """Indices in use by table name."""
        return self._allocator.used

    @property
    def size(self) -> dict[str, int]:
        """Indices there are by table name."""
        return self._allocator.size

    def check_all(self, programs: Iterable[Program]) -> None:
        """Refuse programs that cannot all be placed beside what is held now; nothing is written.

        Raises:
            CapacityError: As ``place``.
        """
        self._allocator.check_all(programs)

    @property
    def draining(self) -> int:
        """Retired slots that some request still holds."""
        return sum(slot.is_retired for slot in self._live)

    async def place(self, program: Program) -> Slot:
        """Book a program, write its rows on every rank and return its slot.

        Raises:
            CapacityError: It does not fit; nothing was written.
            ActivationError: The ranks' tables differ afterwards.
        """
        async with self._lock:
            placement = self._allocator.place(program)
            try:
                await self._write_rows(placement)
            except BaseException:
                self._allocator.release(program)
                raise
        slot = Slot(placement)
        self._live.append(slot)
        return slot

    def acquire(self, slot: Slot) -> None:
        """Count one more holder of a slot that is not gone."""
        if slot.is_retired and not slot.users:
            raise ActivationError("a slot was asked for after its rows were freed")
        slot.users += 1

    def release(self, slot: Slot) -> None:
        """Count one holder less."""
        slot.users -= 1
        self._free_if_unused(slot)

    def retire(self, slot: Slot) -> None:
        """Let no new request have the slot; its rows stay until the last one ends."""
        if not slot.is_retired:
            slot.is_retired = True
            self._free_if_unused(slot)

    def _free_if_unused(self, slot: Slot) -> None:
        if slot.is_retired and not slot.users:
            self._live.remove(slot)
            self._allocator.release(slot.placement.program)

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
