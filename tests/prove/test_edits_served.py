"""Served edits: live logits are those of merged weights, tenants are apart, and revert is exact.

Random edits on every family, eager; on one family compiled and on two ranks; then the demo's two
contradictory sets, as its policies compile, for two tenants in one batch with the prefix cache on.
(Edits merged into the engine's own weights are the section `merged`.)
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from demo.effects import HERE
from demo.prompts import conversation, prompts
from editing.delta import LowRankDelta, Merged
from editing.library import edits_in
from forward.checkpoint import load_model, load_tokenizer
from forward.families import FAMILIES
from forward.hookpoints import HookPoint
from forward.huggingface import SteeredModel
from forward.prompts import render_chat
from forward.site import Capacity
from tests.editing.test_lower import delta_of, program_of
from tests.engine.live import EAGER, Ask, LiveEngine
from tests.models import prompt

pytestmark = pytest.mark.prove

TOLERANCE = 1e-4
LAYERS = (0, 2)
SIZES = {HookPoint("mlp", layer): Capacity(16, 32, 32) for layer in LAYERS}
LOGITS = {"logprobs": -1, "prompt_logprobs": -1}
RUNS = {
    **{f"{family} eager": (family, EAGER) for family in FAMILIES},
    "llama compiled": ("llama", ()),
    "llama eager, two ranks": ("llama", (*EAGER, "--tensor-parallel-size", "2")),
    "llama compiled, two ranks": ("llama", ("--tensor-parallel-size", "2")),
}
N_ASKED, N_ACTIVATIONS, N_ANSWER = 200, 40, 24


def gap(live: LiveEngine, model: Any, ids: Sequence[int], delta: LowRankDelta) -> float:
    """The largest difference of a logit, prompt and answer, from the merged model's."""
    slot = live.place(program_of(delta)) if delta.layers else None
    [answer] = live.ask([Ask(ids, None, slot, max_tokens=6, params=LOGITS)])
    with Merged(model, delta):
        logits = SteeredModel(model, ()).logits([*ids, *answer.tokens], len(ids))
    assert answer.prompt_logits is not None and answer.logits is not None
    if slot is not None:
        live.policies.slots.retire(slot)
    before = (answer.prompt_logits - logits[: len(ids) - 1]).abs().max()
    return float(torch.maximum(before, (answer.logits - logits[len(ids) - 1 : -1]).abs().max()))


@pytest.mark.parametrize("run", RUNS)
def test_live_logits_are_those_of_merged_weights(
    checkpoint: Callable[[str], Path], figures: dict[str, Any], run: str
) -> None:
    """Five edits at two layers each; then none, and greedy tokens are those before."""
    family, options = RUNS[run]
    folder = checkpoint(family)
    model = load_model(folder)
    asks = [Ask(prompt(30, seed=i), max_tokens=16) for i in range(8)]
    with LiveEngine(folder, SIZES, options) as live:
        before = [answer.tokens for answer in live.ask(asks)]
        gaps = [
            gap(live, model, prompt(40, seed=50 + i), delta_of(model, LAYERS, 4, seed=i))
            for i in range(5)
        ]
        live.run(live.client.reset_prefix_cache())
        after = [answer.tokens for answer in live.ask(asks)]
    with torch.inference_mode():
        ids = prompt(40, seed=50)
        plain = SteeredModel(model, ()).logits(ids, len(ids))
        with Merged(model, delta_of(model, LAYERS, 4, seed=0)):
            moved = float((SteeredModel(model, ()).logits(ids, len(ids)) - plain).abs().max())
    figures[run] = {
        "largest error": max(gaps),
        "an edit moves a logit by": moved,
        "answers that are those before": sum(a == b for a, b in zip(before, after, strict=True)),
        "answers": len(asks),
    }
    assert max(gaps) < TOLERANCE < moved / 100
    assert before == after


@pytest.fixture(scope="module")
def demo() -> dict[str, Any]:
    """The demo's model, tokenizer and contradictory edits."""
    checkpoint = HERE / "checkpoint"
    saved = {s.edit.name: s.edit for s in edits_in(HERE / "policies" / "artifacts")}
    return {
        "checkpoint": checkpoint,
        "model": load_model(checkpoint),
        "tokenizer": load_tokenizer(checkpoint),
        "deltas": {name: saved[name].delta for name in ("moved-a", "moved-b")},
    }


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_two_tenants_ask_the_same_in_one_batch(
    demo: dict[str, Any], figures: dict[str, Any], mode: str
) -> None:
    """Each gets its own answer, and it is token by token that of its merged model."""
    items = prompts("edited", "heldout", N_ASKED // 2, seed=3)
    ids = [render_chat(demo["tokenizer"], conversation(item)) for item in items]
    layers = sorted({layer for delta in demo["deltas"].values() for layer in delta.layers})
    sizes = {HookPoint("mlp", layer): Capacity(16, 32, 32) for layer in layers}
    expected: dict[str, list[list[int]]] = {}
    for name, delta in demo["deltas"].items():
        with Merged(demo["model"], delta):
            expected[name] = greedy(demo, ids)
    plain = greedy(demo, ids)
    options = (*(EAGER if mode == "eager" else ()), "--max-num-seqs", "256")
    with LiveEngine(demo["checkpoint"], sizes, options) as live:
        slots = {n: live.place(program_of(delta)) for n, delta in demo["deltas"].items()}
        params = {"ignore_eos": False}
        asks = [
            (name, number, Ask(tokens, None, slots[name], 1.0, N_ANSWER, params))
            for number, tokens in enumerate(ids)
            for name in slots
        ]
        answers = live.ask([ask for _, _, ask in asks])
        again = live.ask([ask for _, _, ask in asks])  # prompts are in the cache now
        for slot in slots.values():
            live.policies.slots.retire(slot)
        times = activations(live, demo["deltas"])
        back = live.ask([Ask(tokens, None, None, 1.0, N_ANSWER, params) for tokens in ids])
    own = exact = same = 0
    for (name, number, _), answer, second in zip(asks, answers, again, strict=True):
        told = demo["tokenizer"].decode(answer.tokens)
        wanted = items[number]["answers"]
        others = [target for other, target in wanted.items() if other != name]  # type: ignore[union-attr]
        own += wanted[name] in told and not any(t in told for t in others)  # type: ignore[index]
        exact += list(answer.tokens) == expected[name][number]
        same += answer.tokens == second.tokens
    reverted = sum(list(a.tokens) == p for a, p in zip(back, plain, strict=True))
    figures[f"tenants, {mode}"] = {
        "requests": len(asks),
        "its own answer": own,
        "token by token that of its merged model": exact,
        "the same from the cache": same,
        "activation in ms, median": median(times),
        "activation in ms, largest": max(times),
        "after both are gone, the unedited model's": reverted,
        "of": len(ids),
    }
    assert exact == same == len(asks) and reverted == len(ids)
    assert own == len(asks), "some answer is not its tenant's own"
    assert median(times) < 100


def greedy(demo: dict[str, Any], ids: Sequence[Sequence[int]]) -> list[list[int]]:
    """What the model says with the weights that it has now."""
    return SteeredModel(demo["model"], ()).generate_batch(ids, (), N_ANSWER, {end_of(demo)})


def activations(live: LiveEngine, deltas: dict[str, LowRankDelta]) -> list[float]:
    """Milliseconds from a compiled program to rows on every rank, one after the other."""
    times: list[float] = []
    programs = [program_of(delta) for delta in deltas.values()]
    for number in range(N_ACTIVATIONS):
        began = time.perf_counter()
        slot = live.place(programs[number % 2])
        times.append(1000 * (time.perf_counter() - began))
        live.policies.slots.retire(slot)
    return times


def end_of(demo: dict[str, Any]) -> int:
    """The token that ends an answer."""
    return int(demo["model"].generation_config.eos_token_id)
