"""The least amount and the strictest rate that do what `gated` is for."""

import pytest

from demo.effects import Demo
from demo.gating import AMOUNTS, NEARLY_ALL, GatingError, amount, rate
from monitors.benign import BenignTable
from monitors.binding import Binding
from monitors.calibration import Calibration
from monitors.report import FiredAt, SliceResult
from monitors.statistics import wilson

N = 100
TABLE = BenignTable.of([0.0, 1.0])
BINDING = Binding("m", "t", "c", "p", "")


def fired(name, label, shares):
    counts = {fpr: round(share * N) for fpr, share in shares.items()}
    marks = tuple(FiredAt(fpr, k, wilson(k, N)) for fpr, k in counts.items())
    return SliceResult(name, label, N, marks)


def calibration(shares):
    slices = (
        fired("framed", 0, {0.1: 1.0, 0.01: 1.0, 0.001: 1.0}),
        fired("harmful", 1, {0.1: 1.0, 0.01: 1.0, 0.001: 1.0}),
        fired("jailbreak", 1, shares),
    )
    return Calibration("harm", BINDING, TABLE, TABLE, slices)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({0.1: 1.0, 0.01: 1.0, 0.001: 0.99}, 0.001),
        ({0.1: 1.0, 0.01: 0.98, 0.001: 0.97}, 0.01),
        ({0.1: 1.0}, 0.1),
    ],
)
def test_the_strictest_rate_at_which_frames_fire(shares, expected):
    assert rate(calibration(shares)) == expected


def test_no_rate_is_an_error():
    with pytest.raises(GatingError, match="'harm' misses too much"):
        rate(calibration({0.1: 0.97, 0.01: 0.5}))


def test_the_least_amount_is_taken_and_no_more_is_tried():
    told = {}
    found = amount(Demo(), told.__setitem__, n=12)
    assert list(told) == list(AMOUNTS[: AMOUNTS.index(found) + 1])
    assert told[found] >= NEARLY_ALL > max(told[tried] for tried in told if tried != found)
