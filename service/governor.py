"""The governor: takes changes from documents to rows on every rank, and leases out what is active.

A change is made of what the store says now, compiled, placed, recorded and published by moving one
pointer (``service.publisher``). Servers of one store make changes for the generation they know:
whoever comes second takes over what the first one did, and makes its change of that.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from forward.container import ArtifactError
from forward.fingerprint import ModelFingerprint
from forward.tables import CapacityError
from service.activation import By
from service.artifacts import ArtifactLibrary
from service.assignment import with_fields
from service.catalog import (
    Catalog,
    CatalogError,
    check_post,
    running_canary,
    with_halt,
)
from service.changing import Changer
from service.desired import Desired, Wanted
from service.directory import DirectoryState
from service.documents import Document
from service.engine.door import DoorError
from service.engine.errors import MergeError, WeightsUnknownError
from service.engine.lease import Lease
from service.engine.slots import ActivationError, Slots
from service.errors import ServiceError
from service.library import Edited, Monitored
from service.monitor_views import uses_of
from service.plan import Plan
from service.planner import make_plan
from service.prompting import UNREAD, Conditions, Prompting
from service.publisher import Applied, Merger, Publisher
from service.records import Key
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
        self._store = store
        self.model, self.prompting = model, prompting
        self._publisher = Publisher(slots, Conditions(model, prompting), merger)
        self._changer = Changer(store, library, model, prompting, self._publisher)
        self._directory: DirectoryState | None = None
        self._fault: str | None = None
        self._behind: str | None = None
        self._lock = asyncio.Lock()

    @property
    def catalog(self) -> Catalog:
        """The snapshot that new requests select from."""
        return self._publisher.active.catalog

    @property
    def directory(self) -> DirectoryState | None:
        """The last state of the policy directory that was accepted."""
        return self._directory

    @property
    def monitors(self) -> Mapping[str, Monitored]:
        """The active monitors, compiled."""
        return self._publisher.active.monitors

    @property
    def edits(self) -> Mapping[str, Edited]:
        """The active edit sets, compiled."""
        return self._publisher.active.edits

    @property
    def merged(self) -> tuple[str, ...]:
        """The edits in the weights: each one's name, and the start of its digest."""
        return tuple(
            f"{edited.name}@{edited.digest[:12]}" for edited in self._publisher.active.merged
        )

    def beside(self, name: str) -> tuple[str, ...]:
        """Return the digests of the edits that act, or would act, with an edit set.

        What is merged, what mandatory policies edit, and what policies that name it edit too.
        """
        catalog = self.catalog
        mandatory = {p for b in catalog.bindings.all for stack in b.stacks for p in stack}
        policies = [catalog.policies[policy] for policy in sorted(mandatory)]
        policies += catalog.edited_by(name)
        names = {edited.name for edited in self._publisher.active.merged}
        names |= {edits for policy in policies for edits in policy.spec.edits}
        found = [self.edits[other] for other in sorted(names - {name}) if other in self.edits]
        return tuple(digest for edited in found for digest in edited.artifacts.values())

    @property
    def watching(self) -> Watching:
        """What the active policies watch."""
        return self._publisher.watching

    async def start(
        self, directory: DirectoryState | None, seed: Sequence[Document] = ()
    ) -> Applied:
        """Activate what the directory says, and what was applied over the API or is its seed.

        Raises:
            ServiceError: As ``apply``; nothing is active then.
        """
        async with self._lock:
            self._directory = directory
            return await self._changer.take_over(directory, seed)

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

        async def wanted() -> list[Wanted]:
            for document in posted:
                check_post(self.catalog, document.key, self.file(document.key))
            return await self._changer.wanted(posted)

        async with self._lock:
            return await self._changer.change(wanted, By(actor, "apply", expected))

    async def plan(self, documents: Iterable[Document], as_directory: bool = False) -> Plan:
        """Return what applying documents would do, and why it would be refused if it would.

        Args:
            documents: The documents.
            as_directory: They are all that the policy directory would have, with the artifacts
                that lie in it now.

        Raises:
            CatalogError: There is no policy directory.
            ArtifactError, StoreError: As ``apply``, where that leaves nothing to plan with.
        """
        given = list(documents)
        async with self._lock:
            await self._changer.catch_up()
            directory = self._holding(given) if as_directory else None
            posted = [] if as_directory else given
            wanted = await self._changer.wanted(posted, directory=directory)
            desired, refusal = await self._tried(posted, wanted)
            tables = (self._publisher.size, self._publisher.used)
            return await asyncio.to_thread(
                make_plan,
                self._store,
                self._publisher.active,
                given,
                wanted,
                desired,
                tables,
                refusal,
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

        async def wanted() -> list[Wanted]:
            check_post(self.catalog, key, self.file(key))
            now = self.catalog.policies.get(name)
            found = await asyncio.to_thread(
                earlier, self._store, name, now.revision if now is not None else None, number
            )
            return await self._changer.wanted(restored=[found])

        async with self._lock:
            return await self._changer.change(wanted, By(actor, "rollback", expected))

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

        async def wanted() -> list[Wanted]:
            check_policy(self.catalog, name)
            check_post(self.catalog, key, self.file(key))
            number = self.catalog.policies[name].revision
            revision = await asyncio.to_thread(self._store.get, name, number)
            return await self._changer.wanted(edited=[with_fields(revision.document(), fields)])

        async with self._lock:
            return await self._changer.change(wanted, By(actor, "set", expected))

    async def remove(
        self, kind: Kind, name: str, *, actor: str, expected: int | None = None
    ) -> Applied:
        """Remove a document that was applied over the API.

        Raises:
            ConflictError: As ``apply``.
            CatalogError: It is not there, is the directory's, or something uses it.
        """
        key: Key = (kind, name)

        async def wanted() -> list[Wanted]:
            check_removal(self.catalog, key, self.file(key))
            return [w for w in await self._changer.wanted() if w.document.key != key]

        async with self._lock:
            return await self._changer.change(wanted, By(actor, "remove", expected))

    async def reload(self, directory: DirectoryState) -> Applied:
        """Take over a new state of the directory; on refusal the last good one stays active.

        Raises:
            ServiceError: As ``apply``. The reason is in ``status`` until a state is accepted.
        """
        async with self._lock:
            previous, self._directory = self._directory, directory
            try:
                applied = await self._changer.take_over(directory)
            except BaseException as error:
                self._fault, self._directory = str(error) or type(error).__name__, previous
                raise
            self._fault = None
            return applied

    async def follow(self) -> bool:
        """Take over what another server of the same store has changed; return whether it did.

        On refusal the last good state stays active, and the reason is in ``status``.

        Raises:
            ServiceError, CapacityError: What is active there cannot be here.
        """
        async with self._lock:
            try:
                followed = await self._changer.catch_up()
            except BaseException as error:
                self._behind = str(error) or type(error).__name__
                raise
            self._behind = None
            return followed

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
            await self._changer.catch_up()
            check_binding(self.catalog, name)
            digest = running_canary(self.catalog, name)
            ended = self._store.halts().end
            generation = await asyncio.to_thread(ended, digest, name, reason, actor)
            catalog = with_halt(self.catalog, name, reason, generation.number)
            self._publisher.show(catalog)
            return catalog

    def lease(self, selection: Selection) -> Lease:
        """Return the lease of a selection from the current snapshot; hold it at once."""
        return self._publisher.lease(selection)

    def unsteered(self, tenant: str) -> Lease:
        """Return a lease of no policy at all, for a question of the server's own."""
        return self._publisher.unsteered(tenant)

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
            "behind": self._behind,
            "policies": {p.name: p.revision for p in self.catalog.policies.values()},
            "monitors": {
                name: uses_of(self.catalog, self.watching, name) for name in self.monitors
            },
            "edits": {name: edited.digest for name, edited in self.edits.items()},
            "merged": [edited.name for edited in self._publisher.active.merged],
            "directory": {
                "path": str(directory.folder) if directory else None,
                "errors": errors,
                "refused": self._fault,
            },
            "capacity": {"used": self._publisher.used, "draining": self._publisher.draining},
        }

    def file(self, key: Key) -> str | None:
        """Return the file in which the directory has a document, if it has it."""
        documents = self._directory.documents if self._directory is not None else ()
        return next((d.source for d in documents if d.key == key), None)

    def _holding(self, documents: Iterable[Document]) -> DirectoryState:
        """Return the policy directory with other documents in it."""
        if self._directory is None:
            raise CatalogError("this server follows no policy directory", 409, "no_directory")
        return self._directory.holding(documents)

    async def _tried(
        self, given: Iterable[Document], wanted: list[Wanted]
    ) -> tuple[Desired | None, Exception | None]:
        """Return what would be active, as far as it compiles, and why that would be refused."""
        desired: Desired | None = None
        try:
            for document in given:
                check_post(self.catalog, document.key, self.file(document.key))
            desired = await self._changer.compiled(wanted)
            await self._publisher.check(desired)
        except REFUSED as error:
            return desired, error
        return desired, None
