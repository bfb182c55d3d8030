"""From the activations of two classes to a vector, and how well it tells them apart.

All in float64; ``positive`` and ``negative`` are (pairs, d_model), row i of both is pair i.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from steering.direction import Separation

Method = Literal["mean", "pca"]

FOLDS = 4
NEGLIGIBLE = 1e-6
"""A vector shorter than this part of the activations is rounding, not a difference."""
D_PRIME_LIMIT = 1e6
"""Stands for infinity where the classes have no spread."""


def mean_difference(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the difference of the class means, (d_model,).

    The vector of Turner et al. 2023 and, averaged over pairs, of contrastive activation addition
    (Rimsky et al. 2024); its length is the natural scale.
    """
    return positive.mean(0) - negative.mean(0)


def principal_component(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the first principal component of the pairs, (d_model,), as long as its deviation.

    Each pair is centred on its own mean, so what two pairs differ in as topics drops out (Zou et
    al. 2023). The centred points are ±half the differences: their mean is zero, and the component
    is the first right singular vector of the differences. Its length is the standard deviation of
    the centred points along it; its sign is the mean difference's.
    """
    half = (positive - negative) / 2
    _, singular, axes = torch.linalg.svd(half, full_matrices=False)
    axis = axes[0]
    # ±half gives 2n points with the squares of half twice, so the deviation is
    # the singular value over the root of n
    deviation = singular[0] / math.sqrt(len(half))
    return torch.copysign(deviation, mean_difference(positive, negative) @ axis) * axis


def fit(positive: Tensor, negative: Tensor, method: Method) -> Tensor | None:
    """Return the natural vector (unit times scale) by a method, (d_model,).

    None when the classes do not differ, as at the input of the first layer when both end with
    the same token.
    """
    make = mean_difference if method == "mean" else principal_component
    vector = make(positive, negative)
    size = (positive.norm(dim=-1).mean() + negative.norm(dim=-1).mean()) / 2
    return vector if float(vector.norm()) > NEGLIGIBLE * float(size) else None


def held_out_separation(positive: Tensor, negative: Tensor, method: Method) -> Separation | None:
    """Return the separation of pairs by a vector fitted without them, averaged over folds.

    None when there are not two pairs in every fold to measure a spread (fewer than 8 pairs), or
    when the classes do not differ.
    """
    found = [
        separation(positive[test] @ axis, negative[test] @ axis)
        for axis, test in _folds(positive, negative, method)
    ]
    if not found:
        return None
    n = len(found)
    return Separation(sum(s.auroc for s in found) / n, sum(s.d_prime for s in found) / n)


def separation(positive: Tensor, negative: Tensor) -> Separation:
    """Return how well scores (n,) and (m,) of two classes are separated."""
    higher = (positive.unsqueeze(1) > negative).double()
    tied = (positive.unsqueeze(1) == negative).double()
    auroc = float((higher + tied / 2).mean())
    gap = float(positive.mean() - negative.mean())
    spread = math.sqrt(float(positive.var() + negative.var()) / 2)
    d_prime = gap / spread if spread else math.copysign(D_PRIME_LIMIT, gap) if gap else 0.0
    return Separation(auroc, max(-D_PRIME_LIMIT, min(D_PRIME_LIMIT, d_prime)))


def _folds(positive: Tensor, negative: Tensor, method: Method) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the unit vector fitted on three quarters and the indices of the last quarter."""
    index = torch.arange(len(positive))
    if len(index) < 2 * FOLDS:
        return
    for fold in range(FOLDS):
        test = index[index % FOLDS == fold]
        train = index[index % FOLDS != fold]
        vector = fit(positive[train], negative[train], method)
        if vector is not None:
            yield vector / vector.norm(), test
