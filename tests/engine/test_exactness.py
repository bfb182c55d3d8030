"""Exactness against Hugging Face, token by token, with the engine under pressure.

The tiny random model's logits are far enough apart that a wrong row on one token shows; each
generated token must be the argmax of Hugging Face's logits on the same tokens with the same rows.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from forward.huggingface import SteeredModel, Steering
from forward.program import Program
from tests.engine.live import EAGER, Answer, Ask, LiveEngine
from tests.engine.programs import CAPACITIES, CLAUSES, POINTS, program, varied
from tests.models import build_model, prompt

Pair = tuple[Program | None, Program | None, float]

TIE = 2e-4
"""Two logits closer than this are a tie, which either side may break."""


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[str], Path]) -> Iterator[LiveEngine]:
    """Chunks of 16 tokens, and so little KV memory that requests are preempted."""
    pressure = ("--max-num-batched-tokens", "16", "--max-num-seqs", "16")
    memory = ("--num-gpu-blocks-override", "24")
    with LiveEngine(checkpoint("llama"), CAPACITIES, (*EAGER, *pressure, *memory)) as live:
        yield live


@pytest.fixture(scope="module")
def oracle() -> SteeredModel:
    """The same model in Hugging Face, with the same sites."""
    return SteeredModel(build_model("llama"), POINTS, CAPACITIES[POINTS[0]])


def assert_exact(
    oracle: SteeredModel, ids: list[int], answer: tuple[int, ...], steering: Pair
) -> None:
    """Every token of an answer is what Hugging Face would say after the tokens before it."""
    operator, client, strength = steering
    steerings = [
        Steering(operator) if operator else None,
        Steering(client, strength) if client else None,
    ]
    logits = oracle.logits([*ids, *answer[:-1]], len(ids), steerings)[len(ids) - 1 :]
    chosen = logits[torch.arange(len(answer)), torch.tensor(answer)]
    short = logits.max(-1).values - chosen
    assert short.max() < TIE, f"token {int(short.argmax())} is off by {float(short.max()):.4f}"


def ask_all(
    engine: LiveEngine, cases: list[tuple[list[int], Pair]], max_tokens: int
) -> list[Answer]:
    """Serve all cases together."""
    slots = {id(p): engine.place(p) for _, pair in cases for p in pair[:2] if p is not None}
    asks = [
        Ask(ids, slots.get(id(op)), slots.get(id(client)), strength, max_tokens)
        for ids, (op, client, strength) in cases
    ]
    answers = engine.ask(asks)
    for slot in slots.values():
        engine.policies.slots.retire(slot)
    return answers


def test_chunks_and_preemption_keep_every_token(engine: LiveEngine, oracle: SteeredModel) -> None:
    """Prompts cut into 16-token chunks, requests preempted and resumed: phases stay per token."""
    programs = varied(15)
    cases: list[tuple[list[int], Pair]] = [
        (prompt(40 + 7 * i, seed=i), (programs[i - 1] if i % 3 == 0 else None, programs[i], 1.0))
        for i in range(15)
    ]
    answers = ask_all(engine, cases, max_tokens=40)
    for (ids, pair), answer in zip(cases, answers, strict=True):
        assert len(answer.tokens) == 40
        assert_exact(oracle, ids, answer.tokens, pair)


def test_a_program_matters(engine: LiveEngine) -> None:
    """The oracle test above would also pass for programs that do nothing: these do something."""
    ids = prompt(50, seed=50)
    programs = varied(10)
    cases: list[tuple[list[int], Pair]] = [(ids, (None, p, 1.0)) for p in [None, *programs]]
    plain, *steered = (a.tokens for a in ask_all(engine, cases, max_tokens=24))
    assert sum(tokens != plain for tokens in steered) >= 8


def test_n_choices_carry_the_policy(engine: LiveEngine, oracle: SteeredModel) -> None:
    """All four children of one request are steered."""
    ids = prompt(45, seed=7)
    steering = program("add", CLAUSES[2], scale=4.0)
    slot = engine.place(steering)
    sampled = {"n": 4, "seed": 3, "temperature": 1.0, "top_k": 1}
    [answer] = engine.ask([Ask(ids, None, slot, max_tokens=12, params=sampled)])
    assert len(answer.choices) == 4
    for tokens in answer.choices:
        assert_exact(oracle, ids, tokens, (None, steering, 1.0))
    engine.policies.slots.retire(slot)


def test_a_seed_outlives_chunks(engine: LiveEngine) -> None:
    """A seeded prompt of several chunks draws what a prompt of one chunk would, run after run."""
    ids = prompt(45, seed=8)
    sampled = {"seed": 5, "temperature": 1.0}
    first, again = (engine.ask([Ask(ids, max_tokens=12, params=sampled)])[0] for _ in range(2))
    other = engine.ask([Ask(ids, max_tokens=12, params={**sampled, "seed": 6})])[0]
    assert first.cached == 0 and again.cached > 0
    assert first.tokens == again.tokens != other.tokens


def test_strength_scales_the_client_only(engine: LiveEngine, oracle: SteeredModel) -> None:
    """Strengths are per request, the operator's is not touched, and 0 is none."""
    ids = prompt(60, seed=9)
    operator, client = program("ablate", seed=1), program("add", seed=5)
    cases: list[tuple[list[int], Pair]] = [
        (ids, (operator, client, s)) for s in (0.0, 0.25, 1.0, -2.0)
    ]
    for (_, pair), answer in zip(cases, ask_all(engine, cases, max_tokens=16), strict=True):
        assert_exact(oracle, ids, answer.tokens, pair)


def test_mixed_batch_equals_solo(engine: LiveEngine) -> None:
    """Requests under many policies and strengths together give the tokens of their solo runs."""
    programs = varied(12)
    pairs: list[Pair] = [
        (programs[i % 4] if i % 2 else None, programs[i % 12], 0.5 + 0.25 * (i % 4))
        for i in range(16)
    ]
    cases = [(prompt(36 + i, seed=200 + i), pair) for i, pair in enumerate(pairs)]
    together = [a.tokens for a in ask_all(engine, cases, max_tokens=12)]
    engine.run(engine.client.reset_prefix_cache())
    solo = [ask_all(engine, [case], max_tokens=12)[0].tokens for case in cases]
    assert together == solo
