"""The plan and the statistics of ``trimtab bench``: what is compared with what, and how surely.

A row compares plain vLLM, compiled, with one way of steering. Its runs come in pairs, the order
inside the pairs alternating (A B, B A, A B, …), so that a drift of the machine falls on both sides
alike; each pair gives one ratio and the row's figure is their median.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Literal

from service.errors import ServiceError

MIN_PAIRS = 15
"""Pairs that a stated figure rests on; fewer are for trying out."""
EDIT_LAYERS = 3
TARGET_RATIO = 0.98
"""What every row of ours is to reach on a model of 0.3 B parameters or more."""


class BenchError(ServiceError):
    """A measurement that cannot be made as asked."""


class Side(StrEnum):
    """An engine that runs are made on."""

    PLAIN = "plain"
    CONTROL = "control"
    TRIMTAB = "trimtab"
    EAGER = "eager"


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison with plain vLLM.

    Attributes:
        name: What the table calls it.
        policies: Distinct policies that the requests of a batch choose from, in turn.
        is_stacked: Whether a mandatory policy lies under each choice.
        side: The engine that is compared.
        reads: Reads that are watched at a site, their scores followed to the last token.
        read_sites: Sites that are watched.
        watch: A monitor a site, a monitor a read, or a monitor a site that holds every token.
        ranks: Rank of the edit that every request is under, at ``EDIT_LAYERS`` layers.
    """

    name: str
    policies: int
    is_stacked: bool = False
    side: Side = Side.TRIMTAB
    reads: int = 0
    read_sites: int = 1
    watch: Literal["site", "read", "hold"] = "site"
    ranks: int = 0


ROWS = (
    Row("control", 0, side=Side.CONTROL),
    Row("idle", 0),
    Row("one", 1),
    Row("16", 16),
    Row("64", 64),
    Row("256", 256),
    Row("stacked", 16, is_stacked=True),
    Row("reads", 0, reads=64),
    Row("reads-4", 0, reads=64, read_sites=4),
    Row("monitors", 0, reads=64, watch="read"),
    Row("held", 0, reads=1, watch="hold"),
    Row("edit", 0, ranks=64),
    Row("hooks", 64, side=Side.EAGER),
    Row("eager", 0, side=Side.EAGER),
)
"""All rows. ``control`` is a second engine of plain vLLM: how far its ratio is off 1 lies in the
comparison, not in what is compared. ``reads`` watches 64 reads at one site and ``reads-4`` at each
of four, as one monitor a site; ``monitors`` is 64 monitors of a read each; ``held`` releases each
token only when its score is in; ``edit`` has an edit of rank 64 at three layers under every
request. ``hooks`` is the steering of ``64`` by eager Python hooks, and
``eager`` the same engine without steering, so that the share of the hooks can be told."""


def rows_named(names: str) -> tuple[Row, ...]:
    """Return rows from their names with commas between.

    Raises:
        BenchError: A name is unknown, or there is none.
    """
    known = {row.name: row for row in ROWS}
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if not asked or any(name not in known for name in asked):
        raise BenchError(f"unknown rows in '{names}': choose from {','.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(asked))


def turns(side: Side, pairs: int) -> Iterator[tuple[Side, Side]]:
    """Yield which engine runs first and which second in each pair: A B, then B A, and so on."""
    for pair in range(pairs):
        yield (Side.PLAIN, side) if pair % 2 == 0 else (side, Side.PLAIN)


@dataclass(frozen=True, slots=True)
class Interval:
    """A median with bounds that hold it with probability ``coverage`` or more."""

    median: float
    low: float
    high: float
    coverage: float


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Return the median and the narrowest symmetric interval of order statistics for it.

    Of n independent values the k-th from below and the k-th from above enclose the true median
    unless fewer than k fall on one side of it, so they miss it with probability
    2 · P(Binomial(n, 1/2) < k), whatever the values' distribution (David and Nagaraja, *Order
    Statistics*, 7.1). With too few values for ``confidence`` it is their range, with its coverage.

    Raises:
        BenchError: There are no values.
    """
    if not values:
        raise BenchError("no runs were made, so there is no ratio to state")
    ordered, n = sorted(values), len(values)
    depth = max(
        (k for k in range(1, n // 2 + 1) if _miss(n, k) <= 1 - confidence),
        default=1,
    )
    return Interval(median(ordered), ordered[depth - 1], ordered[n - depth], 1 - _miss(n, depth))


def _miss(n: int, depth: int) -> float:
    return 1.0 if n == 1 else 2 * sum(math.comb(n, i) for i in range(depth)) / 2**n
