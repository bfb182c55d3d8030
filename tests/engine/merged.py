"""What merging is compared with: Hugging Face's model with the same deltas in its weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from editing.delta import EMPTY, Factors, LowRankDelta, Merged
from editing.projections import projection
from forward.digest import tensor_digest
from tests.conformance.parity import EVERYTHING, logits_of
from tests.engine.live import Ask, LiveEngine

LAYERS = (1, 2)
N_TOKENS = 6
TOLERANCE = 1e-4


def random_delta(
    model: Any, seed: int, layers: Sequence[int] = LAYERS, rank: int = 6, scale: float = 0.3
) -> LowRankDelta:
    """Return a delta that moves logits far more than rounding does."""
    generator = torch.Generator().manual_seed(seed)
    factors: dict[int, Factors] = {}
    for layer in layers:
        d_out, d_in = projection(model, layer).matrix.shape
        u = torch.randn(d_out, rank, generator=generator)
        v = torch.randn(rank, d_in, generator=generator)
        factors[layer] = Factors.make(scale * u / d_out**0.5, v)
    return LowRankDelta(factors)


def digests(
    model: Any, deltas: Sequence[LowRankDelta] = (), ranks: int = 1, layers: Sequence[int] = LAYERS
) -> Mapping[int, tuple[str, ...]]:
    """Return by layer what each rank's bytes must hash to: columns of Hugging Face's matrix."""
    with Merged(model, sum(deltas, EMPTY)):
        matrices = {layer: projection(model, layer).matrix for layer in layers}
        return {
            layer: tuple(tensor_digest(part) for part in matrix.chunk(ranks, dim=1))
            for layer, matrix in matrices.items()
        }


def tokens(engine: LiveEngine, prompts: Sequence[list[int]]) -> list[tuple[int, ...]]:
    """Return the greedy answers to prompts that are served together, with nothing cached."""
    engine.run(engine.client.reset_prefix_cache())
    return [a.tokens for a in engine.ask([Ask(ids, max_tokens=N_TOKENS) for ids in prompts])]


def error(engine: LiveEngine, model: Any, ids: list[int], delta: LowRankDelta) -> float:
    """Return the largest difference of served logits to Hugging Face's with merged weights."""
    [answer] = engine.ask([Ask(ids, max_tokens=N_TOKENS, params=EVERYTHING)])
    expected = logits(model, [*ids, *answer.tokens[:-1]], delta)
    return float((logits_of(answer) - expected).abs().max())


def shortfall(
    model: Any, ids: Sequence[int], answer: Sequence[int], delta: LowRankDelta = EMPTY
) -> float:
    """Return how far an answer's tokens are from the highest logit, at the worst of them."""
    after = logits(model, [*ids, *answer[:-1]], delta)[len(ids) - 1 :]
    chosen = after[torch.arange(len(answer)), torch.tensor(answer)]
    return float((after.max(-1).values - chosen).max())


def logits(model: Any, ids: Sequence[int], delta: LowRankDelta = EMPTY) -> torch.Tensor:
    """Return Hugging Face's logits after every token, with a delta in the weights."""
    with Merged(model, delta), torch.inference_mode():
        return model(input_ids=torch.tensor([list(ids)])).logits[0].float()
