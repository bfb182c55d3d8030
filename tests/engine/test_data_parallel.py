"""Two engines under one server: each is written to, checked, and answers alike."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forward.huggingface import SteeredModel
from service.engine.slots import ActivationError
from tests.engine.live import EAGER, Ask, LiveEngine
from tests.engine.programs import CAPACITIES, CLAUSES, POINTS, program, varied
from tests.engine.test_exactness import assert_exact
from tests.models import build_model, prompt

RANKS = (0, 1)


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[str], Path]) -> Iterator[LiveEngine]:
    """Two engines, checked; each has a core of its own."""
    options = (*EAGER, "--data-parallel-size", "2")
    with LiveEngine(checkpoint("llama"), CAPACITIES, options) as live:
        yield live


def test_every_engine_has_every_row(engine: LiveEngine) -> None:
    """Requests under all kinds of programs equal Hugging Face, whichever engine serves them."""
    oracle = SteeredModel(build_model("llama"), POINTS, CAPACITIES[POINTS[0]])
    programs = varied(8)
    slots = [engine.place(one) for one in programs]
    cases = [prompt(20, seed=i) for i in range(len(programs))]
    asks = [
        Ask(ids, None, slot, max_tokens=16, rank=rank)
        for rank in RANKS
        for ids, slot in zip(cases, slots, strict=True)
    ]
    answers = engine.ask(asks)
    for ids, one, answer in zip(cases * 2, programs * 2, answers, strict=True):
        assert_exact(oracle, ids, answer.tokens, (None, one, 1.0))
    for slot in slots:
        engine.policies.slots.retire(slot)


def test_an_engine_that_was_not_written_to_is_seen(engine: LiveEngine) -> None:
    """Each engine acknowledges by itself: what the first one says is not taken for all."""
    core: Any = engine.client.engine_core
    told = core.call_utility_all_async

    async def first_alone(method: str, *args: Any) -> list[Any]:
        if args[0] != "trimtab_update":
            return await told(method, *args)
        first = await core._call_utility_async(method, *args, engine=core.core_engines[0])
        digest = ("collective_rpc", "trimtab_digest", None, (), None)
        second = await core._call_utility_async(*digest, engine=core.core_engines[1])
        return [first, second]

    core.call_utility_all_async = first_alone
    try:
        with pytest.raises(ActivationError, match="not what was applied"):
            engine.place(program("add", CLAUSES[0], seed=77))
    finally:
        core.call_utility_all_async = told


def test_scores_come_from_every_engine(engine: LiveEngine) -> None:
    """One sender an engine."""
    opening = engine.policies._call("trimtab_open_channel", "ipc:///nowhere", 4, 3)
    assert engine.run(opening) == [True, True]
