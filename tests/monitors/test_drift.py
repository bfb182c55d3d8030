"""The population stability index against closed forms."""

import math

import numpy as np
import pytest

from monitors.benign import BenignTable
from monitors.drift import Bins, psi


def test_scores_at_even_ranks_make_even_bins():
    bins = Bins.of(BenignTable.of(range(100)))
    assert bins.edges == tuple(float(10 * i - 1) for i in range(1, 10))
    assert bins.expected == pytest.approx((0.1,) * 10)
    assert bins.counts(range(100)) == (10,) * 10


def test_a_score_belongs_below_the_edge_that_it_lies_on():
    bins = Bins.of(BenignTable.of(range(100)), count=2)
    assert bins.edges == (49.0,)
    assert bins.counts([49.0, 49.5, -1e9, 1e9]) == (2, 2)


def test_shared_scores_make_larger_bins_and_their_shares_are_exact():
    table = BenignTable.of([0.0] * 70 + [1.0] * 20 + [2.0] * 10)
    bins = Bins.of(table)
    assert bins.edges == (0.0, 1.0)
    assert bins.expected == pytest.approx((0.7, 0.2, 0.1))


def test_one_value_is_one_bin_in_which_nothing_drifts():
    bins = Bins.of(BenignTable.of([3.0] * 50))
    assert (bins.edges, bins.expected) == ((), (1.0,))
    assert psi(bins.expected, bins.counts([3.0, 9.0])) == 0.0


def test_the_bins_of_a_large_table_are_those_of_its_scores():
    """A table keeps some order statistics only: expected shares are counted, not interpolated."""
    scores = np.random.default_rng(0).normal(size=5000)
    bins = Bins.of(BenignTable.of(scores))
    rounded = np.asarray(scores, dtype=np.float32)
    observed = np.array(bins.counts(rounded)) / 5000
    assert np.abs(observed - np.array(bins.expected)).max() <= 2 / 5000  # rounding up to float32
    assert np.abs(np.array(bins.expected) - 0.1).max() < 0.01


def test_no_shift_is_nothing_and_a_shift_is_its_closed_form():
    assert psi((0.5, 0.5), (500, 500)) == 0.0
    a = (900.5 / 1001, 100.5 / 1001)
    shifted = (a[0] - 0.5) * math.log(a[0] / 0.5) + (a[1] - 0.5) * math.log(a[1] / 0.5)
    assert psi((0.5, 0.5), (900, 100)) == pytest.approx(shifted)
    assert psi((0.5, 0.5), (900, 100)) == pytest.approx(0.8 * math.log(3), rel=0.01)


def test_an_empty_bin_is_far_and_not_infinite():
    assert 1 < psi((0.5, 0.5), (0, 100)) < 10


def test_without_drift_it_is_about_bins_less_one_by_the_number_of_scores():
    rng = np.random.default_rng(1)
    bins = Bins.of(BenignTable.of(np.arange(10_000)))
    found = [psi(bins.expected, bins.counts(rng.uniform(0, 10_000, 500))) for _ in range(200)]
    assert np.mean(found) == pytest.approx(9 / 500, rel=0.15)


def test_counts_must_fit_the_shares():
    with pytest.raises(ValueError, match="argument 2"):
        psi((0.5, 0.5), (1,))
