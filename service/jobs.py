"""Jobs: long work in the store, one state machine; imports no torch.

``queued`` becomes ``running``, and that ``succeeded``, ``failed`` or ``cancelled``. A job whose
server vanished is queued again. What a runner reports counts only while the job is running and is
still its own (``Job.attempt``), so that a job ends once, whoever thought it was lost.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from service.database import Database, StoreError
from service.digest import canonical_json
from service.records import now
from service.tables import jobs

JobKind = Literal["edit-solve", "edit-evaluate"]
JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
STATES: tuple[JobState, ...] = get_args(JobState)
ENDED: tuple[JobState, ...] = ("succeeded", "failed", "cancelled")

KEEPING = "keeping"
"""The stage in which a result is put into effect; from then on a job cannot be cancelled."""
MAX_LOST = 3
"""How many servers may vanish under a job before it is given up."""
MAX_KEPT = 1000
"""Ended jobs that are kept."""

Content = Mapping[str, Any]


class JobNotFoundError(StoreError):
    """No such job was ever added, or it is no longer kept."""


class JobOverError(StoreError):
    """A job that cannot be cancelled any more."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job without what it was asked and what it found.

    Attributes:
        id: Its number; lower ones are run first.
        kind: What is done.
        name: The edit that it is about.
        state: Where it stands.
        stage: What its process does now, or did last; empty before the first report.
        done: Of the stage.
        total: Of the stage; 0 if it cannot be counted.
        attempt: How often it was started.
        lost: How often its server vanished.
        error: Why it failed.
        created_at: When it was asked for; all times are UTC.
        started_at: When it was last started.
        seen_at: When its runner last said that it is at work.
        ended_at: When it ended.
    """

    id: int
    kind: JobKind
    name: str
    state: JobState
    stage: str
    done: int
    total: int
    attempt: int
    lost: int
    error: str | None
    created_at: str
    started_at: str | None
    seen_at: str | None
    ended_at: str | None

    @property
    def is_over(self) -> bool:
        """Whether it ended."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class Sighting:
    """When the runner of a running job last wrote that it is at work, by its own clock.

    It is compared and never reckoned with: whoever sees the same one for too long has seen nothing
    new, whatever the clocks of both say.
    """

    job: int
    attempt: int
    seen_at: str | None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job with what it was asked and what it found; a failed one may have found figures."""

    job: Job
    request: Content
    result: Content | None


class JobStore:
    """Jobs in the database; every method is one transaction. Blocking: call off the loop."""

    def __init__(self, database: Database) -> None:
        """Keep jobs in ``database``."""
        self._database = database

    def add(self, kind: JobKind, name: str, request: Content) -> Job:
        """Queue a job and return it; one that asks the same and has not ended is returned."""
        text = canonical_json(dict(request))
        same = (jobs.c.kind == kind, jobs.c.request == text, jobs.c.state.not_in(ENDED))
        with self._database.write() as connection:
            found = connection.execute(sa.select(jobs).where(*same)).mappings().first()
            if found is not None:
                return _job(found)
            return _insert(connection, {"kind": kind, "name": name, "request": text})

    def add_ended(self, kind: JobKind, name: str, request: Content, result: Content) -> Job:
        """Record a job whose result was there already."""
        texts = {"request": canonical_json(dict(request)), "result": canonical_json(dict(result))}
        ended = {"state": "succeeded", "ended_at": now()}
        with self._database.write() as connection:
            return _insert(connection, {"kind": kind, "name": name} | texts | ended)

    def get(self, job: int) -> JobRecord:
        """Return a job with its request and result.

        Raises:
            JobNotFoundError: There is none of this number.
        """
        with self._database.read() as connection:
            return _record(_row(connection, job))

    def all(self, limit: int = 100, state: JobState | None = None) -> tuple[Job, ...]:
        """Return the newest jobs, newest first."""
        columns = [column for column in jobs.c if column.name not in ("request", "result")]
        query = sa.select(*columns).order_by(jobs.c.id.desc()).limit(limit)
        if state is not None:
            query = query.where(jobs.c.state == state)
        with self._database.read() as connection:
            return tuple(_job(row) for row in connection.execute(query).mappings())

    def claim(self) -> JobRecord | None:
        """Start the oldest queued job and return it, or None if nothing is queued."""
        query = sa.select(jobs.c.id).where(jobs.c.state == "queued").order_by(jobs.c.id).limit(1)
        with self._database.write() as connection:
            found = connection.execute(query).scalar()
            if found is None:
                return None
            started = {"state": "running", "started_at": now(), "seen_at": now()} | _UNBEGUN
            started["attempt"] = jobs.c.attempt + 1
            connection.execute(jobs.update().where(jobs.c.id == found).values(started))
            return _record(_row(connection, found))

    def report(self, job: Job, stage: str, done: int, total: int) -> bool:
        """Say how far a job is; whether it is still to go on."""
        at = {"stage": stage, "done": done, "total": total, "seen_at": now()}
        return self._change(job, at)

    def keep(self, job: Job) -> bool:
        """Begin to put a job's result into effect; whether it may be: a cancelled one may not."""
        return self._change(job, {"stage": KEEPING, "done": 0, "total": 1, "seen_at": now()})

    def succeed(self, job: Job, result: Content) -> bool:
        """End a job with its result; whether it was still running."""
        found = {"result": canonical_json(dict(result)), "done": 1, "total": 1}
        return self._change(job, {"state": "succeeded", "ended_at": now()} | found)

    def fail(self, job: Job, error: str, result: Content | None = None) -> bool:
        """End a job with the reason why it failed, and figures if any; whether it was running."""
        text = None if result is None else canonical_json(dict(result))
        why = {"error": error, "result": text}
        return self._change(job, {"state": "failed", "ended_at": now()} | why)

    def put_back(self, job: Job) -> bool:
        """Queue a running job again, because its server ends; whether it was running."""
        return self._change(job, {"state": "queued"} | _UNBEGUN)

    def cancel(self, number: int) -> Job:
        """Cancel a job that is queued or running; its runner notices and ends the process.

        Raises:
            JobNotFoundError: There is none of this number.
            JobOverError: It ended, or its result is being put into effect.
        """
        with self._database.write() as connection:
            job = _job(_row(connection, number))
            if job.is_over:
                raise JobOverError(f"job {number} is over: {job.state}")
            if job.stage == KEEPING:
                raise JobOverError(f"job {number} is done: its result is being put into effect")
            ended = {"state": "cancelled", "ended_at": now()}
            connection.execute(jobs.update().where(jobs.c.id == number).values(ended))
            return _job(_row(connection, number))

    def running(self) -> tuple[Sighting, ...]:
        """Return when each running job was last heard of."""
        query = sa.select(jobs.c.id, jobs.c.attempt, jobs.c.seen_at)
        with self._database.read() as connection:
            found = connection.execute(query.where(jobs.c.state == "running"))
            return tuple(Sighting(*row) for row in found)

    def requeue_lost(self, sightings: Iterable[Sighting]) -> int:
        """Queue running jobs again that were not heard of since a sighting; return how many.

        A job whose servers vanish again and again fails instead: it may be what ends them.
        """
        silent = [_unheard(sighting) for sighting in sightings]
        if not silent:
            return 0
        lost = sa.and_(jobs.c.state == "running", sa.or_(*silent))
        given_up = {
            "state": "failed",
            "lost": jobs.c.lost + 1,
            "error": f"the server ended {MAX_LOST} times while this job ran, perhaps for want of "
            "memory: see its log, use fewer facts or tokens, and ask for the job again",
            "ended_at": now(),
        }
        again = {"state": "queued", "lost": jobs.c.lost + 1} | _UNBEGUN
        with self._database.write() as connection:
            hopeless = jobs.update().where(lost, jobs.c.lost + 1 >= MAX_LOST)
            connection.execute(hopeless.values(given_up))
            return connection.execute(jobs.update().where(lost).values(again)).rowcount

    def _change(self, job: Job, values: Mapping[str, Any]) -> bool:
        mine = (jobs.c.id == job.id, jobs.c.state == "running", jobs.c.attempt == job.attempt)
        with self._database.write() as connection:
            return connection.execute(jobs.update().where(*mine).values(values)).rowcount == 1


_UNBEGUN: dict[str, Any] = {"stage": "", "done": 0, "total": 0}
_STATUS = tuple(Job.__dataclass_fields__)


def job_view(job: Job) -> dict[str, Any]:
    """Return a job as JSON values."""
    fields = asdict(job)
    progress = {name: fields.pop(name) for name in ("stage", "done", "total")}
    del fields["seen_at"], fields["lost"]
    return fields | {"progress": progress}


def record_view(record: JobRecord) -> dict[str, Any]:
    """Return a job as JSON values, with what it was asked and what it found."""
    return job_view(record.job) | {"request": record.request, "result": record.result}


def _unheard(sighting: Sighting) -> sa.ColumnElement[bool]:
    return sa.and_(
        jobs.c.id == sighting.job,
        jobs.c.attempt == sighting.attempt,
        jobs.c.seen_at == sighting.seen_at,
    )


def _insert(connection: Connection, values: Mapping[str, Any]) -> Job:
    fresh: dict[str, Any] = {"state": "queued", "attempt": 0, "lost": 0, "created_at": now()}
    row = fresh | _UNBEGUN | dict(values)
    key = connection.execute(jobs.insert().values(row)).inserted_primary_key
    number = int(key[0]) if key is not None else 0
    ended = sa.select(jobs.c.id).where(jobs.c.state.in_(ENDED)).order_by(jobs.c.id.desc())
    oldest = connection.execute(ended.offset(MAX_KEPT).limit(1)).scalar()
    if oldest is not None:
        old = sa.and_(jobs.c.state.in_(ENDED), jobs.c.id <= oldest)
        connection.execute(jobs.delete().where(old))
    return _job(_row(connection, number))


def _row(connection: Connection, number: int) -> RowMapping:
    row = connection.execute(sa.select(jobs).where(jobs.c.id == number)).mappings().first()
    if row is None:
        raise JobNotFoundError(f"there is no job {number}")
    return row


def _job(row: RowMapping) -> Job:
    return Job(**{name: row[name] for name in _STATUS})


def _record(row: RowMapping) -> JobRecord:
    result = row["result"]
    return JobRecord(_job(row), json.loads(row["request"]), result and json.loads(result))
