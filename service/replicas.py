"""Servers of one store: each says now and then which generation it serves, and all see it.

Whether one is alive is not read off a clock: rows count beats, and who watches them knows by its
own monotonic clock how long a count has stood still.
"""

import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa

from service.clock import now
from service.database import Database
from service.tables import replicas

DEAD_SECONDS = 10.0
"""A server whose count stood still for this long is no longer waited for."""
FORGET_SECONDS = 600.0
"""A row that stood still for this long is removed by whoever sees it."""


@dataclass(frozen=True, slots=True)
class Replica:
    """What one server says of itself.

    Attributes:
        id: Host, process and a random part.
        started_at: When it started, UTC by its own clock.
        seen_at: When it last said so; for people, nothing is decided by it.
        beats: How often it did.
        generation: What it serves.
        digest: Of what it serves, computed by itself from the documents that it compiled.
        fault: Why it serves no newer one, if that failed.
    """

    id: str
    started_at: str
    seen_at: str
    beats: int = 0
    generation: int = 0
    digest: str = ""
    fault: str | None = None

    @classmethod
    def new(cls) -> "Replica":
        """Name this process; nothing is served yet."""
        name = f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        return cls(name, now(), now())

    def beat(self, generation: int, digest: str, fault: str | None) -> "Replica":
        """Return what it says next."""
        return replace(
            self,
            seen_at=now(),
            beats=self.beats + 1,
            generation=generation,
            digest=digest,
            fault=fault,
        )


class ReplicaStore:
    """The rows of all servers of a store. Blocking: call off the loop."""

    def __init__(self, database: Database) -> None:
        """Keep the database."""
        self._database = database

    def say(self, replica: Replica) -> None:
        """Write a server's row in place of its last one."""
        with self._database.write() as connection:
            connection.execute(replicas.delete().where(replicas.c.id == replica.id))
            connection.execute(replicas.insert().values(asdict(replica)))

    def forget(self, replica: str) -> None:
        """Remove a server that has ended."""
        with self._database.write() as connection:
            connection.execute(replicas.delete().where(replicas.c.id == replica))

    def all(self) -> tuple[Replica, ...]:
        """Return every server's last word, by name."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(replicas).order_by(replicas.c.id)).mappings()
            return tuple(Replica(**row) for row in rows)


class Roster:
    """The servers of a store as one of them sees them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """See nobody yet; ``clock`` gives seconds that only rise."""
        self._clock = clock
        self._seen: dict[str, tuple[Replica, float]] = {}

    def see(self, found: Mapping[str, Replica]) -> tuple[str, ...]:
        """Take in what the store says now; return who stood still so long as to be forgotten."""
        at = self._clock()
        known = {name: one for name, one in self._seen.items() if name in found}
        for name, replica in found.items():
            last = known.get(name)
            moved = last is None or last[0].beats != replica.beats
            known[name] = (replica, at if last is None or moved else last[1])
        self._seen = known
        return tuple(n for n, (_, moved) in known.items() if at - moved > FORGET_SECONDS)

    def shown(self) -> list[dict[str, Any]]:
        """Return every server as JSON values, with whether it is alive."""
        at = self._clock()
        return [
            asdict(replica) | {"alive": at - moved <= DEAD_SECONDS}
            for replica, moved in self._seen.values()
        ]
