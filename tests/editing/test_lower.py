"""Lowered edits on a Hugging Face model against the same change merged into its weights."""

import pytest
import torch

from editing.delta import DeltaError, Factors, LowRankDelta, Merged
from editing.lower import lower, together
from editing.projections import projection
from forward.clauses import TokenClause, regions
from forward.hookpoints import HookPoint
from forward.huggingface import SteeredModel, Steering
from forward.program import Program, RowContent
from tests.models import CONFIGS, build_model, prompt

IDS, PROMPT_LENGTH, LAYERS = prompt(14), 9, (0, 2)


def delta_of(model, layers=LAYERS, rank=3, seed=0, size=0.3) -> LowRankDelta:
    """A random change whose parts are about ``size`` of the weights."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[int, Factors] = {}
    for layer in layers:
        matrix = projection(model, layer).matrix
        d_out, d_in = matrix.shape
        u = torch.randn(d_out, rank, generator=generator) * size * matrix.norm() / d_out**0.5
        v, keys = torch.randn(2, rank, d_in, generator=generator)
        made[layer] = Factors.make(u, v, keys)
    return LowRankDelta(made)


def program_of(*deltas: LowRankDelta, match: float | None = None) -> Program:
    contents = together([lower(delta, match) for delta in deltas])
    cut = regions([TokenClause("all")])
    return Program(cut, tuple(RowContent(contents) for _ in cut))


def merged_logits(model, delta: LowRankDelta) -> torch.Tensor:
    with Merged(model, delta), torch.inference_mode():
        return model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]


@pytest.mark.parametrize("family", CONFIGS)
def test_beside_equals_merged_in_every_family(family):
    model = build_model(family)
    delta = delta_of(model)
    steered = SteeredModel(model, [HookPoint("mlp", layer) for layer in LAYERS])
    found = steered.logits(IDS, PROMPT_LENGTH, [None, Steering(program_of(delta), 0.5)])
    wanted = merged_logits(model, delta)
    with torch.inference_mode():
        plain = model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert (wanted - plain).abs().max() > 0.1
    assert torch.equal(steered.logits(IDS, PROMPT_LENGTH), plain)


def test_two_sets_are_their_sum_and_a_shared_part_counts_once():
    model = build_model("llama")
    one, other = delta_of(model, seed=1), delta_of(model, seed=2)
    steered = SteeredModel(model, [HookPoint("mlp", layer) for layer in LAYERS])
    wanted = merged_logits(model, one + other)
    for programs in (
        [None, program_of(one, other)],
        [program_of(one), program_of(other)],
        [program_of(one, other), program_of(other)],
    ):
        steerings = [Steering(p) if p else None for p in programs]
        found = steered.logits(IDS, PROMPT_LENGTH, steerings)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_a_match_that_no_token_reaches_leaves_the_model_alone():
    model = build_model("llama")
    delta = delta_of(model)
    steered = SteeredModel(model, [HookPoint("mlp", layer) for layer in LAYERS])
    never = steered.logits(IDS, PROMPT_LENGTH, [Steering(program_of(delta, match=0.99))])
    assert torch.equal(never, steered.logits(IDS, PROMPT_LENGTH))
    always = steered.logits(IDS, PROMPT_LENGTH, [Steering(program_of(delta, match=-0.99))])
    torch.testing.assert_close(always, merged_logits(model, delta), atol=1e-4, rtol=0)


def test_a_match_needs_keys():
    u, v = torch.ones(4, 1), torch.ones(1, 6)
    with pytest.raises(DeltaError, match="no keys to match"):
        lower(LowRankDelta({0: Factors.make(u, v)}), 0.5)
