"""What is active, and how it is exchanged: placed, merged, recorded, then published.

Nothing is half-applied: a failure before the pointer moves frees what was placed. What a change
replaced stays until its last request ends.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from editing.delta import LowRankDelta
from forward.program import Program
from service.active_set import ActiveSet
from service.bindings import Stacked
from service.catalog import Catalog, CatalogError, Changes
from service.desired import Desired
from service.engine.lease import Lease
from service.engine.slots import Slot, Slots
from service.library import Edited
from service.planner import new_programs
from service.prompting import Conditions
from service.selection import Selection
from service.watching import Watching

_NO_MERGER = "edit set '{}' is to be merged, and nothing here merges: write serve: side"


class Merger(Protocol):
    """Holds edits in the weights of all ranks."""

    def merging(self, deltas: Iterable[LowRankDelta]) -> AbstractAsyncContextManager[object]:
        """Hold exactly the sum of some changes; an error in the context takes that back."""
        ...


@dataclass(frozen=True, slots=True)
class Applied:
    """The outcome of a change; the generation is the catalog's."""

    catalog: Catalog
    changes: Changes


Record = Callable[[], Applied]
"""Makes what was compiled last, and returns its snapshot. Blocking."""


class Publisher:
    """Owns the pointer to what is active. One event loop; whoever publishes excludes others."""

    def __init__(self, slots: Slots, conditions: Conditions, merger: Merger | None) -> None:
        """Publish to an engine's slots and weights; nothing is active yet."""
        self._slots, self._conditions, self._merger = slots, conditions, merger
        self.active = ActiveSet()

    @property
    def watching(self) -> Watching:
        """What the active policies watch."""
        return self.active.watching or Watching(self._conditions)

    @property
    def used(self) -> dict[str, int]:
        """Table indices in use."""
        return self._slots.used

    @property
    def size(self) -> dict[str, int]:
        """Table indices there are."""
        return self._slots.size

    @property
    def draining(self) -> int:
        """Replaced slots that some request still holds."""
        return self._slots.draining

    def lease(self, selection: Selection) -> Lease:
        """Return the lease of a selection from the current snapshot; hold it at once."""
        return self.active.lease(self._slots, selection)

    def unsteered(self, tenant: str) -> Lease:
        """Return a lease of no policy at all; see ``ActiveSet.unsteered``."""
        return self.active.unsteered(self._slots, tenant)

    def show(self, catalog: Catalog) -> None:
        """Publish a snapshot under which the same programs are active."""
        self.active = replace(self.active, catalog=catalog)

    async def check(self, desired: Desired) -> None:
        """Refuse what cannot be published; nothing is changed.

        Raises:
            CapacityError: The tables cannot hold it beside what is held now.
            CatalogError: It merges edits, and nothing here merges.
        """
        await self._slots.check_all(new_programs(self.active, desired))
        self._merger_of(desired.merged)

    async def publish(self, desired: Desired, record: Record) -> Applied:
        """Place and record what was compiled, and move the pointer to it.

        Raises:
            CapacityError, ActivationError, MergeError: It cannot be; what was active stays so.
        """
        old, placed = self.active, list[Slot]()
        try:
            operators, policies = await self._place_all(desired, old.slots, placed)
            async with self._merging(desired.merged):
                applied = await asyncio.to_thread(record)
                self.active = ActiveSet(
                    applied.catalog,
                    MappingProxyType(operators),
                    MappingProxyType(policies),
                    desired.monitors,
                    Watching(self._conditions, desired),
                    desired.edits,
                    desired.merged,
                )
        except BaseException:
            self.active = old
            for slot in placed:
                self._slots.retire(slot)
            raise
        kept = set(map(id, self.active.slots))
        for slot in old.slots:
            if id(slot) not in kept:
                self._slots.retire(slot)
        return applied

    @asynccontextmanager
    async def _merging(self, edits: tuple[Edited, ...]) -> AsyncGenerator[None]:
        """Hold these edits in the weights; nothing is published before they are there."""
        merger = self._merger_of(edits)
        if merger is None:
            yield
            return
        async with merger.merging([edited.edit.delta for edited in edits]):
            yield

    def _merger_of(self, edits: tuple[Edited, ...]) -> Merger | None:
        """Return what is to merge edits; None if the weights hold just these already.

        Raises:
            CatalogError: Nothing here merges.
        """
        digests, held = (
            [edited.edit.delta.digest for edited in found] for found in (edits, self.active.merged)
        )
        if digests == held:
            return None
        if self._merger is None:
            raise CatalogError(_NO_MERGER.format(edits[0].name), 409, "not_merged")
        return self._merger

    async def _place_all(
        self, desired: Desired, old: Iterable[Slot], placed: list[Slot]
    ) -> tuple[dict[Stacked, Slot], dict[tuple[Stacked, str], Slot]]:
        """Return the slots of every program; what is held already, by content, is not placed."""
        slots = {slot.placement.program.digest: slot for slot in old}
        operators: dict[Stacked, Slot] = {}
        policies: dict[tuple[Stacked, str], Slot] = {}
        for stack, bound in desired.bound.items():
            operators[stack] = await self._place(bound.operator, slots, placed)
            for name, program in bound.policies.items():
                policies[stack, name] = await self._place(program, slots, placed)
        return operators, policies

    async def _place(self, program: Program, slots: dict[str, Slot], placed: list[Slot]) -> Slot:
        """Return the slot that holds just this program, placing it if none does."""
        if program.digest not in slots:
            slots[program.digest] = await self._slots.place(program)
            placed.append(slots[program.digest])
        return slots[program.digest]
