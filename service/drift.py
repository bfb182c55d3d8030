"""Recent scores of each monitor under each policy, and how far they are from their calibration."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from monitors.binding import Binding
from monitors.calibration import Calibration
from monitors.drift import Bins, psi
from service.verdicts import Verdict
from service.watch import Watched

WINDOW = 1000
"""Scores kept of each use of a monitor."""
MOST = 256
"""Uses of monitors that scores are kept of."""

Use = tuple[str, str]
"""A monitor and a policy, by name."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How far recent scores have moved, and how many they are."""

    psi: float
    scores: int


class RecentScores:
    """The last scores of each use of a monitor; memory is bounded whatever is asked of a server."""

    def __init__(self, window: int = WINDOW, most: int = MOST) -> None:
        """Keep ``window`` scores of each of at most ``most`` uses."""
        self._window, self._most = window, most
        self._scores: dict[Use, deque[float]] = {}
        self._bins: dict[Use, tuple[Binding, Bins]] = {}

    def note(self, verdict: Verdict) -> None:
        """Keep a score; one that has no calibration, or is no number, has nothing to drift from."""
        if verdict.score is None or verdict.rarity is None or not math.isfinite(verdict.score):
            return
        use = (verdict.monitor.rpartition("/")[2], verdict.policy.partition("@")[0])
        kept = self._scores.get(use)
        if kept is None:
            if len(self._scores) >= self._most:
                return
            kept = self._scores[use] = deque(maxlen=self._window)
        kept.append(verdict.score)

    def found(self, watched: Iterable[Watched]) -> Mapping[Use, Drift]:
        """Return the drift of uses that have scores; what is not used any more is dropped."""
        calibrated = {
            (w.monitor, w.policy_name): w.calibration for w in watched if w.calibration is not None
        }
        for use in [use for use in self._scores if use not in calibrated]:
            del self._scores[use]
            self._bins.pop(use, None)
        binned = {use: self._binned(use, calibrated[use]) for use in self._scores}
        return {
            use: Drift(psi(bins.expected, bins.counts(self._scores[use])), len(self._scores[use]))
            for use, bins in binned.items()
            if self._scores[use]
        }

    def _binned(self, use: Use, calibration: Calibration) -> Bins:
        known = self._bins.get(use)
        if known is not None and known[0] == calibration.binding:
            return known[1]
        if known is not None and known[0].plan != calibration.binding.plan:
            self._scores[use].clear()  # scores of another plan are not comparable
        bins = Bins.of(calibration.request)
        self._bins[use] = (calibration.binding, bins)
        return bins
