"""Control work on a store, by a real governor, in a process that may be killed at any moment.

Everything it begins and everything that is acknowledged to it goes into a journal at once: a line
there outlives the process. ``tests/outlived.py`` holds the store against the journal.
"""

import asyncio
import json
import os
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from forward.allocation import Allocator
from forward.fingerprint import ModelFingerprint
from forward.site import Capacity, Site
from service.artifacts import ArtifactLibrary
from service.callers import OWNER
from service.decisions import Decision
from service.documents import parse_content
from service.engine.books import OwnBooks
from service.engine.slots import Slots
from service.errors import ServiceError
from service.events import Event
from service.governor import Governor
from service.keys import NewKey
from service.records import now
from service.store import Store
from steering.card import to_artifact
from steering.defaults import Defaults
from tests.service.api.world import POINT, D, N, Ranks, add_directions, binding, steering
from tests.steering.toys import MODEL, random_direction

GROUP = ("g0", "g1", "g2")
ACTOR = "the one who is killed"
PER_THOUSAND = 1000.0
BATCH = 40
ROWS = 64


@dataclass(frozen=True)
class Place:
    """Where a process works, what it draws its work from, and the number of its first piece."""

    url: str
    artifacts: str
    journal: str
    seed: int
    first: int


class Journal:
    """Says what is begun and what was acknowledged, in lines that outlive the process."""

    def __init__(self, path: str) -> None:
        """Append to a file."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(self, word: str, what: str, **fields: Any) -> None:
        """Write one line; the system has it before this returns."""
        os.write(self._file, (json.dumps({"say": word, "what": what, **fields}) + "\n").encode())


def governor_of(store: Store) -> Governor:
    """Return a governor of a store, with tables in this process for an engine."""
    capacities = {POINT: Capacity(ROWS, 8, 8)}
    ranks = Ranks({point: Site(D, capacity) for point, capacity in capacities.items()})
    slots = Slots(OwnBooks(Allocator(D, capacities, 4), ranks.write))
    model = ModelFingerprint(MODEL, "llama", D, N)
    return Governor(slots, store, ArtifactLibrary(store), model)


class Worker:
    """Does work of each kind at once, each kind one piece after another."""

    def __init__(self, store: Store, governor: Governor, journal: Journal, place: Place) -> None:
        """Work on a store as ``place`` says."""
        self._store, self._governor, self._journal = store, governor, journal
        self._random, self._number = random.Random(place.seed), place.first

    async def run(self) -> None:
        """Work until the process is killed."""
        kinds = (self.group, self.solo, self.key, self.job, self.told, self.artifact)
        await asyncio.gather(*(self._again(kind) for kind in kinds))

    async def _again(self, piece: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await piece()
            except ServiceError:
                await asyncio.sleep(
                    0.05
                )  # the database was gone, or is: what is refused is tried anew

    async def group(self) -> None:
        """Apply three policies and the binding as one change: each says the change's number."""
        k = self._next()
        documents = [steering(name, k / PER_THOUSAND / 1000) for name in GROUP]
        documents.append(binding(policy=GROUP[k % len(GROUP)]))
        self._journal.say("begun", "group", k=k)
        applied = await self._governor.apply(map(parse_content, documents), actor=ACTOR)
        generation = applied.catalog.generation
        self._journal.say("done", "group", k=k, generation=generation)

    async def solo(self) -> None:
        """Apply, change, roll back or remove one policy."""
        is_there = "solo" in self._governor.catalog.policies
        ways = [self._set, self._set, self._roll_back, self._remove] if is_there else []
        await self._random.choice([self._apply, *ways])()

    async def key(self) -> None:
        """Make a key, and revoke every other one."""
        k = self._next()
        keys = self._store.keys()
        self._journal.say("begun", "key", k=k)
        issued = await asyncio.to_thread(keys.create, NewKey(f"key-{k}", "infer"), OWNER)
        self._journal.say("done", "key", k=k, id=issued.key.id)
        if k % 2:
            await asyncio.to_thread(keys.revoke, issued.key.id, OWNER)
            self._journal.say("done", "revoked", id=issued.key.id)
        await asyncio.sleep(0.05)

    async def job(self) -> None:
        """Queue a job, run it and keep its result."""
        k, jobs = self._next(), self._store.jobs()
        job = await asyncio.to_thread(jobs.add, "edit-solve", f"job-{k}", {"k": k})
        self._journal.say("done", "queued", id=job.id, k=k)
        record = await asyncio.to_thread(jobs.claim)
        if record is None:
            return
        for done in range(3):
            await asyncio.to_thread(jobs.report, record.job, "at work", done, 3)
        asked = record.request["k"]
        if await asyncio.to_thread(jobs.succeed, record.job, {"found": asked}):
            self._journal.say("done", "job", id=record.job.id, k=asked)

    async def told(self) -> None:
        """Write a batch of events and one of decision records."""
        name = uuid.uuid4().hex
        self._journal.say("begun", "batch", name=name)
        events = [_event(name, index) for index in range(BATCH)]
        await asyncio.to_thread(self._store.events().add, events)
        self._journal.say("done", "events", name=name)
        records = [_decision(name, index) for index in range(BATCH)]
        await asyncio.to_thread(self._store.decisions().add, records)
        self._journal.say("done", "decisions", name=name)
        await asyncio.sleep(0.03)

    async def artifact(self) -> None:
        """Add an artifact."""
        k = self._next()
        made = random_direction(k, D, N, name=f"made-{k % 7}", defaults=Defaults((2,)))
        artifact = to_artifact(made)
        path = Path(self._store.artifacts_folder) / f".making-{os.getpid()}-{k}"
        path.mkdir()
        saved = artifact.save(path)
        digest = await asyncio.to_thread(self._store.add_artifact, saved, artifact.card)
        self._journal.say("done", "artifact", digest=digest)
        await asyncio.sleep(0.1)

    async def _apply(self) -> None:
        k = self._next()
        strength = {"default": 1, "min": 0, "max": 2 + k / PER_THOUSAND}
        document = parse_content(steering("solo", 1.0, strength=strength))
        await self._change(k, partial(self._governor.apply, [document]))

    async def _set(self) -> None:
        k = self._next()
        fields = {"strength.max": 2 + k / PER_THOUSAND}
        await self._change(k, partial(self._governor.edit, "solo", fields))

    async def _roll_back(self) -> None:
        found = await asyncio.to_thread(self._store.revisions, "solo")
        earlier = self._random.choice(found)
        change = partial(self._governor.rollback, "solo", earlier.revision)
        await self._change(solo_of(earlier.content), change)

    async def _remove(self) -> None:
        await self._change(None, partial(self._governor.remove, "Policy", "solo"))

    async def _change(self, k: int | None, change: Callable[..., Awaitable[Any]]) -> None:
        self._journal.say("begun", "solo", k=k)
        applied = await change(actor=ACTOR)
        self._journal.say("done", "solo", k=k, generation=applied.catalog.generation)

    def _next(self) -> int:
        self._number += 1
        return self._number


def solo_of(content: Any) -> int:
    """Return the number that the content of the policy ``solo`` says."""
    return round((content["spec"]["strength"]["max"] - 2) * PER_THOUSAND)


def group_of(content: Any) -> int:
    """Return the number that the content of a policy of the group says."""
    return round(content["spec"]["steer"][0]["coefficient"] * PER_THOUSAND * 1000)


def work(place: Place) -> None:
    """Open the store and work; the process ends by being killed."""
    journal = Journal(place.journal)

    async def main() -> None:
        store = Store.open(place.url, Path(place.artifacts))
        add_directions(store)
        governor = governor_of(store)
        await governor.start(None)
        journal.say("done", "start", generation=governor.catalog.generation)
        await Worker(store, governor, journal, place).run()

    asyncio.run(main())


def _event(name: str, index: int) -> Event:
    return Event(
        at=now(),
        request=name,
        choice=index,
        policy="p@1",
        monitor="m",
        mode="enforce",
        do="log",
        action="log",
        fired=True,
        score=1.0,
        threshold=0.5,
        rarity=2.0,
        position=1,
        token=1,
        coverage=1.0,
        fault=None,
    )


def _decision(name: str, index: int) -> Decision:
    record = {"batch": name, "index": index}
    return Decision(uuid.uuid4().hex, name, now(), None, ("p@1",), record)
