"""Slots: rows of the tables held by active programs, kept until their last request ends.

A slot belongs to an active program, not to a request: how many are needed depends on how many
policies are active. Activation books rows, writes them on every rank and only then hands out the
slot; retirement frees rows when the last request that holds the slot lets go. One event loop owns
the slots, so no lock guards them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from forward.allocation import Placement
from forward.program import Program
from service.engine.books import ActivationError, Books


@dataclass(eq=False)
class Slot:
    """A placed program and how many hold it; ``is_retired`` means no new request may."""

    placement: Placement
    users: int = 0
    is_retired: bool = False


class Slots:
    """All slots that one process has of an engine."""

    def __init__(self, books: Books) -> None:
        """Keep slots on the engine's books."""
        self._books = books
        self._live: list[Slot] = []

    @property
    def used(self) -> dict[str, int]:
        """Indices in use by table name."""
        return self._books.used

    @property
    def size(self) -> dict[str, int]:
        """Indices there are by table name."""
        return self._books.size

    async def check_all(self, programs: Iterable[Program]) -> None:
        """Refuse programs that cannot all be placed beside what is held now; nothing is written.

        Raises:
            CapacityError, ActivationError: As ``place``.
        """
        await self._books.check_all(programs)

    @property
    def draining(self) -> int:
        """Retired slots that some request still holds."""
        return sum(slot.is_retired for slot in self._live)

    async def place(self, program: Program) -> Slot:
        """Book a program, write its rows on every rank and return its slot.

        Raises:
            CapacityError: It does not fit; nothing was written.
            ActivationError: The ranks' tables differ afterwards, or nobody keeps the books.
        """
        slot = Slot(await self._books.place(program))
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
            self._books.release(slot.placement.program)
