"""Random problems, the slow obvious way to solve them, and a registry over a tiny model."""

from typing import Any

import torch
from torch import Tensor

from editing.cache import TensorCache
from editing.contexts import Contexts
from editing.corpus import Corpus, held
from editing.delta import LowRankDelta
from editing.facts import Fact, parse_facts
from editing.methods import Weights
from editing.registry import Settings, Workbench
from editing.values import ValueRecipe
from tests.models import prompt

DOCUMENTS = tuple(tuple(prompt(20, seed)) for seed in range(40))
CORPUS = Corpus(tuple("text" for _ in DOCUMENTS), DOCUMENTS, "random")
SETTINGS = Settings(
    Contexts(("w60 w61 . ",), ()),
    ValueRecipe(steps=6, rate=0.1, at_once=8),
    Weights(free=0.5, weight=1.0),
    tokens=700,
)


def problem(
    n: int, d_in: int = 24, d_out: int = 10, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys (d_in, n), residuals (d_out, n) and a well-conditioned second moment."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    basis, samples = normal(d_in, d_in), normal(max(400, 4 * d_in), d_in)
    rows = samples @ basis
    return normal(d_in, n), normal(d_out, n), rows.T @ rows / len(rows)


def constrained(keys: Tensor, values: Tensor, moment: Tensor) -> Tensor:
    """Δ of min tr(Δ C Δᵀ) subject to Δ K = R, from its optimality conditions as one system."""
    n = keys.shape[1]
    zero = torch.zeros(n, n, dtype=torch.float64)
    system = torch.cat([torch.cat([moment, keys], 1), torch.cat([keys.T, zero], 1)])
    goal = torch.cat([torch.zeros(len(keys), len(values), dtype=torch.float64), values.T])
    return torch.linalg.solve(system, goal)[: len(keys)].T


def weighed(keys: Tensor, values: Tensor, metric: Tensor) -> Tensor:
    """Δ = R Kᵀ (A + K Kᵀ)⁻¹, its inverse written out."""
    return values @ keys.T @ torch.linalg.inv(metric + keys @ keys.T)


def projected(
    keys: Tensor, values: Tensor, free: Tensor, ridge: float, previous: Tensor
) -> tuple[Tensor, Tensor]:
    """Δ of AlphaEdit with its projector P written out: as published, and as the authors code it."""
    project, gram = free @ free.T, keys @ keys.T + previous @ previous.T
    eye = ridge * torch.eye(len(keys), dtype=torch.float64)
    published = values @ keys.T @ project @ torch.linalg.inv(project @ gram @ project + eye)
    coded = torch.linalg.solve(project @ gram + eye, project @ keys @ values.T).T
    return published, coded


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def facts(n: int) -> tuple[Fact, ...]:
    """Made-up facts in the words of the tiny models."""
    return parse_facts(
        [
            {
                "prompt": f"w20 {{}} w{21 + i % 5}",
                "subject": f"w{60 + i} w{120 + i}",
                "target": f"w{180 + i}",
            }
            for i in range(n)
        ]
    )


def bench(model: Any, words: Any, cache: TensorCache | None = None) -> Workbench:
    return Workbench(model, words, "toy", SETTINGS, held(CORPUS), cache)


def far(one: LowRankDelta, other: LowRankDelta) -> float:
    """The largest relative difference of a layer's dense change."""
    assert one.layers.keys() == other.layers.keys()
    pairs = [(f.dense(), other.layers[layer].dense()) for layer, f in one.layers.items()]
    return max(relative(a, b) for a, b in pairs)
