"""Holds a store against the journals of processes that were killed while they worked on it.

What was acknowledged is there, what was not is there whole or not at all, and the audit log tells
of just what is there.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from forward.container import read_artifact
from service.activation import state_of
from service.audit import Entry
from service.generations import bundle_digest
from service.records import Revision
from service.store import Store
from service.tables import decisions, events
from tests.enduring import BATCH, GROUP, group_of, solo_of

DOCUMENTS = ("Policy", "Binding", "Monitor", "EditSet")


@dataclass
class Possible:
    """What a thing may be: what was acknowledged last, or anything that was begun since."""

    acknowledged: int | None = None
    begun: list[int | None] = field(default_factory=list[int | None])

    def hear(self, word: str, k: int | None) -> None:
        if word == "begun":
            self.begun.append(k)
        else:
            self.acknowledged, self.begun = k, []

    def holds(self, k: int | None) -> bool:
        return k == self.acknowledged or k in self.begun


@dataclass
class Told:
    """What journals say; of jobs only the last one's, since ended jobs are not kept for ever."""

    things: dict[str, Possible] = field(
        default_factory=lambda: {"group": Possible(), "solo": Possible()}
    )
    generation: int = 0
    keys: dict[str, bool] = field(default_factory=dict[str, bool])
    queued: dict[int, int] = field(default_factory=dict[int, int])
    jobs: dict[int, int] = field(default_factory=dict[int, int])
    batches: set[str] = field(default_factory=set[str])
    written: dict[str, set[str]] = field(
        default_factory=lambda: {"events": set(), "decisions": set()}
    )
    artifacts: list[str] = field(default_factory=list[str])
    done: Counter[str] = field(default_factory=Counter[str])
    cut_short: Counter[str] = field(default_factory=Counter[str])

    def read(self, journal: Path) -> int:
        """Take in the journal of one process; return how many things were acknowledged to it."""
        self.queued, self.jobs = {}, {}
        lines = journal.read_text().splitlines() if journal.exists() else []
        entries = [json.loads(line) for line in lines]
        for entry in entries:
            self.hear(entry.pop("say"), entry.pop("what"), entry)
        acknowledged = Counter(e["what"] for e in map(json.loads, lines) if e["say"] == "done")
        begun = Counter(e["what"] for e in map(json.loads, lines) if e["say"] == "begun")
        self.done += acknowledged
        ends = {"batch": "decisions"}
        self.cut_short += Counter({w: n - acknowledged[ends.get(w, w)] for w, n in begun.items()})
        return acknowledged.total()

    def hear(self, word: str, what: str, more: Mapping[str, Any]) -> None:
        if what in self.things:
            self.things[what].hear(word, more["k"])
        self.generation = max(self.generation, more.get("generation", 0))
        if what == "batch":
            self.batches.add(more["name"])
        elif what in self.written:
            self.written[what].add(more["name"])
        elif what == "key" and word == "done":
            self.keys[more["id"]] = False
        elif what == "revoked":
            self.keys[more["id"]] = True
        elif what in ("queued", "job"):
            {"queued": self.queued, "job": self.jobs}[what][more["id"]] = more["k"]
        elif what == "artifact":
            self.artifacts.append(more["digest"])


@dataclass
class Auditor:
    """Reads the audit log from where it was read to before, and keeps what it says there is."""

    states: dict[str, Any] = field(default_factory=dict[str, Any])
    seq: int = 0
    keys_made: int = 0

    def read(self, store: Store) -> None:
        """Take in what is new; each change begins where the one before ended."""
        for entry in self._new(store):
            assert entry.seq == self.seq + 1, "a number is missing"
            assert entry.before == self.states.get(entry.target), entry
            self.states[entry.target] = entry.after
            self.seq, self.keys_made = entry.seq, self.keys_made + (entry.action == "key.create")

    def _new(self, store: Store) -> list[Entry]:
        found: list[Entry] = []
        before = None
        while page := store.audit().entries(before, 1000):
            found += [entry for entry in page if entry.seq > self.seq]
            before = page[-1].seq
            if before <= self.seq + 1:
                break
        return found[::-1]

    def active(self) -> dict[str, Any]:
        """Return the documents that the log says are active."""
        return {
            target: state
            for target, state in self.states.items()
            if state is not None and target.partition("/")[0] in DOCUMENTS
        }


def check(store: Store, told: Told, auditor: Auditor) -> None:
    """Hold a store that nobody works on against all that was told.

    Raises:
        AssertionError: Something acknowledged is lost, or something is half there.
    """
    check_control(store, told, auditor)
    _check_jobs(store, told)
    _check_batches(store, told)
    _check_artifacts(store, told)


def check_control(store: Store, told: Told, auditor: Auditor) -> None:
    """Hold documents, keys and the audit log against what was told.

    Raises:
        AssertionError: As ``check``.
    """
    _check_audit(store, auditor)
    _check_active(store, told)
    _check_keys(store, told, auditor)


def check_all_artifacts(store: Store, told: Told) -> None:
    """Read every artifact that was ever acknowledged."""
    for digest in told.artifacts:
        _read(store, digest)


def _check_audit(store: Store, auditor: Auditor) -> None:
    verified = store.audit().verify()
    assert verified.bad is None, verified.bad
    auditor.read(store)
    assert auditor.seq == verified.rows
    active = {"/".join(r.key): state_of(r) for r in store.all_active()}
    assert auditor.active() == active, "the log tells of something else than what is active"


def _check_active(store: Store, told: Told) -> None:
    generation, active = store.generation(), store.all_active()
    assert generation.number >= told.generation, "an acknowledged change is lost"
    assert generation.digest == bundle_digest(active)
    found = {revision.name: revision for revision in active}
    group, solo = told.things["group"], told.things["solo"]
    assert solo.holds(_of(found, "solo", solo_of)), (solo, found.get("solo"))
    ks = {_of(found, name, group_of) for name in GROUP}
    assert len(ks) == 1, f"one change is half there: {ks}"
    k = ks.pop()
    assert group.holds(k), (group, k)
    if k is not None:
        assert found["default"].content["spec"]["policy"] == GROUP[k % len(GROUP)]
    for name in (*GROUP, "solo"):
        numbers = [revision.revision for revision in store.revisions(name)]
        assert numbers == list(range(len(numbers), 0, -1)), "a revision is missing"


def _of(found: Mapping[str, Revision], name: str, read: Any) -> int | None:
    return read(found[name].content) if name in found else None


def _check_keys(store: Store, told: Told, auditor: Auditor) -> None:
    kept = {key.id: key.revoked_at is not None for key in store.keys().all()}
    assert auditor.keys_made == len(kept), "a key without its row in the log, or the reverse"
    for key, is_revoked in told.keys.items():
        assert key in kept and (kept[key] or not is_revoked), key


def _check_jobs(store: Store, told: Told) -> None:
    jobs = store.jobs()
    jobs.requeue_lost(jobs.running())
    assert not jobs.running()
    for number, k in (told.queued | told.jobs).items():
        record = jobs.get(number)
        assert record.request == {"k": k}
        if number in told.jobs:
            assert (record.job.state, record.result) == ("succeeded", {"found": k})


def _check_batches(store: Store, told: Told) -> None:
    for what, column in (("events", events.c.request), ("decisions", decisions.c.answer)):
        counts = _counts(store, column)
        assert set(counts.values()) <= {BATCH}, f"a batch of {what} is half there"
        assert told.written[what] <= set(counts) <= told.batches, f"a batch of {what} is lost"


def _counts(store: Store, column: sa.Column[str]) -> dict[str, int]:
    query = sa.select(column, sa.func.count()).group_by(column)
    with store._database.read() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


def _check_artifacts(store: Store, told: Told, last: int = 20) -> None:
    for digest in told.artifacts[-last:]:
        _read(store, digest)


def _read(store: Store, digest: str) -> None:
    assert read_artifact(store.artifact(digest).path).digest == digest


def integrity(store: Store) -> Iterable[str]:
    """Return what SQLite finds wrong with its own file; nothing on PostgreSQL, or if it is well."""
    with store._database.read() as connection:
        if connection.dialect.name != "sqlite":
            return []
        found = connection.execute(sa.text("PRAGMA integrity_check")).scalars()
        return [line for line in found if line != "ok"]
