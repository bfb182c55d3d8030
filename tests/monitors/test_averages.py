"""What a pool makes of scores is the score of what it makes of residuals."""

import pytest
import torch

from monitors.averages import averages, is_average
from monitors.pooling import Pool, PoolError, pooled

POOLS = (
    Pool("max"),
    Pool("last"),
    Pool("mean"),
    Pool("ema", alpha=0.3),
    Pool("ema", alpha=1.0),
    Pool("rolling", window=1),
    Pool("rolling", window=3),
    Pool("rolling", window=50),
)


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_the_score_of_an_average_is_the_average_of_scores(pool, n):
    rows = torch.randn(n, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    vector = torch.linspace(-1, 2, 5, dtype=torch.float64)
    seen = averages(rows, pool)
    assert seen.shape == rows.shape
    for end in range(1, n + 1):
        scores = (seen[:end] @ vector).tolist()
        expected = pooled(pool, (rows[:end] @ vector).tolist(), [0.0] * end)
        found = scores[-1] if pool.kind in ("mean", "last") else max(scores)
        assert found == pytest.approx(expected, abs=1e-12)


def test_a_window_forgets_and_an_ema_does_not():
    rows = torch.tensor([[8.0], [0.0], [0.0]])
    assert averages(rows, Pool("rolling", window=2)).flatten().tolist() == [8.0, 4.0, 0.0]
    assert averages(rows, Pool("ema", alpha=0.5)).flatten().tolist() == [8.0, 4.0, 2.0]
    assert averages(rows, Pool("mean")).flatten().tolist() == pytest.approx([8.0, 4.0, 8 / 3])


def test_which_pools_average():
    assert [is_average(pool) for pool in POOLS[:5]] == [False, False, True, True, True]


@pytest.mark.parametrize("kind", ["softmax", "attention"])
def test_weights_that_depend_on_scores_are_refused(kind):
    with pytest.raises(PoolError, match="use mean, ema or rolling"):
        averages(torch.zeros(2, 2), Pool(kind))
