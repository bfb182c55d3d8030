"""Edits beside the weights of the real engine: live logits are those of the merged model.

Contradictory edits of one fact in one batch, and beside steering, through the prefix cache.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from editing.delta import LowRankDelta, Merged
from forward.hookpoints import HookPoint
from forward.huggingface import SteeredModel, Steering
from forward.program import Program, RowContent
from forward.site import Capacity
from tests.editing.test_lower import delta_of, program_of
from tests.engine.live import EAGER, Ask, LiveEngine
from tests.engine.programs import CAPACITIES, POINTS, program
from tests.models import build_model, prompt

TOLERANCE = 1e-4
LAYERS = (0, 2)
SIZES = CAPACITIES | {HookPoint("mlp", layer): Capacity(160, 32, 32) for layer in LAYERS}
LOGITS = {"logprobs": -1, "prompt_logprobs": -1}


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[str], Path]) -> Iterator[LiveEngine]:
    """Chunks of 16 tokens, so that prompts are cut."""
    options = ("--max-num-batched-tokens", "16", "--max-num-seqs", "16")
    with LiveEngine(checkpoint("llama"), SIZES, (*EAGER, *options), gates=8) as live:
        yield live


@pytest.fixture(scope="module")
def model():
    return build_model("llama")


def beside(edits: Program, steering: Program) -> Program:
    """One program that edits and steers."""
    edited = edits.contents[0].sites  # the same in every region
    contents = tuple(RowContent({**c.sites, **edited}) for c in steering.contents)
    return Program(steering.regions, contents)


def check(
    engine: LiveEngine,
    model,
    ids: list[int],
    served: tuple[Program | None, Program, float],
    delta: LowRankDelta,
    steering: Steering | None = None,
) -> None:
    """Logits of prompt and answer equal Hugging Face's with the change in its weights."""
    operator, client, strength = served
    slots = [engine.place(p) if p else None for p in (operator, client)]
    [answer] = engine.ask([Ask(ids, *slots, strength, max_tokens=6, params=LOGITS)])
    with Merged(model, delta):
        oracle = SteeredModel(model, POINTS, CAPACITIES[POINTS[0]])
        logits = oracle.logits([*ids, *answer.tokens], len(ids), [None, steering])
    assert answer.prompt_logits is not None and answer.logits is not None
    assert (answer.prompt_logits - logits[: len(ids) - 1]).abs().max() < TOLERANCE
    assert (answer.logits - logits[len(ids) - 1 : -1]).abs().max() < TOLERANCE
    for slot in filter(None, slots):
        engine.policies.slots.retire(slot)


def test_live_logits_are_those_of_the_merged_model(engine, model):
    one, other, ids = delta_of(model, seed=1), delta_of(model, seed=2), prompt(40, seed=7)
    check(engine, model, ids, (None, program_of(one), 1.0), one)
    check(engine, model, ids, (program_of(one), program_of(other), 0.4), one + other)
    check(engine, model, ids, (program_of(one), program_of(one, other), 1.0), one + other)


def test_edits_compose_with_steering(engine, model):
    delta, steering = delta_of(model, seed=3), program("clamp", seed=11)
    client = beside(program_of(delta), steering)
    served = (None, client, 0.7)
    check(engine, model, prompt(40, seed=8), served, delta, Steering(steering, 0.7))


def test_a_key_gate_is_that_of_the_site_in_hugging_face(engine, model):
    gated, ids = program_of(delta_of(model, seed=4), match=0.05), prompt(40, seed=9)
    slot = engine.place(gated)
    [answer] = engine.ask([Ask(ids, None, slot, max_tokens=6, params=LOGITS)])
    oracle = SteeredModel(model, SIZES, SIZES[HookPoint("mlp", 0)])
    logits = oracle.logits([*ids, *answer.tokens], len(ids), [None, Steering(gated)])
    assert answer.prompt_logits is not None
    assert (answer.prompt_logits - logits[: len(ids) - 1]).abs().max() < TOLERANCE
    always = oracle.logits(ids, len(ids), [None, Steering(program_of(delta_of(model, seed=4)))])
    assert (answer.prompt_logits - always[:-1]).abs().max() > 0.01
    engine.policies.slots.retire(slot)


def test_tenants_with_contradictory_edits_share_a_batch_and_no_cache(engine, model):
    """One prompt of three blocks, asked by two tenants and by nobody's, twice over."""
    one = delta_of(model, seed=5)
    other = LowRankDelta(
        {n: type(f)(-f.u, f.v, f.keys) for n, f in one.layers.items()}  # the same facts, turned
    )
    ids = prompt(100, seed=10)
    slots = [engine.place(program_of(delta)) for delta in (one, other)]
    asks = [Ask(ids, None, slot, max_tokens=8) for slot in (*slots, None)]
    first, again = engine.ask(asks), engine.ask(asks * 2)
    expected: list[list[int]] = []
    for delta in (one, other, None):
        with Merged(model, delta or LowRankDelta({})):
            expected += [SteeredModel(model, ()).generate(ids, max_new_tokens=8)]
    assert len({tuple(tokens) for tokens in expected}) == 3
    assert [list(answer.tokens) for answer in first] == expected
    assert [list(answer.tokens) for answer in again] == expected * 2
    assert all(answer.cached >= 96 for answer in again)  # each its own blocks
    for slot in slots:
        engine.policies.slots.retire(slot)
    [after] = engine.ask([Ask(ids, None, None, max_tokens=8)])
    assert list(after.tokens) == expected[2]


def test_rows_and_ranks_are_free_after_the_edit(engine):
    used = engine.policies.slots.used
    assert used["rows"] == used["gates"] == 0
    assert not any(used[f"writes at mlp.{layer}"] for layer in LAYERS)
