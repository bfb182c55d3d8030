"""How far recent scores have moved from those of calibration: the population stability index.

The benign scores are cut into bins at their own quantiles, and the shares of recent scores are
compared with the shares that they had then: PSI = Σ (a − e)·ln(a/e). By custom 0.1 is worth a look,
and 0.25 says that the scores come from somewhere else.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from monitors.benign import BenignTable

BINS = 10


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of scores, with the share of the benign ones in each.

    Attributes:
        edges: Ascending and distinct; bin i holds scores above edge i - 1 and at most edge i.
        expected: One share more than there are edges; each is above 0, and they add up to 1.
    """

    edges: tuple[float, ...]
    expected: tuple[float, ...]

    @classmethod
    def of(cls, table: BenignTable, count: int = BINS) -> "Bins":
        """Return bins of equal benign shares, as far as the scores are distinct.

        Scores that many benign requests share make a bin larger than the others, or fewer bins; a
        table of a single value has one bin, and nothing drifts in it.
        """
        below = table.n - table.above
        wanted = np.arange(1, count) * table.n / count
        found = np.unique(np.searchsorted(below, wanted, side="left"))
        found = found[found < len(table.values) - 1]  # nothing lies above the highest
        edges = tuple(float(value) for value in table.values[found])
        cumulative = np.concatenate([[0], below[found], [table.n]])
        return cls(edges, tuple(float(share) for share in np.diff(cumulative) / table.n))

    def counts(self, scores: ArrayLike) -> tuple[int, ...]:
        """Return how many scores lie in each bin."""
        array = np.asarray(scores, dtype=np.float64).reshape(-1)
        places = np.searchsorted(np.asarray(self.edges), array, side="left")
        return tuple(int(count) for count in np.bincount(places, minlength=len(self.expected)))


def psi(expected: Sequence[float], counts: Sequence[int]) -> float:
    """Return the index of observed counts against expected shares; half a count is added to each.

    Without drift it is about (bins - 1)/n, so it says little of few scores.

    Raises:
        ValueError: There are not as many counts as shares.
    """
    total = sum(counts) + 0.5 * len(counts)
    shares = [(count + 0.5) / total for count in counts]
    return sum((a - e) * math.log(a / e) for a, e in zip(shares, expected, strict=True))
