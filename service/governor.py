"""The governor: takes changes from documents to rows on every rank, and leases out what is active.

An activation is compiled, then placed, then recorded, then published by moving one pointer. A
request selects from the snapshot that the pointer names and keeps it; what a change replaced stays
until its last request ends. Nothing is half-applied: a failure before the pointer moves frees what
was placed.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

from editing.delta import LowRankDelta
from forward.container import ArtifactError
from forward.fingerprint import ModelFingerprint
from forward.program import Program
from forward.tables import CapacityError
from service.activation import By
from service.active_set import ActiveSet
from service.artifacts import ArtifactLibrary
from service.assignment import with_fields
from service.bindings import Stacked
from service.callers import DIRECTORY
from service.catalog import (
    Catalog,
    CatalogError,
    Changes,
    advance,
    check_post,
    running_canary,
    with_halt,
)
from service.desired import Desired, Wanted, compile_desired, wanted_now
from service.directory import DirectoryState
from service.documents import Document
from service.engine.door import DoorError
from service.engine.errors import MergeError, WeightsUnknownError
from service.engine.lease import Lease
from service.engine.slots import ActivationError, Slot, Slots
from service.errors import ServiceError
from service.library import Edited, Monitored
from service.monitor_views import uses_of
from service.plan import Plan
from service.planner import make_plan, new_programs
from service.prompting import UNREAD, Conditions, Prompting
from service.records import Key, Revision
from service.removal import check_binding, check_policy, check_removal
from service.rollback import earlier
from service.schemas import Kind
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

    @property
    def merged(self) -> tuple[str, ...]:
        """The edits in the weights: each one's name, and the start of its digest."""
        return tuple(f"{edited.name}@{edited.digest[:12]}" for edited in self._active.merged)

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

    async def plan(self, documents: Iterable[Document]) -> Plan:
        """Return what applying documents would do, and why it would be refused if it would.

        Raises:
            ArtifactError, StoreError: As ``apply``, where that leaves nothing to plan with.
        """
        given = list(documents)
        async with self._lock:
            wanted = await self._wanted(given)
            desired, refusal = await self._tried(given, wanted)
            tables = (self._slots.size, self._slots.used)
            return await asyncio.to_thread(
                make_plan, self._store, self._active, given, wanted, desired, tables, refusal
            )

    async def rollback(
        self, name: str, number: int | None, *, actor: str, expected: int | None = None
    ) -> Applied:
        """Make an earlier revision of a policy a new one, with the artifacts that it meant.

        Args:
            name: The policy.
            number: The revision; None for the one before the active one, or the last one of a
                policy that was removed.
            actor: As ``apply``.
            expected: As ``apply``.

        Raises:
            ConflictError: As ``apply``.
            RevisionNotFoundError: It was never recorded.
            CatalogError: The policy is the directory's.
            CompileError, CapacityError: As ``apply``.
        """
        key: Key = ("Policy", name)
        async with self._lock:
            check_post(self.catalog, key, self._file(key))
            now = self.catalog.policies.get(name)
            found = await asyncio.to_thread(
                earlier, self._store, name, now.revision if now is not None else None, number
            )
            wanted = await self._wanted(restored=[found])
            return await self._activate(wanted, By(actor, "rollback", expected))

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

    async def remove(
        self, kind: Kind, name: str, *, actor: str, expected: int | None = None
    ) -> Applied:
        """Remove a document that was applied over the API.

        Raises:
            ConflictError: As ``apply``.
            CatalogError: It is not there, is the directory's, or something uses it.
        """
        async with self._lock:
            check_removal(self.catalog, (kind, name), self._file((kind, name)))
            items = await self._wanted()
            left = [w for w in items if w.document.key != (kind, name)]
            return await self._activate(left, By(actor, "remove", expected))

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

    async def halt(self, name: str, reason: str, *, actor: str) -> Catalog:
        """End the canary of a binding for good: another one has to be declared.

        Args:
            name: The binding.
            reason: Why, in words.
            actor: As ``apply``.

        Raises:
            CatalogError: There is no such binding, or it has no canary that runs.
        """
        async with self._lock:
            check_binding(self.catalog, name)
            digest = running_canary(self.catalog, name)
            ended = self._store.halts().end
            generation = await asyncio.to_thread(ended, digest, name, reason, actor)
            catalog = with_halt(self.catalog, name, reason, generation.number)
            self._active = replace(self._active, catalog=catalog)
            return catalog

    def lease(self, selection: Selection) -> Lease:
        """Return the lease of a selection from the current snapshot; hold it at once."""
        return self._active.lease(self._slots, selection)

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

    async def _wanted(
        self,
        posted: Sequence[Document] = (),
        edited: Sequence[Document] = (),
        restored: Sequence[Revision] = (),
    ) -> list[Wanted]:
        return await asyncio.to_thread(
            wanted_now, self._store, self._library, self._directory, posted, edited, restored
        )

    async def _tried(
        self, given: Iterable[Document], wanted: list[Wanted]
    ) -> tuple[Desired | None, Exception | None]:
        """Return what would be active, as far as it compiles, and why that would be refused."""
        desired: Desired | None = None
        try:
            for document in given:
                check_post(self.catalog, document.key, self._file(document.key))
            desired = await asyncio.to_thread(
                compile_desired, wanted, self._library, self.model, self.prompting
            )
            self._slots.check_all(new_programs(self._active, desired))
            self._check_merging(desired.merged)
        except REFUSED as error:
            return desired, error
        return desired, None

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
        merger = self._check_merging(edits)
        if merger is None:
            yield
            return
        async with merger.merging([edited.edit.delta for edited in edits]):
            yield

    def _check_merging(self, edits: tuple[Edited, ...]) -> Merger | None:
        """Return what is to merge edits; None if the weights hold just these already.

        Raises:
            CatalogError: Nothing here merges.
        """
        digests, held = (
            [edited.edit.delta.digest for edited in found] for found in (edits, self._active.merged)
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

    def _record(self, desired: Desired, catalog: Catalog, by: By) -> tuple[Catalog, Changes]:
        revisions = [self._store.record(p.document, p.artifacts, p.owner) for p in desired.planned]
        advanced, changes = advance(catalog, revisions, self._store.halts().all())
        gone = {r.key for r in self._store.all_active()} - {r.key for r in revisions}
        generation = self._store.activate(by, revisions, gone)
        return replace(advanced, generation=generation.number), changes
