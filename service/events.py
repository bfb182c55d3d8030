"""Events: one for each verdict that fired or failed, kept for a while, read and followed.

An event says who was watched by what and what was done; never what was said, unless the policy's
``capture`` asks for it. Numbers rise and are never used twice, so a reader knows what it missed.
Operators label events true or false: those are items for the monitor's next calibration.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from service.audit import append
from service.batch_log import MAX_WAITING, BatchLog
from service.clock import SteadyClock, now
from service.database import Database, StoreError
from service.replays import NothingCapturedError, Unsteered, keep, kept
from service.settings import EventRetention
from service.tables import events, labels

MAX_LISTED = 1000
_LISTED = [column for column in events.c if column.name != "trace"]


class EventNotFoundError(StoreError):
    """No event has this number, or it is no longer kept."""

    def __init__(self, number: int, days: float) -> None:
        """Name the event, and how long events are kept."""
        super().__init__(f"there is no event {number}; events are kept for {days:g} days")


@dataclass(frozen=True, slots=True)
class Event:
    """What happened; positions and scores are as in ``service.verdicts.Verdict``.

    Attributes:
        at: When, UTC.
        request: Identity of the answer as its client sees it.
        choice: Number of the choice in the answer.
        policy: ``name@revision``.
        trace: A ``service.trace.Trace`` as canonical JSON.
    """

    at: str
    request: str
    choice: int
    policy: str
    monitor: str
    mode: str
    do: str
    action: str
    fired: bool
    score: float | None
    threshold: float | None
    rarity: float | None
    position: int | None
    token: int | None
    coverage: float
    fault: str | None
    text: str | None = None
    trace: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events are asked for; ``after`` and ``before`` are numbers, ``since`` a time."""

    after: int | None = None
    before: int | None = None
    since: str | None = None
    monitor: str | None = None
    policy: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Page:
    """Events in order, numbered; ``lost`` counts those that retention took before they were read.

    ``last`` is the number to go on after.
    """

    events: tuple[Mapping[str, Any], ...]
    last: int
    lost: int


class EventStore:
    """Events in the database. Blocking: call off the loop."""

    def __init__(self, database: Database, retention: EventRetention | None = None) -> None:
        """Keep events in ``database``, no longer than ``retention`` says."""
        self._database, self._clock = database, SteadyClock()
        self.retention = retention or EventRetention()

    def add(self, batch: Sequence[Event]) -> None:
        """Write events in one transaction, and remove what is out of retention."""
        if not batch:
            return
        with self._database.write() as connection:
            connection.execute(events.insert(), [asdict(event) for event in batch])
            newest = connection.execute(sa.select(sa.func.max(events.c.id))).scalar_one()
            oldest_kept = newest - self.retention.count
            before = self._clock.earliest() - timedelta(days=self.retention.days)
            expired = events.c.at < before.isoformat(timespec="milliseconds")
            # The newest stays whatever its age: numbers are told from it.
            old = sa.and_(events.c.id < newest, sa.or_(events.c.id <= oldest_kept, expired))
            connection.execute(events.delete().where(old))

    def page(self, wanted: Wanted) -> Page:
        """Return the oldest events after what was read; without that, the newest."""
        query = _labelled(_LISTED).where(*_conditions(wanted)).limit(wanted.limit)
        forward = wanted.after is not None or wanted.since is not None
        order = events.c.id.asc() if forward else events.c.id.desc()
        with self._database.read() as connection:
            rows = list(connection.execute(query.order_by(order)).mappings())
            bounds = sa.select(sa.func.min(events.c.id), sa.func.max(events.c.id))
            oldest, newest = connection.execute(bounds).one()
        rows = rows if forward else rows[::-1]
        after = wanted.after
        lost = max(0, oldest - after - 1) if after is not None and oldest is not None else 0
        is_whole = len(rows) < wanted.limit
        last = (newest or 0) if is_whole or not rows else int(rows[-1]["id"])
        return Page(tuple(dict(row) for row in rows), max(last, after or 0), lost)

    def one(self, number: int) -> dict[str, Any]:
        """Return an event with its trace, and what its prompt got under no policy, if asked.

        Raises:
            EventNotFoundError: There is none.
        """
        query = _labelled(events.c).where(events.c.id == number)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().first()
            unsteered = kept(connection, number)
        if row is None:
            raise EventNotFoundError(number, self.retention.days)
        trace = None if row["trace"] is None else json.loads(row["trace"])
        return dict(row) | {"trace": trace, "unsteered": unsteered}

    def prompt(self, number: int) -> str:
        """Return what an event's request asked, as it can be tokenised again.

        Raises:
            EventNotFoundError: There is no such event.
            NothingCapturedError: Its policy kept nothing of it.
        """
        found = self.one(number)
        if found["trace"] is None:
            raise NothingCapturedError(number, found["policy"])
        return found["trace"]["prompt"]

    def replayed(self, number: int, unsteered: Unsteered, by: str) -> None:
        """Keep what the model said to an event's prompt under no policy.

        Raises:
            EventNotFoundError: It is no longer kept.
        """
        with self._database.write() as connection:
            self._find(connection, number)
            keep(connection, number, unsteered, by)

    def label(self, number: int, label: bool | None, by: str) -> None:
        """Say whether an event was right to be raised; None takes back what was said.

        Raises:
            EventNotFoundError: There is none.
        """
        with self._database.write() as connection:
            self._find(connection, number)
            before = connection.execute(sa.select(labels.c.label).where(_of(number))).scalar()
            connection.execute(labels.delete().where(_of(number)))
            if label is not None:
                row = {"event": number, "label": label, "by": by, "at": now()}
                connection.execute(labels.insert().values(row))
            was, told = {"label": before}, {"label": label}
            append(connection, by, "event.label", f"Event/{number}", was, told)

    def _find(self, connection: Connection, number: int) -> None:
        if connection.execute(sa.select(events.c.id).where(_is(number))).first() is None:
            raise EventNotFoundError(number, self.retention.days)

    def items(self, monitor: str, label: bool | None = None) -> tuple[dict[str, Any], ...]:
        """Return the labelled events of a monitor whose text is kept, as items to calibrate on.

        Those of one label, or of both.
        """
        wanted = labels.c.label.is_not(None) if label is None else labels.c.label == label
        query = _labelled(events.c).where(
            events.c.monitor == monitor, events.c.trace.is_not(None), wanted
        )
        with self._database.read() as connection:
            rows = list(connection.execute(query.order_by(events.c.id)).mappings())
        return tuple(_item(row) for row in rows)


class EventLog(BatchLog[Event]):
    """Takes events on the event loop and writes them off it, in batches."""

    def __init__(
        self,
        store: EventStore,
        on_drop: Callable[[], None] = lambda: None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Write to ``store``; ``on_drop`` hears of each event that found the queue full."""
        super().__init__(store, "events", on_drop, max_waiting)
        self.store = store


def _labelled(columns: Iterable[sa.ColumnElement[Any]]) -> sa.Select[Any]:
    said = (labels.c.label, labels.c.by.label("labelled_by"), labels.c.at.label("labelled_at"))
    joined = events.outerjoin(labels, labels.c.event == events.c.id)
    return sa.select(*columns, *said).select_from(joined)


def _is(number: int) -> sa.ColumnElement[bool]:
    return events.c.id == number


def _of(number: int) -> sa.ColumnElement[bool]:
    return labels.c.event == number


def _item(row: RowMapping) -> dict[str, Any]:
    """Return a line of the files that ``trimtab monitor calibrate`` reads."""
    trace = json.loads(row["trace"])
    item = {"text": trace["prompt"], "label": int(row["label"]), "slice": "events"}
    return item | ({"answer": trace["answer"]} if trace["answer"] else {})


def _conditions(wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if wanted.after is not None:
        conditions.append(events.c.id > wanted.after)
    if wanted.before is not None:
        conditions.append(events.c.id < wanted.before)
    if wanted.since is not None:
        conditions.append(events.c.at >= wanted.since)
    if wanted.monitor is not None:
        conditions.append(events.c.monitor == wanted.monitor)
    if wanted.policy is not None:
        named = events.c.policy.startswith(f"{wanted.policy}@", autoescape=True)
        conditions.append(sa.or_(events.c.policy == wanted.policy, named))
    return conditions
