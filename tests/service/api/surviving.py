"""A server under hostile requests: what they were answered, and what they changed."""

import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from service.callers import OWNER, ROLES
from service.edit_jobs import EditWork
from service.job_runner import JobRunner
from service.keys import KeyStore, NewKey
from service.limits import Limits
from service.store import Store
from tests.service.api.bad_inputs import Subject
from tests.service.api.hostile import Answer, Attack, Credentials, packed, send
from tests.service.api.hostile_access import credentials, paths, roles
from tests.service.api.hostile_texts import arguments, known, questions, texts
from tests.service.api.hostile_wire import bodies, framing
from tests.service.api.world import KEY, SERVED, D, N, World, server_of
from tests.service.serving import served_world
from tests.steering.toys import MODEL

SUBJECT = Subject(SERVED, "formal", "casual", "formal", 2.0, MODEL, D, N, 24, KEY)
V1 = "/trimtab/v1"


@dataclass
class Outcome:
    """How attacks ended, by kind of attack and status; 0 is a connection without an answer."""

    sent: Counter[str] = field(default_factory=Counter[str])
    statuses: dict[str, Counter[int]] = field(default_factory=dict[str, Counter[int]])
    got_in: list[str] = field(default_factory=list[str])
    broke: list[str] = field(default_factory=list[str])

    def add(self, attack: Attack, answer: Answer) -> None:
        self.sent[attack.kind] += 1
        counted = self.statuses.setdefault(attack.kind, Counter())
        counted.update(answer.statuses or (0,))
        told = f"{attack.kind}: {attack.name}: {answer.statuses} {answer.data[-300:]!r}"
        if any(status >= 500 for status in answer.statuses):
            self.broke.append(told)
        if any(200 <= status < 400 for status in answer.statuses) and not _found_nothing(
            attack, answer
        ):
            self.got_in.append(told)


def _found_nothing(attack: Attack, answer: Answer) -> bool:
    if attack.expects != "nothing" or answer.statuses != (200,):
        return False
    found: dict[str, Any] = json.loads(answer.data.partition(b"\r\n\r\n")[2])
    return not (found.get("events") or found.get("decisions"))


@contextmanager
def besieged(make: Callable[[], Awaitable[World]]) -> Generator[tuple[int, World, Credentials]]:
    """Serve a world with keys of all roles; yield its port, it and the keys."""
    with served_world(make) as (url, world):
        _take_jobs(world)
        yield int(url.rpartition(":")[2]), world, make_keys(world.store.keys(), KEY)


def _take_jobs(world: World) -> None:
    """Have jobs queued as a server does that has a model to work on; none is ever run."""
    store = world.store
    work = EditWork(store, store.artifacts_folder, MODEL, world.governor.apply)
    runner = JobRunner(store.jobs(), work, store.artifacts_folder / "jobs")
    object.__setattr__(server_of(world), "jobs", runner)


def make_keys(store: KeyStore, owner: str) -> Credentials:
    """Make a key of each role, and some that are dead."""
    live = {role: store.create(NewKey(f"the-{role}", role), OWNER).text for role in ROLES}
    soon = datetime.now(UTC) + timedelta(seconds=0.5)
    revoked = store.create(NewKey("revoked", "admin"), OWNER)
    store.revoke(revoked.key.id, OWNER)
    expired = store.create(NewKey("expired", "admin", None, Limits(), soon), OWNER)
    rotated = store.create(NewKey("rotated", "admin"), OWNER)
    store.rotate(rotated.key.id, 0, OWNER)
    time.sleep(1.2)  # the one has expired, and every server has read them all
    dead = {"revoked": revoked.text, "expired": expired.text, "rotated": rotated.text}
    return Credentials(live, owner, dead, tuple(known.hash for known in store.known()))


def all_attacks(keys: Credentials, subject: Subject = SUBJECT) -> list[Attack]:
    """Return every attack on a server."""
    return [
        *paths(keys),
        *credentials(keys),
        *roles(keys),
        *framing(keys),
        *arguments(keys, subject),
        *bodies(keys),
        *texts(keys),
        *questions(keys),
        *known(subject),
    ]


def attack(port: int, chosen: Iterable[Attack]) -> Outcome:
    """Send attacks one after the other."""
    outcome = Outcome()
    for one in chosen:
        outcome.add(one, send(port, one))
    return outcome


def everything(world: World) -> dict[str, Any]:
    """Return all that an attack could have changed."""
    served = {"served": world.governor.status(), "generated": len(world.seen)}
    return stored(world.store) | served


def stored(store: Store) -> dict[str, Any]:
    """Return all that is in a store."""
    return {
        "active": store.all_active(),
        "removed": store.removed(),
        "artifacts": store.all_artifacts(),
        "keys": store.keys().known(),
        "audit": store.audit().head(),
        "jobs": store.jobs().all(100),
    }


def is_well(port: int, keys: Credentials, subject: Subject = SUBJECT) -> None:
    """Check that who may still can, so that refusals are refusals and not a server that is down."""
    asked = {"model": subject.served, "prompt": "hello", "max_tokens": 1, "policy": "formal"}
    generates = ("POST", "/v1/completions", packed(asked))
    calls = (
        (*generates, keys.roles["infer"], 200),
        ("GET", f"{V1}/status", None, keys.roles["viewer"], 200),
        ("GET", f"{V1}/keys", None, keys.roles["admin"], 200),
        ("GET", f"{V1}/keys", None, keys.owner, 200),
        ("GET", "/livez", None, None, 200),
        (*generates, None, 401),
    )
    for method, path, body, key, expected in calls:
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {key}"} if key is not None else {}
        url = f"http://127.0.0.1:{port}{path}"
        answer = httpx.request(method, url, headers=headers, content=body, timeout=60)
        assert answer.status_code == expected, (method, path, answer.text)
