"""Residuals averaged as a pool averages scores, to fit a probe on what its pool will see.

The score of an average of residuals is the average of their scores, since a probe is linear. So
the pools that average (mean, ema, rolling) can be had before there is a probe, and one fitted on
averages weighs early tokens against late ones as it will when it is served. Fitted on single
tokens and pooled afterwards it would not.
"""

import torch
from torch import Tensor

from monitors.pooling import Pool, PoolError

SINGLE = Pool("max")
"""Compares the scores of single tokens."""


def is_average(pool: Pool) -> bool:
    """Whether what a pool compares are averages of scores rather than single scores."""
    return pool.kind not in ("max", "last")


def averages(rows: Tensor, pool: Pool) -> Tensor:
    """Return, for each token, the average up to it that a pool takes, (tokens, d_model).

    ``max`` and ``last`` average nothing. A pool's value is a linear score's highest over these
    rows, of ``mean`` and ``last`` that of the last row.

    Args:
        rows: (tokens, d_model) residuals of consecutive tokens, from the first that is scored.
        pool: How scores are pooled.

    Raises:
        PoolError: Its weights depend on the scores.
    """
    match pool.kind:
        case "max" | "last":
            return rows
        case "mean":
            return _means(rows, len(rows))
        case "rolling":
            return _means(rows, pool.window)
        case "ema":
            return _ema(rows, pool.alpha)
        case "softmax" | "attention":
            raise PoolError(
                f"the weights of {pool.kind} depend on the scores, so residuals cannot be averaged "
                "before there is a probe; use mean, ema or rolling"
            )


def _means(rows: Tensor, window: int) -> Tensor:
    """Return the mean of the last ``window`` rows at each, of all so far while they are fewer."""
    sums = torch.cat([torch.zeros_like(rows[:1]), rows.cumsum(0)])
    ends = torch.arange(1, len(rows) + 1)
    starts = (ends - window).clamp(min=0)
    return (sums[ends] - sums[starts]) / (ends - starts).to(rows.dtype).unsqueeze(-1)


def _ema(rows: Tensor, alpha: float) -> Tensor:
    """Return e_t = α·x_t + (1 − α)·e_(t−1), e_0 = x_0."""
    found = [rows[:1]]
    for row in rows[1:].split(1):
        found.append(alpha * row + (1 - alpha) * found[-1])
    return torch.cat(found)
