"""Edits merged into the weights of a live engine: exact, exactly taken back, never half-applied."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from editing.delta import EMPTY, Factors, LowRankDelta
from service.engine.door import DoorError
from service.engine.merge_control import MergeError, Merger
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
from tests.models import build_model, prompt

PROMPTS = [prompt(20 + 3 * i, seed=i) for i in range(24)]
PRESSURE = ("--num-gpu-blocks-override", "24", "--max-num-seqs", "16")


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[str], Path]) -> Iterator[LiveEngine]:
    """An engine whose layers 1 and 2 may be merged into; little KV memory, so it preempts."""
    options = (*EAGER, *PRESSURE)
    with LiveEngine(checkpoint("llama"), CAPACITIES, options, merge_layers=LAYERS) as live:
        yield live


@pytest.fixture(scope="module")
def model() -> Any:
    """The same model in Hugging Face."""
    return build_model("llama")


@pytest.fixture
def merger(engine: LiveEngine) -> Iterator[Merger]:
    """The engine's merger; every test starts and ends with nothing merged."""
    merger = engine.policies.merger
    yield merger
    engine.run(merger.merge([]))
    assert engine.run(merger.digests()) == {k: t.golden for k, t in merger.targets.items()}


def test_off_is_off(
    checkpoint: Callable[[str], Path], engine: LiveEngine, merger: Merger, model: Any
) -> None:
    """Unpacked, the projections hold the checkpoint's bytes, and greedy tokens are plain vLLM's."""
    assert engine.run(merger.digests()) == digests(model)
    found = tokens(engine, PROMPTS)
    with LiveEngine(checkpoint("llama"), None, (*EAGER, *PRESSURE)) as plain:
        assert found == tokens(plain, PROMPTS)


def test_served_is_offline_and_restored(engine: LiveEngine, merger: Merger, model: Any) -> None:
    """Logits and bytes are Hugging Face's with merged weights; then both are those before."""
    delta, ids = random_delta(model, seed=1), PROMPTS[3]
    before = tokens(engine, PROMPTS)
    report = engine.run(merger.merge([delta]))
    assert report.delta == delta.digest
    assert (report.before, report.after) == (digests(model), digests(model, [delta]))
    assert error(engine, model, ids, delta) < TOLERANCE
    moved = logits(model, ids, delta) - logits(model, ids)
    assert moved.abs().max() > 1e3 * TOLERANCE
    assert tokens(engine, PROMPTS) != before
    restored = engine.run(merger.merge([]))
    assert restored.after == digests(model) == engine.run(merger.digests())
    assert tokens(engine, PROMPTS) == before


def test_no_history_shows_in_the_bytes(engine: LiveEngine, merger: Merger, model: Any) -> None:
    """A, then A and B, then B without A: bit for bit B alone. B and A: bit for bit A and B."""
    a, b = random_delta(model, seed=2), random_delta(model, seed=3, layers=(2,))
    alone = engine.run(merger.merge([b])).after
    engine.run(merger.merge([a]))
    both = engine.run(merger.merge([a, b])).after
    assert engine.run(merger.merge([b, a])).after == both
    assert len({alone[2], both[2], digests(model)[2]}) == 3
    assert engine.run(merger.merge([b])).after == alone == digests(model, [b])


def test_no_stale_kv_is_served(engine: LiveEngine, merger: Merger, model: Any) -> None:
    """A cached prompt is computed anew after a merge, and after the restore."""
    delta, ids = random_delta(model, seed=4), prompt(140, seed=9)

    def ask() -> Answer:
        return engine.ask([Ask(ids, max_tokens=2)])[0]

    ask()
    assert ask().cached == 128
    for deltas in ([delta], []):
        engine.run(merger.merge(deltas))
        first, again = ask(), ask()
        assert (first.cached, again.cached) == (0, 128)
        expected = logits(model, ids, *deltas)[-1].argmax()
        assert first.tokens[0] == again.tokens[0] == expected


def broken(model: Any, what: str) -> LowRankDelta:
    """Return a delta that must be refused."""
    good = random_delta(model, seed=5)
    u, v = good.layers[2].u, good.layers[2].v
    spoiled = u.clone()
    spoiled[0, 0] = torch.nan
    second = {
        "shape": Factors(u[:-1], v),
        "other model": Factors(u, v[:, :-2]),
        "not finite": Factors(spoiled, v),
        # Each factor is finite, their sum is not in float32: found by the ranks, and only at the
        # second layer, when the first is written.
        "overflow": Factors(torch.full((128, 2), 3e38), torch.ones(2, 192)),
    }
    if what == "not declared":
        return random_delta(model, seed=5, layers=(1, 3))
    return LowRankDelta({**good.layers, 2: second[what]})


@pytest.mark.parametrize(
    ("what", "why"),
    {
        "shape": "layer 2 changes a matrix of shape",
        "other model": "solve it again on this model",
        "not finite": "values that are not finite",
        "not declared": "layers 3 cannot be merged into.*--merge-layers 1,2,3",
        "overflow": "layer 2 is not merged: rank 0: the sum is not finite in torch.float32",
    }.items(),
)
def test_a_refused_merge_leaves_what_was(
    engine: LiveEngine, merger: Merger, model: Any, what: str, why: str
) -> None:
    """The bytes are those before, which hold another edit, and the engine goes on serving it."""
    held, ids = random_delta(model, seed=6), PROMPTS[0]
    before = engine.run(merger.merge([held])).after
    with pytest.raises(MergeError, match=why):
        engine.run(merger.merge([held, broken(model, what)]))
    assert engine.run(merger.digests()) == before == digests(model, [held])
    assert error(engine, model, ids, held) < TOLERANCE


@pytest.mark.parametrize("blob", [b"no tensors", "shape"], ids=str)
def test_a_rank_refuses_by_itself(
    engine: LiveEngine, merger: Merger, model: Any, blob: bytes | str
) -> None:
    """A worker tells a fault as its answer: an error there would upset the ranks' next answers."""
    factors = broken(model, "shape").layers[2]
    sent = blob if isinstance(blob, bytes) else dump_factors(factors.u, factors.v)
    [found] = engine.run(engine.client.collective_rpc("trimtab_merge", args=(2, sent)))
    assert set(found) == {"fault"}
    assert engine.run(merger.digests()) == digests(model)


def test_what_something_else_wrote_is_found(engine: LiveEngine, merger: Merger, model: Any) -> None:
    """No merge on top of bytes that no merge wrote; once they are back, merging goes on."""
    delta = random_delta(model, seed=7)
    factors = delta.layers[1]
    rpc = engine.client.collective_rpc
    engine.run(rpc("trimtab_merge", args=(1, dump_factors(factors.u, factors.v))))
    with pytest.raises(MergeError, match=r"layers \[1\] were changed by something else"):
        engine.run(merger.merge([delta]))
    engine.run(rpc("trimtab_merge", args=(1, b"")))
    assert engine.run(merger.merge([delta])).after == digests(model, [delta])


def test_an_error_in_the_context_takes_the_merge_back(
    engine: LiveEngine, merger: Merger, model: Any
) -> None:
    """What belongs to the change fails, so the weights are as before; nobody was served between."""
    delta, ids = random_delta(model, seed=8), PROMPTS[5]
    [before] = tokens(engine, [ids])

    async def failing() -> Answer:
        requests: list[asyncio.Task[Answer]] = []
        with pytest.raises(OSError, match="disk is full"):
            async with merger.merging([delta]) as report:
                assert report.after == digests(model, [delta])
                requests.append(asyncio.create_task(engine.ask_one(Ask(ids, max_tokens=6))))
                await asyncio.sleep(0.2)
                assert not requests[0].done()
                raise OSError("the disk is full")
        return await requests[0]

    assert engine.run(failing()).tokens == before
    assert engine.run(merger.digests()) == digests(model)


N_STREAMS = 16
LONG = 64


def test_answers_have_one_set_of_weights(engine: LiveEngine, merger: Merger, model: Any) -> None:
    """Streams under way keep the old weights to their end, preempted ones too; then the new."""
    delta = random_delta(model, seed=10)
    asks = [Ask(prompt(40 + i, seed=100 + i), max_tokens=LONG) for i in range(N_STREAMS)]

    async def merged_meanwhile() -> tuple[list[Answer], list[Answer], int]:
        begun = asyncio.Event()
        streams = [
            asyncio.create_task(engine.ask_one(ask, lambda n: begun.set() if n > 4 else None))
            for ask in asks
        ]
        await begun.wait()
        merging = asyncio.create_task(merger.merge([delta]))
        await asyncio.sleep(0.05)
        late = [asyncio.create_task(engine.ask_one(ask)) for ask in asks]
        unfinished = sum(not stream.done() for stream in streams)
        await merging
        return list(await asyncio.gather(*streams)), list(await asyncio.gather(*late)), unfinished

    streams, late, unfinished = engine.run(merged_meanwhile())
    assert unfinished > 0, "the streams ended before the merge"
    for answers, own, other in ((streams, EMPTY, delta), (late, delta, EMPTY)):
        for ask, answer in zip(asks, answers, strict=True):
            assert shortfall(model, ask.ids, answer.tokens, own) < TIE
            assert shortfall(model, ask.ids, answer.tokens, other) > 100 * TIE


def test_a_long_answer_is_not_waited_for_forever(
    engine: LiveEngine, merger: Merger, model: Any
) -> None:
    """The merge gives up, the answer goes on, and nothing was changed."""
    delta = random_delta(model, seed=11)

    async def impatient() -> Answer:
        stream = asyncio.create_task(engine.ask_one(Ask(PROMPTS[1], max_tokens=200)))
        await asyncio.sleep(0.1)
        with pytest.raises(DoorError, match="1 requests were still being answered"):
            await merger.merge([delta], wait_seconds=0.05)
        return await stream

    assert len(engine.run(impatient()).tokens) == 200
    assert engine.run(merger.digests()) == digests(model)
