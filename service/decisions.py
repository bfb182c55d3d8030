"""Decision records: one a request that ran under policies, kept for a while, found by its name.

A record says which revisions of what acted, at which strength, and what monitors found; never what
was said. Our name of a request is unique. Its client's may not be: a client chooses it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping

from service.batch_log import MAX_WAITING, BatchLog
from service.clock import SteadyClock
from service.database import Database, StoreError
from service.digest import canonical_json
from service.settings import EventRetention
from service.tables import decisions

MAX_LISTED = 1000
MAX_NAME = 256
"""Characters kept of a client's name of a request."""


class DecisionNotFoundError(StoreError):
    """No record has this name, or it is no longer kept."""


class DecisionAmbiguousError(StoreError):
    """Clients gave several requests this name."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A record and what it is found by.

    Attributes:
        request: Our name of the request, unique.
        answer: What its client calls the answer.
        at: When the request came, UTC.
        key: Id of the caller's key; None without one.
        policies: ``name@revision`` of what it ran under.
        record: All of it, as JSON values.
    """

    request: str
    answer: str
    at: str
    key: str | None
    policies: tuple[str, ...]
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class WantedDecisions:
    """Which records are asked for: the newest before a number, of a policy or of a key."""

    before: int | None = None
    policy: str | None = None
    key: str | None = None
    limit: int = 100


class DecisionStore:
    """Records in the database. Blocking: call off the loop."""

    def __init__(self, database: Database, retention: EventRetention | None = None) -> None:
        """Keep records in ``database``, no longer than ``retention`` says."""
        self._database, self._clock = database, SteadyClock()
        self.retention = retention or EventRetention()

    def add(self, batch: Sequence[Decision]) -> None:
        """Write records in one transaction, and remove what is out of retention.

        A batch may be given again: whether a commit that was cut off took place is not known.
        """
        names = [decision.request for decision in batch]
        written = sa.select(decisions.c.request).where(decisions.c.request.in_(names))
        before = self._clock.earliest() - timedelta(days=self.retention.days)
        expired = decisions.c.at < before.isoformat(timespec="milliseconds")
        with self._database.write() as connection:
            known = set(connection.execute(written).scalars())
            rows = [_row(decision) for decision in batch if decision.request not in known]
            if not rows:
                return
            connection.execute(decisions.insert(), rows)
            newest = connection.execute(sa.select(sa.func.max(decisions.c.id))).scalar_one()
            old = sa.or_(decisions.c.id <= newest - self.retention.count, expired)
            connection.execute(decisions.delete().where(old))

    def one(self, name: str) -> dict[str, Any]:
        """Return the record of a request by our name of it, or by its client's.

        Raises:
            DecisionNotFoundError: There is none.
            DecisionAmbiguousError: There are several; the message has our names of the newest.
        """
        name = kept_name(name)
        found = self._rows(decisions.c.request == name) or self._rows(decisions.c.answer == name)
        if not found:
            raise DecisionNotFoundError(
                f"no decision record is called '{name[:80]}': use the id in the answer's header "
                "x-trimtab-request, or the answer's own id; records are kept for "
                f"{self.retention.days:g} days"
            )
        if len(found) > 1:
            listed = ", ".join(row["request"] for row in found)
            raise DecisionAmbiguousError(
                f"several requests were called '{name[:80]}' by their clients; name one by the "
                f"server's own id: {listed}"
            )
        return _view(found[0])

    def page(self, wanted: WantedDecisions) -> tuple[dict[str, Any], ...]:
        """Return records, newest first."""
        rows = self._rows(*_conditions(wanted), limit=wanted.limit)
        return tuple(_view(row) for row in rows)

    def _rows(self, *conditions: sa.ColumnElement[bool], limit: int = 10) -> list[RowMapping]:
        query = sa.select(decisions).where(*conditions)
        newest = query.order_by(decisions.c.id.desc()).limit(limit)
        with self._database.read() as connection:
            return list(connection.execute(newest).mappings())


class DecisionLog(BatchLog[Decision]):
    """Takes records on the event loop and writes them off it, in batches."""

    def __init__(
        self,
        store: DecisionStore,
        on_drop: Callable[[], None] = lambda: None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Write to ``store``; ``on_drop`` hears of each record that found the queue full."""
        super().__init__(store, "decision records", on_drop, max_waiting)
        self.store = store


def kept_name(name: str) -> str:
    """Return what is kept of a name that a client chose: every store can hold it."""
    return name.replace("\0", "")[:MAX_NAME]


def _row(decision: Decision) -> dict[str, Any]:
    return {
        "request": decision.request,
        "answer": kept_name(decision.answer),
        "at": decision.at,
        "key": decision.key,
        "policies": "".join(f",{label}" for label in decision.policies) + ",",
        "record": canonical_json(dict(decision.record)),
    }


def _view(row: RowMapping) -> dict[str, Any]:
    names = {name: row[name] for name in ("id", "request", "answer", "at")}
    return names | json.loads(row["record"])


def _conditions(wanted: WantedDecisions) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if wanted.before is not None:
        conditions.append(decisions.c.id < wanted.before)
    if wanted.key is not None:
        conditions.append(decisions.c.key == wanted.key)
    if wanted.policy is not None:
        end = "," if "@" in wanted.policy else "@"
        named = f",{wanted.policy}{end}"
        conditions.append(decisions.c.policies.contains(named, autoescape=True))
    return conditions
