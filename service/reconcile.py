"""Keeps a server at what its store says: by polling; a hint may make it look sooner."""

import asyncio
import logging

from service.governor import REFUSED, Governor
from service.replicas import Replica, ReplicaStore, Roster
from service.store import StoreError

POLL_SECONDS = 0.25
RETRY_SECONDS = 5.0
"""After a refusal: compiling what does not fit is no work for every poll."""
BEAT_SECONDS = 2.0

_log = logging.getLogger(__name__)


class Reconciler:
    """Follows the store, and says so; one event loop."""

    def __init__(self, governor: Governor, store: ReplicaStore) -> None:
        """Keep ``governor`` at what the store says; nothing is done before ``run``."""
        self._governor, self._store = governor, store
        self._me, self._roster = Replica.new(), Roster()
        self._fault: str | None = None

    @property
    def name(self) -> str:
        """How this server is called among the others."""
        return self._me.id

    def shown(self) -> list[dict[str, object]]:
        """Return the servers of the store as JSON values, as they were at the last beat."""
        return [one | {"self": one["id"] == self.name} for one in self._roster.shown()]

    async def run(self) -> None:
        """Follow and beat until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            changed = await self._follow()
            if changed or loop.time() >= due:
                due = loop.time() + BEAT_SECONDS
                await self._beat()
            await asyncio.sleep(POLL_SECONDS if self._fault is None else RETRY_SECONDS)

    async def close(self) -> None:
        """Take this server off the list, so that nobody waits for it."""
        try:
            await asyncio.to_thread(self._store.forget, self.name)
        except StoreError as error:
            _log.warning("this server stays listed until others forget it: %s", error)

    async def _follow(self) -> bool:
        """Return whether what is served, or why it is not newer, has changed."""
        before, fault = self._governor.catalog.generation, None
        try:
            await self._governor.follow()
        except REFUSED as error:
            fault = str(error) or type(error).__name__
        if fault != self._fault and fault is not None:
            _log.warning("what the store says is not taken over: %s", fault)
        changed = (before, self._fault) != (self._governor.catalog.generation, fault)
        self._fault = fault
        return changed

    async def _beat(self) -> None:
        catalog = self._governor.catalog
        self._me = self._me.beat(catalog.generation, catalog.digest, self._fault)
        try:
            found = await asyncio.to_thread(self._exchange)
        except StoreError:
            return  # the store's own health tells of it
        for name in self._roster.see(found):
            await asyncio.to_thread(self._store.forget, name)

    def _exchange(self) -> dict[str, Replica]:
        self._store.say(self._me)
        return {replica.id: replica for replica in self._store.all()}
