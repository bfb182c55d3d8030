"""The governor: takes changes from documents to rows on every rank, and leases out what is active.

An activation is compiled, then placed, then recorded, then published by moving one pointer. A
request selects from the snapshot that the pointer names and keeps it; what a change replaced stays
until its last request ends. Nothing is half-applied: a failure before the pointer moves frees what
was placed.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

from editing.delta import LowRankDelta
from forward.container import ArtifactError
from forward.fingerprint import ModelFingerprint
from forward.program import Program
from forward.tables import CapacityError
from service.activation import By
from service.artifacts import ArtifactLibrary
from service.assignment import with_fields
from service.bindings import Stacked
from service.callers import DIRECTORY
from service.catalog import Catalog, CatalogError, Changes, advance, check_post
from service.desired import Desired, Wanted, compile_desired, wanted_now
from service.digest import content_digest
from service.directory import DirectoryState
from service.documents import Document
from service.engine.door import DoorError
from service.engine.errors import MergeError, WeightsUnknownError
from service.engine.lease import Lease
from service.engine.slots import ActivationError, Slot, Slots
from service.errors import ServiceError
from service.library import Edited, Monitored
from service.monitor_views import uses_of
from service.prompting import UNREAD, Conditions, Prompting
from service.records import Key
from service.removal import (
    check_edit_removal,
    check_monitor_removal,
    check_policy,
    check_removal,
)
from service.selection import Selection, select
from service.store import Store
from service.watching import Watching
from steering.direction import DirectionError

REFUSED = (
    ServiceError,
    CapacityError,
    ArtifactError,
    DirectionError,
    ActivationError,
    MergeError,
    WeightsUnknownError,
    DoorError,
)
"""What a change can be refused with; anything else is a fault of ours."""

_NO_MERGER = "edit set '{}' is to be merged, and nothing here merges: write serve: side"


class Merger(Protocol):
    """Holds edits in the weights of all ranks."""

    def merging(self, deltas: Iterable[LowRankDelta]) -> AbstractAsyncContextManager[object]:
        """Hold exactly the sum of some changes; an error in the context takes that back."""
        ...


@dataclass(frozen=True, eq=False)
class ActiveSet:
    """One published state: the catalog and the slots of what it serves."""

    catalog: Catalog = field(default_factory=Catalog)
    operators: Mapping[Stacked, Slot] = field(default_factory=lambda: MappingProxyType({}))
    policies: Mapping[tuple[Stacked, str], Slot] = field(
        default_factory=lambda: MappingProxyType({})
    )
    monitors: Mapping[str, Monitored] = field(default_factory=lambda: MappingProxyType({}))
    watching: Watching | None = None
    edits: Mapping[str, Edited] = field(default_factory=lambda: MappingProxyType({}))
    merged: tuple[Edited, ...] = ()

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All of them, each once."""
        return tuple(
            {id(s): s for s in (*self.operators.values(), *self.policies.values())}.values()
        )


@dataclass(frozen=True, slots=True)
class Applied:
    """The outcome of a change; the generation is the catalog's."""

    catalog: Catalog
    changes: Changes


class Governor:
    """Owns what is active. One event loop; changes are serialised."""

    def __init__(
        self,
        slots: Slots,
        store: Store,
        library: ArtifactLibrary,
        model: ModelFingerprint,
        prompting: Prompting = UNREAD,
        merger: Merger | None = None,
    ) -> None:
        """Govern an engine's slots and weights; nothing is active until ``start``."""
        self._slots, self._store, self._library = slots, store, library
        self._merger = merger
        self.model, self.prompting = model, prompting
        self._active = ActiveSet()
        self._directory: DirectoryState | None = None
        self._fault: str | None = None
        self._lock = asyncio.Lock()

    @property
    def catalog(self) -> Catalog:
        """The snapshot that new requests select from."""
        return self._active.catalog

    @property
    def directory(self) -> DirectoryState | None:
        """The last state of the policy directory that was accepted."""
        return self._directory

    @property
    def monitors(self) -> Mapping[str, Monitored]:
        """The active monitors, compiled."""
        return self._active.monitors

    @property
    def edits(self) -> Mapping[str, Edited]:
        """The active edit sets, compiled."""
        return self._active.edits

    def beside(self, name: str) -> tuple[str, ...]:
        """Return the digests of the edits that act, or would act, with an edit set.

        What is merged, what mandatory policies edit, and what policies that name it edit too.
        """
        catalog = self.catalog
        mandatory = {p for b in catalog.bindings.all for stack in b.stacks for p in stack}
        policies = [catalog.policies[policy] for policy in sorted(mandatory)]
        policies += catalog.edited_by(name)
        names = {edited.name for edited in self._active.merged}
        names |= {edits for policy in policies for edits in policy.spec.edits}
        found = [self.edits[other] for other in sorted(names - {name}) if other in self.edits]
        return tuple(digest for edited in found for digest in edited.artifacts.values())

    @property
    def watching(self) -> Watching:
        """What the active policies watch."""
        return self._active.watching or Watching(Conditions(self.model, self.prompting))

    async def start(self, directory: DirectoryState | None) -> Applied:
        """Activate what the directory says and what was applied over the API before.

        Raises:
            ServiceError: As ``apply``; nothing is active then.
        """
        async with self._lock:
            self._directory = directory
            return await self._activate(await self._wanted(), By(DIRECTORY.label))

    async def apply(
        self, documents: Iterable[Document], *, actor: str, expected: int | None = None
    ) -> Applied:
        """Apply documents over the API; all of them or none.

        Args:
            documents: The documents.
            actor: Who does it, as ``Caller.label`` says it.
            expected: The generation that they are made for; None for any.

        Raises:
            ConflictError: It is another generation by now.
            OwnershipError: The directory owns one.
            CompileError: One cannot be served.
            CatalogError: The binding would name what is not there.
            CapacityError: The tables cannot hold it.
        """
        posted = list(documents)
        async with self._lock:
            for document in posted:
                check_post(self.catalog, document.key, self._file(document.key))
            return await self._activate(await self._wanted(posted), By(actor, "apply", expected))

    async def edit(
        self, name: str, fields: Mapping[str, Any], *, actor: str, expected: int | None = None
    ) -> Applied:
        """Change fields of a policy that was applied over the API; it keeps its artifacts.

        Args:
            name: The policy.
            fields: Values by path in its ``spec``, such as ``monitors.harm.mode``.
            actor: As ``apply``.
            expected: As ``apply``.

        Raises:
            ConflictError: As ``apply``.
            CatalogError: It is not there or is the directory's.
            AssignmentError, DocumentsError: A field cannot be changed so.
            CompileError, CapacityError: As ``apply``.
        """
        key: Key = ("Policy", name)
        async with self._lock:
            check_policy(self.catalog, name)
            check_post(self.catalog, key, self._file(key))
            number = self.catalog.policies[name].revision
            revision = await asyncio.to_thread(self._store.get, name, number)
            edited = with_fields(revision.document(), fields)
            wanted = await self._wanted(edited=[edited])
            return await self._activate(wanted, By(actor, "set", expected))

    async def remove(self, name: str, *, actor: str, expected: int | None = None) -> Applied:
        """Remove a policy that was applied over the API.

        Raises:
            ConflictError: As ``apply``.
            CatalogError: It is not there, is the directory's, or is bound.
        """
        async with self._lock:
            check_removal(self.catalog, name, self._file(("Policy", name)))
            return await self._without(("Policy", name), By(actor, "remove", expected))

    async def remove_monitor(
        self, name: str, *, actor: str, expected: int | None = None
    ) -> Applied:
        """Remove a monitor that was applied over the API.

        Raises:
            ConflictError: As ``apply``.
            CatalogError: It is not there, is the directory's, or a policy uses it.
        """
        async with self._lock:
            check_monitor_removal(self.catalog, name, self._file(("Monitor", name)))
            return await self._without(("Monitor", name), By(actor, "remove", expected))

    async def remove_edit(self, name: str, *, actor: str, expected: int | None = None) -> Applied:
        """Remove an edit set that was applied over the API.

        Raises:
            ConflictError: As ``apply``.
            CatalogError: It is not there, is the directory's, or a policy uses it.
        """
        async with self._lock:
            check_edit_removal(self.catalog, name, self._file(("EditSet", name)))
            return await self._without(("EditSet", name), By(actor, "remove", expected))

    async def reload(self, directory: DirectoryState) -> Applied:
        """Take over a new state of the directory; on refusal the last good one stays active.

        Raises:
            ServiceError: As ``apply``. The reason is in ``status`` until a state is accepted.
        """
        async with self._lock:
            previous, self._directory = self._directory, directory
            try:
                applied = await self._activate(await self._wanted(), By(DIRECTORY.label))
            except BaseException as error:
                self._fault, self._directory = str(error) or type(error).__name__, previous
                raise
            self._fault = None
            return applied

    def lease(self, selection: Selection) -> Lease:
        """Return the lease of a selection from the current snapshot; hold it at once."""
        active = self._active
        chosen, stack = selection.chosen, selection.stack
        return Lease(
            self._slots,
            active.operators.get(stack),
            active.policies[stack, chosen.name] if chosen is not None else None,
            selection.strength,
            tuple(policy.label for policy in selection.policies),
            selection_digest(selection, active.merged),
            active.watching.request(selection) if active.watching is not None else (),
        )

    def default_lease(self) -> Lease:
        """Return what a request that names nothing runs under."""
        return self.lease(select(self.catalog))

    def status(self) -> dict[str, Any]:
        """Return what is active, what fills the tables and what is wrong, as JSON values."""
        directory = self._directory
        errors = [problem.as_dict() for problem in directory.errors] if directory else []
        return {
            "model": {
                "fingerprint": self.model.digest,
                "family": self.model.family,
                "d_model": self.model.d_model,
                "n_layers": self.model.n_layers,
            },
            "generation": self.catalog.generation,
            "policies": {p.name: p.revision for p in self.catalog.policies.values()},
            "monitors": {
                name: uses_of(self.catalog, self.watching, name) for name in self.monitors
            },
            "edits": {name: edited.digest for name, edited in self.edits.items()},
            "merged": [edited.name for edited in self._active.merged],
            "directory": {
                "path": str(directory.folder) if directory else None,
                "errors": errors,
                "refused": self._fault,
            },
            "capacity": {"used": self._slots.used, "draining": self._slots.draining},
        }

    def _file(self, key: Key) -> str | None:
        """Return the file in which the directory has a document, if it has it."""
        documents = self._directory.documents if self._directory is not None else ()
        return next((d.source for d in documents if d.key == key), None)

    async def _without(self, key: Key, by: By) -> Applied:
        items = await self._wanted()
        return await self._activate([w for w in items if w.document.key != key], by)

    async def _wanted(
        self, posted: Sequence[Document] = (), edited: Sequence[Document] = ()
    ) -> list[Wanted]:
        return await asyncio.to_thread(
            wanted_now, self._store, self._library, self._directory, posted, edited
        )

    async def _activate(self, items: list[Wanted], by: By) -> Applied:
        await asyncio.to_thread(self._store.check_generation, by.expected)
        desired = await asyncio.to_thread(
            compile_desired, items, self._library, self.model, self.prompting
        )
        old, placed = self._active, list[Slot]()
        try:
            operators, policies = await self._place_all(desired, old.slots, placed)
            async with self._merging(desired.merged):
                catalog, changes = await asyncio.to_thread(self._record, desired, old.catalog, by)
                self._active = ActiveSet(
                    catalog,
                    MappingProxyType(operators),
                    MappingProxyType(policies),
                    desired.monitors,
                    Watching(Conditions(self.model, self.prompting), desired),
                    desired.edits,
                    desired.merged,
                )
        except BaseException:
            self._active = old
            for slot in placed:
                self._slots.retire(slot)
            raise
        kept = set(map(id, self._active.slots))
        for slot in old.slots:
            if id(slot) not in kept:
                self._slots.retire(slot)
        return Applied(catalog, changes)

    @asynccontextmanager
    async def _merging(self, edits: tuple[Edited, ...]) -> AsyncGenerator[None]:
        """Hold these edits in the weights; nothing is published before they are there."""
        deltas = [edited.edit.delta for edited in edits]
        held = [edited.edit.delta.digest for edited in self._active.merged]
        if [delta.digest for delta in deltas] == held:
            yield
            return
        if self._merger is None:
            raise CatalogError(_NO_MERGER.format(edits[0].name), 409, "not_merged")
        async with self._merger.merging(deltas):
            yield

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

    def _record(self, desired: Desired, catalog: Catalog, by: By) -> tuple[Catalog, Changes]:
        revisions = [self._store.record(p.document, p.artifacts, p.owner) for p in desired.planned]
        advanced, changes = advance(catalog, revisions)
        gone = {r.key for r in self._store.all_active()} - {r.key for r in revisions}
        generation = self._store.activate(by, revisions, gone)
        return replace(advanced, generation=generation.number), changes


def selection_digest(selection: Selection, merged: Sequence[Edited] = ()) -> str:
    """Return the identity of what a request runs under.

    Content of the policies, strength, and what is merged into the weights.
    """
    chosen = selection.chosen
    content: dict[str, Any] = {
        "mandatory": [[p.digest, dict(p.artifacts)] for p in selection.mandatory],
        "chosen": [chosen.digest, dict(chosen.artifacts)] if chosen is not None else None,
        "strength": selection.strength if chosen is not None else None,
    }
    if merged:
        content["merged"] = sorted(edited.digest for edited in merged)
    return content_digest(content)
