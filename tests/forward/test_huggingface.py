"""Sites on Hugging Face models: exact before, at and after the site, for every family."""

import pytest
import torch

from forward.capture import capturing
from forward.clauses import TokenClause, regions
from forward.columns import Read, bound, linear, set_to
from forward.hookpoints import HookPoint, HookPointError
from forward.huggingface import SteeredModel, Steering, SteeringError
from forward.program import EMPTY, Program, RowContent, SiteContent
from forward.site import Capacity
from forward.tables import CapacityError
from tests.models import CONFIGS, D_MODEL, EOS, N_LAYERS, build_model, prompt
from tests.reference import steer_stream

LAYER = 1
POINTS = [HookPoint("resid_pre", LAYER), HookPoint("resid_post", LAYER)]
PROMPT_LENGTH = 9
IDS = prompt(14)


def unit(seed: int) -> torch.Tensor:
    vector = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(seed))
    return vector / vector.norm()


def program(point: HookPoint, site: SiteContent, clause: TokenClause | None = None) -> Program:
    """Return a program that writes ``site`` at ``point`` on the tokens of one clause."""
    clause = clause or TokenClause("all")
    cut = regions([clause])
    filled = RowContent({point: site})
    return Program(cut, tuple(filled if clause.covers(r) else RowContent() for r in cut))


def add(seed: int, size: float, point=POINTS[1], clause=None) -> Program:
    return program(point, SiteContent(size * unit(seed)), clause)


@pytest.fixture(scope="module", params=list(CONFIGS))
def model(request):
    return build_model(request.param)


@pytest.fixture
def steered(model):
    return SteeredModel(model, POINTS)


def plain_logits(model, ids=IDS):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def test_without_steering_logits_are_bit_equal(model, steered):
    for steerings in ([], [None, None], [Steering(EMPTY)], [Steering(add(1, 5.0), 0.0)]):
        assert torch.equal(steered.logits(IDS, PROMPT_LENGTH, steerings), plain_logits(model))


@pytest.mark.parametrize("clause", ["all", "prompt", "last_prompt", "generation", "from 2"])
def test_exact_before_at_and_after_the_site(model, steered, clause):
    """Up to the site nothing changes; at it the write's tokens get residual + delta, no others."""
    phase, start = ("generation", 2) if clause == "from 2" else (clause, 0)
    clause = TokenClause(phase, start)
    point, delta = POINTS[1], 3.0 * unit(1)
    watched = [HookPoint("resid_pre", layer) for layer in range(N_LAYERS)]
    with capturing(model, watched) as plain:
        plain_logits(model)
    with capturing(model, watched) as found:
        steered.logits(IDS, PROMPT_LENGTH, [Steering(program(point, SiteContent(delta), clause))])
    for layer in range(LAYER + 1):
        assert torch.equal(found[watched[layer]], plain[watched[layer]])
    after, before = found[watched[LAYER + 1]][0], plain[watched[LAYER + 1]][0]
    covered = torch.tensor([_covers(clause, position) for position in range(len(IDS))])
    assert torch.equal(after[covered], before[covered] + delta)
    assert torch.equal(after[~covered], before[~covered])
    first = int(covered.nonzero()[0])
    later, plain_later = found[watched[LAYER + 2]][0], plain[watched[LAYER + 2]][0]
    assert torch.equal(later[:first], plain_later[:first])
    assert not torch.allclose(later[first:], plain_later[first:])


def _covers(clause: TokenClause, position: int) -> bool:
    generated = position - PROMPT_LENGTH
    return {
        "all": True,
        "prompt": generated < 0,
        "last_prompt": generated == -1,
        "generation": generated >= clause.start,
    }[clause.phase]


def test_two_sources_with_columns_equal_the_loop(model, steered):
    """A mandatory ablation on the prompt and a chosen bound from token 2 on, on one site."""
    operator = program(
        POINTS[1],
        SiteContent(0.5 * unit(3), ((linear(Read(unit(1)), unit(1)), 1.0),)),
        TokenClause("prompt"),
    )
    column = bound(Read(unit(2)), unit(2), -0.2, 0.1).measured_by_norm()
    client = program(POINTS[1], SiteContent(None, ((column, 1.0),)), TokenClause("generation", 2))
    following = HookPoint("resid_pre", LAYER + 1)
    with capturing(model, [following]) as plain:
        plain_logits(model)
    with capturing(model, [following]) as found:
        steered.logits(IDS, PROMPT_LENGTH, [Steering(operator), Steering(client, 0.7)])
    expected = steer_stream(
        [(operator, 1.0), (client, 0.7)], POINTS[1], plain[following][0], PROMPT_LENGTH
    )
    torch.testing.assert_close(found[following][0].double(), expected, atol=2e-5, rtol=1e-5)


def test_a_write_before_a_layer_equals_one_after_the_layer_before(model):
    pre, post = HookPoint("resid_pre", LAYER + 1), HookPoint("resid_post", LAYER)
    steered = SteeredModel(model, [pre, post])
    found = [
        steered.logits(IDS, PROMPT_LENGTH, [Steering(add(1, 4.0, point))]) for point in (pre, post)
    ]
    assert torch.equal(*found)


def test_ablation_leaves_no_projection(model, steered):
    v, following = unit(1), HookPoint("resid_pre", LAYER + 1)
    ablate = program(POINTS[1], SiteContent(None, ((linear(Read(v), v), 1.0),)))
    with capturing(model, [following]) as found:
        steered.logits(IDS, PROMPT_LENGTH, [Steering(ablate)])
    assert (found[following][0] @ v).abs().max() < 1e-4


def test_twenty_times_the_vector_is_strength_twenty(model, steered):
    big = steered.logits(IDS, PROMPT_LENGTH, [Steering(add(1, 20 * 0.25))])
    strong = steered.logits(IDS, PROMPT_LENGTH, [None, Steering(add(1, 0.25), 20.0)])
    assert torch.equal(big, strong)
    assert not torch.allclose(big, plain_logits(model), atol=1e-2)


def test_adding_and_taking_away_is_the_baseline(model, steered):
    both = [Steering(add(1, 4.0)), Steering(add(1, 4.0), -1.0)]
    assert torch.equal(steered.logits(IDS, PROMPT_LENGTH, both), plain_logits(model))


def test_the_model_is_left_as_found(model):
    expected = plain_logits(model)
    parameters = {name: p.clone() for name, p in model.named_parameters()}
    steered = SteeredModel(model, POINTS)
    steered.logits(IDS, PROMPT_LENGTH, [Steering(add(1, 9.0))])
    steered.generate(IDS, [Steering(add(1, 9.0))], 3)
    with pytest.raises(CapacityError):
        steered.logits(IDS, PROMPT_LENGTH, [Steering(add(1, 9.0, HookPoint("resid_post", 2)))])
    assert torch.equal(plain_logits(model), expected)
    assert all(torch.equal(parameters[name], p) for name, p in model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_generation_equals_full_recomputation(model, steered):
    """Greedy tokens with cache and left padding are the argmax of uncached forward passes."""
    fixed = SiteContent(None, ((set_to(Read(unit(4)), unit(4), 5.0), 1.0),))
    steerings = [
        Steering(add(1, 6.0, clause=TokenClause("generation", 2))),
        Steering(program(POINTS[0], fixed, TokenClause("last_prompt")), 1.5),
    ]
    prompts = [prompt(7, 1), prompt(3, 2), prompt(12, 3), prompt(1, 4)]
    found = steered.generate_batch(prompts, steerings, 6, batch_size=3)
    for ids, answer in zip(prompts, found, strict=True):
        assert len(answer) == 6
        logits = steered.logits([*ids, *answer[:-1]], len(ids), steerings)
        assert logits[len(ids) - 1 :].argmax(-1).tolist() == answer
        assert steered.generate(ids, steerings, 6) == answer


def test_eos_ends_an_answer_and_is_its_last_token():
    steered = SteeredModel(build_model("llama"), POINTS)
    free = steered.generate(IDS, max_new_tokens=8)
    stop = free[3]
    assert steered.generate(IDS, max_new_tokens=8, eos=[EOS, stop]) == free[: free.index(stop) + 1]
    assert steered.generate(IDS, max_new_tokens=0) == []
    assert steered.generate_batch([]) == []


def test_programs_are_placed_only_for_a_call():
    steered = SteeredModel(build_model("llama"), POINTS, Capacity(rows=2, reads=1, writes=1))
    for seed in range(5):
        steered.logits(IDS, PROMPT_LENGTH, [Steering(add(seed, 1.0))])
    with pytest.raises(CapacityError, match="no rows left"):
        steered.logits(IDS, PROMPT_LENGTH, [Steering(add(1, 1.0)), Steering(add(2, 1.0))])
    steered.logits(IDS, PROMPT_LENGTH, [Steering(add(1, 1.0)), Steering(add(1, 1.0))])


def test_what_cannot_be_steered_is_refused():
    model = build_model("llama")
    steered = SteeredModel(model, POINTS)
    with pytest.raises(SteeringError, match="3 steerings"):
        steered.logits(IDS, PROMPT_LENGTH, [None, None, None])
    with pytest.raises(SteeringError, match="not a finite number"):
        steered.logits(IDS, PROMPT_LENGTH, [Steering(EMPTY, float("nan"))])
    with pytest.raises(SteeringError, match="no tokens"):
        steered.generate_batch([[]])
    with pytest.raises(HookPointError, match="outside the model"):
        SteeredModel(model, [HookPoint("resid_post", N_LAYERS)])
