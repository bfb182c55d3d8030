"""What happened lately, counted: requests and events by time, and scores of a monitor in bins."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import sqlalchemy as sa

from monitors.benign import BenignTable
from service.callers import PROBER
from service.database import Database
from service.tables import decisions, events

MINUTES = (60, 360, 1440)
"""Spans that are shown."""
BINS = 40
_BY_MINUTE, _BY_TEN = 16, 15
"""Characters of a time that tell its minute, and its ten minutes."""


@dataclass(frozen=True, slots=True)
class Span:
    """The last minutes, cut into steps of one or ten."""

    minutes: int
    now: datetime

    @property
    def step(self) -> int:
        """Minutes of a step."""
        return 1 if self.minutes <= MINUTES[0] else 10

    @property
    def starts(self) -> tuple[str, ...]:
        """The start of each step, as rows begin that are of it."""
        size = self._characters
        last = self.now.astimezone(UTC)
        steps = [last - timedelta(minutes=self.step * k) for k in range(self.minutes // self.step)]
        return tuple(at.isoformat(timespec="milliseconds")[:size] for at in reversed(steps))

    @property
    def _characters(self) -> int:
        return _BY_MINUTE if self.step == 1 else _BY_TEN

    def of(self, column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
        """Return the step of a row, by the column that says when it was."""
        return sa.func.substr(column, 1, self._characters)


class Overview:
    """Counts over the store. Blocking: call off the loop."""

    def __init__(self, database: Database) -> None:
        """Count what ``database`` holds."""
        self._database = database

    def show(self, span: Span) -> dict[str, Any]:
        """Return requests by policy and events by monitor, a count for each step of a span."""
        starts = span.starts
        step = span.of(decisions.c.at).label("step")
        requests = (
            sa.select(step, decisions.c.policies, sa.func.count())
            .where(decisions.c.at >= starts[0], decisions.c.key.is_distinct_from(PROBER.key))
            .group_by(step, decisions.c.policies)
        )
        step = span.of(events.c.at).label("step")
        fired = (
            sa.select(step, events.c.monitor, events.c.mode, sa.func.count())
            .where(events.c.at >= starts[0])
            .group_by(step, events.c.monitor, events.c.mode)
        )
        with self._database.read() as connection:
            asked = list(connection.execute(requests))
            raised = list(connection.execute(fired))
        times = [_time(start) for start in starts]
        policies = [(s, name, n) for s, listed, n in asked for name in _names(listed)]
        monitors = [(s, f"{monitor} ({mode})", n) for s, monitor, mode, n in raised]
        return {
            "minutes": span.minutes,
            "times": times,
            "requests": _series(starts, [(s, "all", n) for s, _, n in asked]).get("all", []),
            "policies": _series(starts, policies),
            "events": _series(starts, monitors),
        }


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of one monitor under a policy's revisions in one mode, from decision records."""

    policy: str
    mode: str
    values: tuple[float, ...]
    thresholds: tuple[float, ...]
    fired: int
    coverage: float


def scores_of(records: Iterable[Mapping[str, Any]], monitor: str) -> tuple[Scores, ...]:
    """Return the scores of a monitor over decision records, by policy and mode."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for verdict in _verdicts(records, monitor):
        policy = verdict["policy"].partition("@")[0]
        found.setdefault((policy, verdict["mode"]), []).append(verdict)
    return tuple(
        Scores(
            policy,
            mode,
            tuple(v["score"] for v in verdicts if v["score"] is not None),
            tuple(sorted({v["threshold"] for v in verdicts if v["threshold"] is not None})),
            sum(v["fired"] for v in verdicts),
            min(v["coverage"] for v in verdicts),
        )
        for (policy, mode), verdicts in sorted(found.items())
    )


def coverage_of(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str], float]:
    """Return the lowest coverage of each policy, monitor and mode over decision records."""
    found: dict[tuple[str, str, str], float] = {}
    for record in records:
        if record.get("probe") is not None:
            continue
        for choice in record["choices"]:
            for monitor, verdict in choice["verdicts"].items():
                use = (verdict["policy"], monitor, verdict["mode"])
                found[use] = min(found.get(use, 1.0), verdict["coverage"])
    return found


def edges_of(values: Sequence[float], marks: Sequence[float], benign: BenignTable | None) -> Any:
    """Return the edges of bins that hold scores, thresholds and benign scores; none for nothing."""
    kept = [*values, *marks, *(benign.values[[0, -1]].tolist() if benign is not None else ())]
    if not kept:
        return np.zeros(0)
    low, high = min(kept), max(kept)
    margin = (high - low) * 0.02 or 0.5
    return np.linspace(low - margin, high + margin, BINS + 1)


def counts(edges: Any, values: Sequence[float]) -> list[int]:
    """Return how many values lie in each bin."""
    return [int(n) for n in np.histogram(values, edges)[0]] if len(edges) else []


def benign_counts(edges: Any, table: BenignTable | None) -> list[int]:
    """Return how many benign scores lie in each bin."""
    if table is None or not len(edges):
        return []
    above = [table.exceedances(float(edge)) for edge in edges]
    return [max(0, low - high) for low, high in pairwise(above)]


def _verdicts(records: Iterable[Mapping[str, Any]], monitor: str) -> Iterable[Mapping[str, Any]]:
    for record in records:
        if record.get("probe") is not None:  # asked by the server itself, to see it fire
            continue
        for choice in record["choices"]:
            for name, verdict in choice["verdicts"].items():
                if name.rpartition("/")[2] == monitor:
                    yield verdict


def _names(policies: str) -> set[str]:
    """Return the names in a record's list of labels."""
    return {label.partition("@")[0] for label in policies.split(",") if label} or {"none"}


def _series(starts: Sequence[str], counted: Iterable[tuple[str, str, int]]) -> dict[str, list[int]]:
    places = {start: place for place, start in enumerate(starts)}
    found: dict[str, list[int]] = {}
    for step, name, number in counted:
        if step in places:
            found.setdefault(name, [0] * len(starts))[places[step]] += number
    return dict(sorted(found.items()))


def _time(start: str) -> int:
    """Return a step's start in seconds since 1970."""
    whole = f"{start}0" if len(start) == _BY_TEN else start
    return int(datetime.fromisoformat(f"{whole}:00+00:00").timestamp())
