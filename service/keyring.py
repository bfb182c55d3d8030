"""The keys as one process knows them: read from the store again and again, kept when it is gone."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from service.clock import SteadyClock
from service.database import StoreError
from service.keys import Key, KeyStore, KnownKey, parse_key

MAX_AGE_SECONDS = 1.0
"""A key that another process revoked is valid here for no longer, while the store answers."""
PATIENCE_SECONDS = 0.8
"""How long a request waits for a store that answered last time."""
FIRST_PATIENCE_SECONDS = 5.0
"""How long it waits while nothing is known yet: it could only be refused."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What was read, and when that began."""

    keys: Mapping[str, KnownKey] = field(default_factory=lambda: MappingProxyType({}))
    began: float = float("-inf")


class KeyRing:
    """Finds keys by their text. One event loop; the store is read off it."""

    def __init__(self, store: KeyStore, clock: Callable[[], float] = time.monotonic) -> None:
        """Know nothing yet; ``clock`` counts seconds and never goes back."""
        self._store, self._clock, self._day = store, clock, SteadyClock()
        self._known = _Reading()
        self._tried = float("-inf")
        self._task: asyncio.Task[None] | None = None
        self.fault: str | None = None

    @property
    def is_read(self) -> bool:
        """Whether the store was ever read."""
        return self._known.began > float("-inf")

    @property
    def is_empty(self) -> bool:
        """Whether there never was a key; one that is revoked or expired counts."""
        return self.is_read and not self._known.keys

    def find(self, text: str) -> Key | None:
        """Return the live key that a text is, or None."""
        parsed = parse_key(text)
        known = self._known.keys.get(parsed[0]) if parsed is not None else None
        if parsed is None or known is None or not known.matches(parsed[1]):
            return None
        return known.key if known.key.state(self._at()) == "live" else None

    def live(self, key: str) -> Key | None:
        """Return the key of an id, if it is still one."""
        known = self._known.keys.get(key)
        return known.key if known is not None and known.key.state(self._at()) == "live" else None

    def is_live(self, key: str) -> bool:
        """Whether the key of an id is still one."""
        return self.live(key) is not None

    async def fresh(self) -> None:
        """Read the store again if what is known is old.

        Waits for it only while it answers: when it is gone, what was read last goes on to hold, and
        ``fault`` says why it is old.
        """
        if self._clock() - self._tried < MAX_AGE_SECONDS:
            return
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self.refresh())
        if self.fault is None or not self.is_read:
            patience = PATIENCE_SECONDS if self.is_read else FIRST_PATIENCE_SECONDS
            await asyncio.wait([self._task], timeout=patience)
        if not self._task.done() and self.fault is None:
            self.fault = "the store does not answer"

    async def refresh(self) -> None:
        """Read the store now; if that fails, ``fault`` says why."""
        began = self._clock()
        try:
            known = await asyncio.to_thread(self._store.known)
        except StoreError as error:
            self._tried, self.fault = self._clock(), str(error)
            return
        # A read that began before another one may know less than that did.
        if began >= self._known.began:
            keys = MappingProxyType({one.key.id: one for one in known})
            self._known, self._tried, self.fault = _Reading(keys, began), began, None

    def status(self) -> dict[str, Any]:
        """Return how many keys are live, how old that is, and what is wrong, as JSON values."""
        at = self._at()
        live = sum(one.key.state(at) == "live" for one in self._known.keys.values())
        age = round(self._clock() - self._known.began, 3) if self.is_read else None
        return {"live": live, "age_seconds": age, "fault": self.fault}

    def _at(self) -> str:
        """Return now as rows keep it: a clock that is set back gives no key a longer life."""
        return self._day.latest().isoformat(timespec="milliseconds")
