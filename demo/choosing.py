"""Choosing how the demo's probes are fitted, without a look at a held-out item.

What is fitted on one half of the portion to fit on is measured on the other, which shares no
person, noun or template cell with it, and the other way round. What counts is recall at low
false-positive rates: the mean over rates from 1 in 1000 to 1 in 10, evenly on a logarithmic scale
(monitors are compared so in "Cost-effective constitutional classifiers via representation re-use",
H. Cunningham et al., 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from demo.generate import Talker
from demo.labelled import Answered
from demo.obeyed import labelled
from demo.probes import LAST_PROMPT, LAYERS, Choice, Recipe, is_for, positions
from demo.prompts import conversation
from forward.hookpoints import HookPoint
from monitors.activations import residuals_at
from monitors.averages import averages
from monitors.fit import Linear, fit_logistic
from monitors.items import Item, Position, token_sequence
from monitors.statistics import conformal_rank

RATES = tuple(float(rate) for rate in np.logspace(-3, -1, 21))
GRADIENT = 1e-5
"""A fit that is only compared need not be exact."""
DIGITS = 3
"""A difference beyond these is chance, and a tie."""

Told = Callable[[Recipe, Choice, float], None]
"""Called with each alternative and what it is worth."""
Seen = Mapping[int, Tensor]
"""By layer, the residuals of the last prompt token and of the answer's, (1 + tokens, d_model)."""


@dataclass(frozen=True)
class Half:
    """What a recipe has of one half: items, and the residuals of the tokens that it scores."""

    items: Sequence[Item]
    seen: Sequence[Seen]


def see(prompts: Sequence[Answered], talker: Talker) -> list[Seen]:
    """Return what each prompt and its answer leave in the residual stream."""
    items = [Item(tuple(conversation(one.checks)), 0, one.answer) for one in prompts]
    sequences = [token_sequence(talker.tokenizer, item) for item in items]  # pyright: ignore[reportArgumentType] -- its calls are untyped
    rows = [range(s.prompt_length - 1, len(s.ids)) for s in sequences]
    points = {layer: HookPoint("resid_post", layer) for layer in LAYERS}
    found = residuals_at(talker.model, sequences, list(points.values()), rows)
    return [
        {layer: found[point][index].float() for layer, point in points.items()}
        for index in range(len(items))
    ]


def half(recipe: Recipe, prompts: Sequence[Answered], seen: Sequence[Seen], talker: Talker) -> Half:
    """Return a recipe's part of what one half has."""
    scored = slice(0, 1) if recipe.clause == LAST_PROMPT else slice(1, None)
    pairs = [
        (item, {layer: x[scored] for layer, x in rows.items()})
        for item, rows in labelled(recipe.monitor, prompts, seen, talker)
        if is_for(recipe, item)
    ]
    return Half([item for item, _ in pairs], [rows for _, rows in pairs])


def choose(recipe: Recipe, halves: Sequence[Half], told: Told) -> Choice:
    """Return the best of a recipe's alternatives, compared stage by stage."""
    worths: dict[Choice, float] = {}
    best = Choice()
    for stage in recipe.stages:
        combined = product(*stage.values())
        tried = [replace(best, **dict(zip(stage, values, strict=True))) for values in combined]
        for choice in tried:
            if choice not in worths:
                worths[choice] = worth(recipe, choice, halves)
                told(recipe, choice, worths[choice])
        best = max(tried, key=lambda choice: worths[choice])
    return best


def worth(recipe: Recipe, choice: Choice, halves: Sequence[Half]) -> float:
    """Return the recall at low rates of what each half's fit tells on the other, on average."""
    a, b = halves
    return round(
        float(np.mean([_recall(recipe, choice, *way) for way in ((a, b), (b, a))])), DIGITS
    )


def recall(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Return the mean recall over ``RATES`` at the thresholds that keep them on ``negative``."""
    ordered = np.sort(negative)
    ranks = [conformal_rank(len(ordered), rate) or len(ordered) for rate in RATES]
    return float(np.mean([(positive > ordered[rank - 1]).mean() for rank in ranks]))


def _recall(recipe: Recipe, choice: Choice, known: Half, other: Half) -> float:
    fit = _fit(recipe, choice, known)
    scores = np.array([_score(recipe, choice, fit, *pair) for pair in _pairs(choice, other)])
    is_positive = np.array([item.label == 1 for item in other.items])
    return recall(scores[is_positive], scores[~is_positive])


def _fit(recipe: Recipe, choice: Choice, known: Half) -> Linear:
    cases = [
        (_at(x, position), item.label)
        for item, x in _pairs(choice, known)
        for position in positions(recipe, choice, item)
    ]
    x = torch.cat([rows for rows, _ in cases])
    y = torch.cat([torch.full((len(rows),), value) for rows, value in cases])
    return fit_logistic(x, y, choice.l2, gradient=GRADIENT)


def _score(recipe: Recipe, choice: Choice, fit: Linear, item: Item, x: Tensor) -> float:
    """Return an item's score as it would be served: the highest over its averaged tokens."""
    if recipe.at_place:
        x = torch.cat([_at(x, position) for position in positions(recipe, choice, item)])
    return float(fit(x).max())


def _pairs(choice: Choice, one: Half) -> list[tuple[Item, Tensor]]:
    """Return each item with its residuals, averaged as the choice's pool averages scores."""
    return [
        (item, averages(seen[choice.layer].double(), choice.pool))
        for item, seen in zip(one.items, one.seen, strict=True)
    ]


def _at(x: Tensor, position: Position) -> Tensor:
    """Return the rows that a position means, among those of the tokens that are scored."""
    return x[position : position + 1] if isinstance(position, int) else x
