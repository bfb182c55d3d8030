"""A monitor on one choice, under way: fed token by token, it fires or fails, and then tells."""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitors.plan import Tally
from service.verdicts import ENDING, FOREVER, Verdict, finite, is_enforcing, owed_range
from service.watch import Watched


@dataclass(slots=True)
class Watcher:
    """One monitor on one choice, under way.

    Attributes:
        watched: The monitor and how its policy uses it.
        name: What answers and events call it.
        columns: Its reads among the columns that the request asked for.
        prompt_length: Tokens of the original prompt.
    """

    watched: Watched
    name: str
    columns: NDArray[np.intp]
    prompt_length: int
    keeps_scores: bool = False
    _tally: Tally = field(init=False)
    _first: int = field(init=False)
    _stop: int = field(init=False)
    _scored: int = field(init=False, default=0)
    _unscored: Counter[str] = field(init=False, default_factory=Counter[str])
    _rows: list[NDArray[np.float32]] = field(init=False, default_factory=list[Any])
    _positions: list[int] = field(init=False, default_factory=list[int])
    _fault: str | None = field(init=False, default=None)
    _fired: bool = field(init=False, default=False)
    _at: int | None = field(init=False, default=None)
    _ended_at: int | None = field(init=False, default=None)
    _waived: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Start before the first token; what makes it unfit from the start is a fault at once."""
        plan = self.watched.plan
        self._tally = plan.start(self.prompt_length)
        self._first, self._stop = owed_range(plan.clause, self.prompt_length)
        is_unset = self.is_enforcing and self.watched.threshold is None
        if self.watched.fault is not None:
            self._fail(self.watched.fault_kind, 0)
        elif is_unset:
            self._fail("calibration", 0)

    @property
    def is_enforcing(self) -> bool:
        """Whether its verdict ends the answer, so that tokens wait for it."""
        return is_enforcing(self.watched)

    @property
    def ended_at(self) -> int | None:
        """The position at which it ends the answer; None while it does not."""
        return self._ended_at

    @property
    def fault(self) -> str | None:
        """Why it is unfit."""
        return self._fault

    def waits_at(self, position: int) -> int:
        """Return the first owed position from ``position`` on that is still waited for.

        ``FOREVER`` if there is none.
        """
        due = max(position, self._first, self._waived)
        return due if due < self._stop else FOREVER

    def feed_rows(self, start: int, rows: NDArray[np.float32]) -> None:
        """Take the scores of consecutive tokens from ``start`` on, (tokens, columns)."""
        low = min(len(rows), max(0, self._first - start))
        high = min(len(rows), max(low, self._stop - start))
        raw = rows[low:high, self.columns]
        if not np.isfinite(raw).all():
            for position, row in enumerate(rows[low:high], start=start + low):
                self.feed(position, row)
        elif len(raw):
            self._take(start + low, raw)

    def feed(self, position: int, row: NDArray[np.float32]) -> None:
        """Take the scores of one token, (columns of the request,)."""
        if not self._first <= position < self._stop:
            return
        raw = row[self.columns]
        if not np.isfinite(raw).all():
            self._unscored["nan"] += 1
            self._fail("nan", position)
            return
        self._take(position, raw[None])

    def _take(self, start: int, raw: NDArray[np.float32]) -> None:
        try:
            evaluations = self._tally.feed_rows(start, raw)
        except (ArithmeticError, ValueError):
            # A monitor that breaks is a fault of its own, never an error of the answer.
            self._unscored["error"] += len(raw)
            self._fail("error", start)
            return
        self._scored += len(raw)
        if self.keeps_scores or self.watched.captures:
            self._rows.extend(raw)
            self._positions.extend(range(start, start + len(raw)))
        for evaluation in evaluations:
            if not math.isfinite(evaluation.pooled):
                self._fail("nan", evaluation.position)
            elif self._exceeds(evaluation.pooled):
                self._fire(evaluation.position)

    def miss(self, start: int, stop: int, reason: str) -> None:
        """Take note that positions [start, stop) have no score and will get none."""
        first, last = max(start, self._first), min(stop, self._stop)
        if first < last:
            self._unscored[reason] += last - first
            self._fail(reason, first)

    def give_up(self, position: int, last: int, reason: str) -> None:
        """Wait no longer for the scores owed from ``position`` to ``last``; later ones count."""
        due = self.waits_at(position)
        if due <= last:
            self._fail(reason, due)
            self._waived = last + 1

    def close(self, end: int, missing: str) -> Verdict:
        """Return the verdict of a choice whose owed tokens end before position ``end``.

        Args:
            end: One beyond the last position that may be owed.
            missing: Why scores that are neither in nor accounted for are missing.
        """
        owed = max(0, min(end, self._stop) - self._first)
        scored = min(self._scored, owed)
        lost = owed - scored - self._unscored.total()
        if lost > 0:
            self._unscored[missing] += lost
            if missing != "aborted":
                self._fail(missing, None)
        w, score = self.watched, self._tally.score
        at = self._at
        return Verdict(
            monitor=self.name,
            stage="response" if w.plan.reads_generation else "prompt",
            policy=w.policy,
            mode=w.mode,
            do=w.do,
            score=score,
            threshold=w.threshold,
            rarity=_rarity(w, score),
            fired=self._fired,
            position=at,
            token=None if at is None else at - self.prompt_length,
            ended=self._ended_at is not None,
            scored=scored,
            owed=owed,
            unscored=dict(self._unscored),
            fault=self._fault,
            on_error=w.on_error,
            captures=w.captures,
        )

    def token_scores(self) -> list[float | None]:
        """Return the scores of the clause's tokens that were scored, in order."""
        if not self._rows:
            return []
        values = self.watched.plan.reader.values(np.stack(self._rows))
        return [finite(float(value)) for value in values]

    def scores_between(self, first: int, stop: int) -> tuple[float | None, ...]:
        """Return the score of each position in [first, stop), None where there is none."""
        found: list[float | None] = [None] * max(0, stop - first)
        low, high = bisect_left(self._positions, first), bisect_left(self._positions, stop)
        if low < high:
            values = self.watched.plan.reader.values(np.stack(self._rows[low:high]))
            for position, value in zip(self._positions[low:high], values, strict=True):
                found[position - first] = finite(round(float(value), 5))
        return tuple(found)

    def _exceeds(self, pooled: float) -> bool:
        threshold = self.watched.threshold
        return threshold is not None and pooled > threshold

    def _fire(self, position: int) -> None:
        if not self._fired:
            self._fired, self._at = True, position
        if self.is_enforcing and self.watched.do in ENDING and self._ended_at is None:
            self._ended_at = position

    def _fail(self, reason: str, position: int | None) -> None:
        """Keep the first fault; under ``block`` it ends the answer like a verdict."""
        if self._fault is None:
            self._fault = reason
            if not self._fired:
                self._at = position
        if self.is_enforcing and self.watched.on_error == "block" and self._ended_at is None:
            self._ended_at = position


def ender(watchers: Sequence[Watcher]) -> Watcher | None:
    """Return the watcher that ends the choice: the earliest, the first in order among equals."""
    ending = [w for w in watchers if w.ended_at is not None]
    return min(ending, key=lambda w: w.ended_at or 0, default=None)


def _rarity(watched: Watched, score: float | None) -> float | None:
    if watched.calibration is None or score is None:
        return None
    try:
        return watched.calibration.rarity(score)
    except ValueError:  # its table is of another unit
        return None
