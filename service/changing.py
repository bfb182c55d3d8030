"""Makes a change of what the store says now, and takes over what other servers changed there.

Servers of one store make each change for the generation that they know: whoever comes second takes
over what the first one did, and makes its own change of that.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from forward.fingerprint import ModelFingerprint
from service.activation import By
from service.artifacts import ArtifactLibrary
from service.callers import DIRECTORY
from service.catalog import advance
from service.desired import Desired, Wanted, compile_desired, wanted_now, wanted_of
from service.directory import DirectoryState
from service.documents import Document
from service.generations import ConflictError, StaleStoreError, bundle_digest
from service.prompting import Prompting
from service.publisher import Applied, Publisher
from service.records import Revision
from service.seeding import unseen
from service.store import Store

ATTEMPTS = 8
"""How often a change is made anew because another server's came first."""


class Changer:
    """Changes what is active; whoever calls it excludes all others while it works."""

    def __init__(
        self,
        store: Store,
        library: ArtifactLibrary,
        model: ModelFingerprint,
        prompting: Prompting,
        publisher: Publisher,
    ) -> None:
        """Record in ``store``, and publish by ``publisher``."""
        self._store, self._library, self._publisher = store, library, publisher
        self._model, self._prompting = model, prompting

    async def change(self, wanted: Callable[[], Awaitable[list[Wanted]]], by: By) -> Applied:
        """Activate a change of what the store says now; one that others come before is made anew.

        Raises:
            ConflictError: It was made for another generation, or others always come before.
        """
        for attempt in range(ATTEMPTS):
            await self.catch_up()
            now = self._publisher.active.catalog.generation
            if by.expected is not None and by.expected != now:
                raise ConflictError(by.expected, now)
            try:
                return await self._activate(await wanted(), replace(by, expected=now))
            except ConflictError:
                if by.expected is not None or attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError  # the last attempt returned or raised

    async def take_over(
        self, directory: DirectoryState | None, seed: Sequence[Document] = ()
    ) -> Applied:
        """Activate what a directory says, what the store has of the API, and what it never had."""
        for attempt in range(ATTEMPTS):
            now = await asyncio.to_thread(self._store.generation)
            posted = await asyncio.to_thread(unseen, seed, self._store)
            wanted = await self.wanted(posted, directory=directory)
            try:
                return await self._activate(wanted, By(DIRECTORY.label, expected=now.number))
            except ConflictError:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError  # the last attempt returned or raised

    async def catch_up(self) -> bool:
        """Activate what the store says if it has gone on since; return whether it had."""
        generation = await asyncio.to_thread(self._store.generation)
        if generation.number == self._publisher.active.catalog.generation:
            return False
        if generation.number < self._publisher.active.catalog.generation:
            raise StaleStoreError(self._publisher.active.catalog.generation, generation.number)
        snapshot = await asyncio.to_thread(self._store.snapshot)
        desired = await self.compiled(wanted_of(snapshot.revisions))

        def record() -> Applied:
            advanced, changes = advance(
                self._publisher.active.catalog, snapshot.revisions, snapshot.halts
            )
            number = snapshot.generation.number
            digest = bundle_digest(snapshot.revisions)
            return Applied(replace(advanced, generation=number, digest=digest), changes)

        await self._publisher.publish(desired, record)
        return True

    async def wanted(
        self,
        posted: Sequence[Document] = (),
        edited: Sequence[Document] = (),
        restored: Sequence[Revision] = (),
        directory: DirectoryState | None = None,
    ) -> list[Wanted]:
        """Return what is to be active, as ``wanted_now`` of the store."""
        return await asyncio.to_thread(
            wanted_now, self._store, self._library, directory, posted, edited, restored
        )

    async def compiled(self, wanted: list[Wanted]) -> Desired:
        """Compile off the event loop, as ``compile_desired``."""
        return await asyncio.to_thread(
            compile_desired, wanted, self._library, self._model, self._prompting
        )

    async def _activate(self, items: list[Wanted], by: By) -> Applied:
        await asyncio.to_thread(self._store.check_generation, by.expected)
        desired = await self.compiled(items)
        return await self._publisher.publish(desired, partial(self._record, desired, by))

    def _record(self, desired: Desired, by: By) -> Applied:
        revisions = [self._store.record(p.document, p.artifacts, p.owner) for p in desired.planned]
        advanced, changes = advance(
            self._publisher.active.catalog, revisions, self._store.halts().all()
        )
        gone = {r.key for r in self._store.all_active()} - {r.key for r in revisions}
        generation = self._store.activate(by, revisions, gone)
        digest = bundle_digest(revisions)
        return Applied(replace(advanced, generation=generation.number, digest=digest), changes)
