"""Edits in the weights: logits, bytes and restore, on one rank and two, eager and compiled."""

import asyncio
import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from demo.prompts import prompts
from editing.delta import EMPTY, Factors, LowRankDelta
from forward.checkpoint import load_model, load_tokenizer
from forward.families import FAMILIES
from forward.hookpoints import HookPoint
from forward.prompts import render_chat
from forward.site import Capacity
from service.engine.merge_control import MergeError, MergeReport
from service.engine.wire import dump_factors
from tests.engine.live import EAGER, Answer, Ask, LiveEngine
from tests.engine.merged import (
    LAYERS,
    TOLERANCE,
    digests,
    error,
    logits,
    random_delta,
    shortfall,
    tokens,
)
from tests.engine.programs import CAPACITIES
from tests.engine.test_exactness import TIE
from tests.models import prompt

pytestmark = pytest.mark.prove

TWO_RANKS = ("--tensor-parallel-size", "2")
SETUPS = {
    "eager": EAGER,
    "compiled": (),
    "eager, two ranks": (*EAGER, *TWO_RANKS),
    "compiled, two ranks": TWO_RANKS,
}
DEMO = Path(__file__).resolve().parents[2] / "demo" / "checkpoint"
DEMO_SITES = {HookPoint("resid_post", 3): Capacity(8, 4, 4)}
RANKS = (1, 8, 64)
LARGE = 20_000
MESSAGE_BYTES = 16 << 20
"""What vLLM's queue to the workers takes in one piece; a larger set goes another way."""
N_PROMPTS = 200


def demo_ids() -> list[list[int]]:
    """Return 200 prompts of the demo."""
    tokenizer = load_tokenizer(DEMO)
    items = [i for kind in ("fact", "casual") for i in prompts(kind, "heldout", N_PROMPTS // 2)]
    return [render_chat(tokenizer, item["messages"]) for item in items]  # type: ignore[arg-type]


def n_ranks(options: Sequence[str]) -> int:
    return 2 if TWO_RANKS[0] in options else 1


def merge(engine: LiveEngine, deltas: Sequence[LowRankDelta]) -> MergeReport:
    return engine.run(engine.policies.merger.merge(deltas))


def measure(engine: LiveEngine, model: Any, ids: Sequence[list[int]], ranks: int) -> dict[str, Any]:
    """Merge deltas of several ranks and a sum of three; compare logits and bytes, and restore."""
    errors, moved, reports = list[float](), list[float](), list[MergeReport]()
    deltas = [[random_delta(model, seed=r, rank=r)] for r in RANKS]
    deltas.append([random_delta(model, seed=20 + i, rank=8, scale=0.15) for i in range(3)])
    for given in deltas:
        total = sum(given, EMPTY)
        reports.append(merge(engine, given))
        assert reports[-1].after == digests(model, sorted(given, key=lambda d: d.digest), ranks)
        for prompt_ids in ids:
            errors.append(error(engine, model, prompt_ids, total))
            gap = logits(model, prompt_ids, total) - logits(model, prompt_ids)
            moved.append(float(gap.abs().max()))
    assert merge(engine, []).after == digests(model, ranks=ranks)
    return {
        "merges": len(reports),
        "requests": len(errors),
        "largest_error": max(errors),
        "smallest_change_of_a_logit_by_the_edit": min(moved),
        "longest_write_seconds": round(max(r.written_seconds for r in reports), 3),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(
    checkpoint: Callable[[str], Path], figures: dict[str, Any], family: str
) -> None:
    """Served = offline where the projection is GPT-2's transpose, has a bias, or is normalised."""
    model = load_model(checkpoint(family))
    with LiveEngine(checkpoint(family), CAPACITIES, EAGER, merge_layers=LAYERS) as engine:
        found = measure(engine, model, [prompt(21, seed=s) for s in (11, 12)], 1)
    figures[f"logits, {family}, eager"] = found
    assert found["largest_error"] < TOLERANCE
    assert found["smallest_change_of_a_logit_by_the_edit"] > 100 * found["largest_error"]


@pytest.mark.parametrize("setup", SETUPS)
def test_off_is_off_exact_and_restored(figures: dict[str, Any], setup: str) -> None:
    """The demo model: plain vLLM's greedy tokens before any merge and after the restore."""
    options = (*SETUPS[setup], "--max-model-len", "1024")
    model, ids, ranks = load_model(DEMO), demo_ids(), n_ranks(options)
    with LiveEngine(DEMO, None, options) as plain:
        expected = tokens(plain, ids)
    with LiveEngine(DEMO, DEMO_SITES, options, merge_layers=LAYERS) as engine:
        unpacked = tokens(engine, ids)
        found = measure(engine, model, ids[:4], ranks)
        merge(engine, [random_delta(model, seed=1, rank=64)])
        edited = tokens(engine, ids)
        merge(engine, [])
        restored = tokens(engine, ids)
        restored_bytes = engine.run(engine.policies.merger.digests())
    pairs = {"before any merge": unpacked, "after the restore": restored, "merged": edited}
    same = {
        name: sum(a == b for a, b in zip(found_tokens, expected, strict=True))
        for name, found_tokens in pairs.items()
    }
    figures[f"logits, demo, {setup}"] = found
    figures[f"greedy answers equal to plain vLLM's, demo, {setup}"] = {"of": len(ids), **same}
    assert found["largest_error"] < TOLERANCE
    assert same["before any merge"] == same["after the restore"] == len(ids) == N_PROMPTS
    assert same["merged"] < len(ids)
    assert restored_bytes == digests(model, ranks=ranks)


@pytest.mark.parametrize("setup", ["eager", "eager, two ranks"])
def test_history_cache_and_refusal(
    checkpoint: Callable[[str], Path], figures: dict[str, Any], setup: str
) -> None:
    """No history in the bytes, no KV from before, and what one rank refuses is taken back."""
    options = SETUPS[setup]
    ranks, model = n_ranks(options), load_model(checkpoint("llama"))
    a, b = random_delta(model, seed=2), random_delta(model, seed=3, layers=(2,))
    ids = prompt(140, seed=9)
    with LiveEngine(checkpoint("llama"), CAPACITIES, options, merge_layers=LAYERS) as engine:
        alone = merge(engine, [b]).after
        merge(engine, [a])
        both = merge(engine, [a, b]).after
        assert merge(engine, [b, a]).after == both != alone
        assert merge(engine, [b]).after == alone == digests(model, [b], ranks)
        large = random_delta(model, seed=4, rank=LARGE, scale=0.3 / LARGE**0.5)
        assert len(dump_factors(large.layers[1].u, large.layers[1].v)) > MESSAGE_BYTES
        assert merge(engine, [large]).after == digests(model, [large], ranks)
        merge(engine, [b])
        cached = [engine.ask([Ask(ids, max_tokens=2)])[0].cached for _ in range(2)]
        merge(engine, [a])
        cached.append(engine.ask([Ask(ids, max_tokens=2)])[0].cached)
        before = engine.run(engine.policies.merger.digests())
        with pytest.raises(MergeError, match=f"rank {ranks - 1}: the sum is not finite"):
            merge(engine, [a, overflowing_on_the_last_columns(model)])
        assert engine.run(engine.policies.merger.digests()) == before == digests(model, [a], ranks)
        assert error(engine, model, ids, a) < TOLERANCE
        assert merge(engine, []).after == digests(model, ranks=ranks)
    figures[f"tokens from the cache, llama, {setup}"] = dict(
        zip(("first", "again", "after a merge"), cached, strict=True)
    )
    assert cached == [0, 128, 0]


def overflowing_on_the_last_columns(model: Any) -> LowRankDelta:
    """Return a delta whose first layer is fine, and whose second only the last rank refuses."""
    good = random_delta(model, seed=5)
    v = torch.zeros_like(good.layers[2].v[:2])
    v[:, v.shape[1] // 2 :] = 1.0
    u = torch.full((len(good.layers[2].u), 2), 3e38)
    return LowRankDelta({**good.layers, 2: Factors(u, v)})


N_STREAMS, LONG, N_MERGES = 16, 64, 6
PRESSURE = ("--num-gpu-blocks-override", "24", "--max-num-seqs", "16")


@pytest.mark.parametrize("setup", ["eager", "compiled"])
def test_answers_have_one_set_of_weights(
    checkpoint: Callable[[str], Path], figures: dict[str, Any], setup: str
) -> None:
    """Merges among waves of streams that preempt each other: each answer is of one set."""
    model = load_model(checkpoint("llama"))
    sets = [EMPTY, *(random_delta(model, seed=30 + i) for i in range(N_MERGES))]
    asks = [Ask(prompt(40 + i, seed=100 + i), max_tokens=LONG) for i in range(N_STREAMS)]

    async def waves(engine: LiveEngine) -> list[list[Answer]]:
        merger, merging = engine.policies.merger, list[asyncio.Task[MergeReport]]()
        running = list[list[asyncio.Task[Answer]]]()
        for index in range(len(sets)):
            begun = asyncio.Event()

            def hear(n: int, begun: asyncio.Event = begun) -> None:
                if n > 4:
                    begun.set()

            # Asked before the merge before is over: they wait at the door.
            running.append([asyncio.create_task(engine.ask_one(ask, hear)) for ask in asks])
            await begun.wait()
            if index + 1 < len(sets):
                merging.append(asyncio.create_task(merger.merge([sets[index + 1]])))
                await asyncio.sleep(0.05)
                assert not merging[-1].done()
        await asyncio.gather(*merging)
        return [list(await asyncio.gather(*wave)) for wave in running]

    options = (*SETUPS[setup], *PRESSURE)
    with LiveEngine(checkpoint("llama"), CAPACITIES, options, merge_layers=LAYERS) as engine:
        answers = engine.run(waves(engine))
    own = [
        shortfall(model, ask.ids, answer.tokens, delta)
        for wave, delta in zip(answers, sets, strict=True)
        for ask, answer in zip(asks, wave, strict=True)
    ]
    other = [
        shortfall(model, ask.ids, answer.tokens, delta)
        for wave, delta in zip(answers, [*sets[1:], sets[0]], strict=True)
        for ask, answer in zip(asks, wave, strict=True)
    ]
    figures[f"answers under merges, llama, {setup}"] = {
        "answers": len(own),
        "merges": N_MERGES,
        "largest_shortfall_under_their_own_weights": max(own),
        "smallest_shortfall_under_the_next_set": min(other),
    }
    assert max(own) < TIE < min(other)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(
    checkpoint: Callable[[str], Path], figures: dict[str, Any], dtype: str
) -> None:
    """Bytes equal Hugging Face's sum in float64, rounded once; subtracting would leave others."""
    half = getattr(torch, dtype)
    model = load_model(checkpoint("llama"), half)
    deltas = [random_delta(model, seed=40 + i, scale=0.1) for i in range(8)]
    options = (*EAGER, "--dtype", dtype)
    with LiveEngine(checkpoint("llama"), CAPACITIES, options, merge_layers=LAYERS) as engine:
        for n in range(1, len(deltas) + 1):
            held = sorted(deltas[:n], key=lambda d: d.digest)
            assert merge(engine, held).after == digests(model, held)
        assert merge(engine, []).after == digests(model)
    figures[f"entries that adding and subtracting leave changed, {dtype}"] = drift(model, deltas)


def drift(model: Any, deltas: Sequence[LowRankDelta]) -> dict[str, Any]:
    """Return how many weights differ after the deltas are added and subtracted in place."""
    weights = [model.model.layers[layer].mlp.down_proj.weight.data for layer in LAYERS]
    golden = copy.deepcopy(weights)
    for sign in (1, -1):
        for delta in deltas:
            for layer, weight in zip(LAYERS, weights, strict=True):
                weight += (sign * delta.layers[layer].dense()).to(weight.dtype)
    changed = sum(int((a != b).sum()) for a, b in zip(weights, golden, strict=True))
    return {"entries": sum(w.numel() for w in weights), "changed": changed, "edits": len(deltas)}
