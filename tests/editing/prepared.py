"""What the proofs of edits share: facts about people of one split, with rows, values and judges.

Settings were chosen on the people that ``split`` keeps for it (``tuned``); every figure that is
judged is of the others (``judged``). No person is in both.
"""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from editing.contexts import Rows
from editing.delta import LowRankDelta
from editing.facts import MethodName
from editing.methods import Solver, Weights, spread
from editing.moments import SecondMoment
from editing.projections import projection
from editing.values import Value, ValueRecipe, fit_values
from tests.editing.demo_edits import DemoEdit, demo_edits, split
from tests.editing.demo_model import bench
from tests.editing.quality import Judge, rows

SMALL = bool(os.environ.get("TRIMTAB_PROVE_SMALL"))
"""A smaller run for trying a proof out; what it writes is no evidence at full size."""
LAYER = 2
"""A third of the demo's depth: where its subjects are read (docs/evidence/edit_quality.json)."""
N_KEEP = 8
"""Two wordings of each other relation, told to stay."""
RECIPE = ValueRecipe(steps=40, clamp=8.0, stop=0.005)


class Prepared:
    """Edits with all that they are solved from; values are fitted when first asked for."""

    def __init__(
        self,
        edits: Sequence[DemoEdit],
        layers: tuple[int, ...] = (LAYER,),
        recipe: ValueRecipe = RECIPE,
    ) -> None:
        self.edits, self.layers, self.recipe = list(edits), layers, recipe
        self.bench = bench(values=recipe)
        self.model: Any = self.bench.model
        self.place = projection(self.model, layers[-1])
        self.rows: list[Rows] = rows(self.bench, self.edits)
        self._judges: dict[int, Judge] = {}

    @cached_property
    def values(self) -> list[Value]:
        return fit_values(self.model, self.place, self.rows, self.recipe)

    @cached_property
    def deltas(self) -> Tensor:
        return torch.stack([value.delta for value in self.values])

    @cached_property
    def moments(self) -> Mapping[int, SecondMoment]:
        return self.bench.moments(self.layers)

    def solver(self, method: MethodName, weights: Weights | None = None) -> Solver:
        return Solver(method, self.moments, weights or Weights())

    def change(self, solver: Solver, start: int, end: int) -> LowRankDelta:
        """Some of the edits, solved together."""
        part = slice(start, end)
        return spread(self.model, solver, self.layers, self.rows[part], self.deltas[part])

    def judge(self, n: int) -> Judge:
        """Who judges the first so many."""
        if n not in self._judges:
            self._judges[n] = Judge(self.bench, self.edits[:n])
        return self._judges[n]


def judged(n: int, n_keep: int = N_KEEP, **settings: Any) -> Prepared:
    """Edits of people whom nothing was tuned on."""
    return Prepared(demo_edits(n, seed=7, n_keep=n_keep, among=split()[0]), **settings)


def tuned(n: int, n_keep: int = N_KEEP, **settings: Any) -> Prepared:
    """Edits of the people whom settings were chosen on."""
    return Prepared(demo_edits(n, seed=11, n_keep=n_keep, among=split()[1]), **settings)
