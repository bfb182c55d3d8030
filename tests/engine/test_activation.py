"""Activation while streams run: none fails, none mixes revisions, the next request is on the new.

A revision is told by its tokens: solo runs under the old and the new content are the references.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.engine.slots import Slot
from tests.engine.live import EAGER, Answer, Ask, LiveEngine
from tests.engine.programs import CAPACITIES, CLAUSES, program
from tests.models import prompt

N_STREAMS = 32
N_TOKENS = 48


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[str], Path]) -> Iterator[LiveEngine]:
    """An engine that holds all streams at once."""
    with LiveEngine(checkpoint("llama"), CAPACITIES, EAGER) as live:
        yield live


def test_streams_keep_their_revision(engine: LiveEngine) -> None:
    """32 streams run while their policy is replaced; each ends as a solo run of the old would."""
    asks = [prompt(40 + i, seed=i) for i in range(N_STREAMS)]
    slots = engine.policies.slots
    old = engine.place(program("add", CLAUSES[0], seed=1, scale=4.0))
    new_program = program("add", CLAUSES[0], seed=2, scale=4.0)

    async def replaced() -> tuple[list[Answer], Slot]:
        halfway = asyncio.Event()
        streams = [
            asyncio.create_task(
                engine.ask_one(
                    Ask(ids, None, old, max_tokens=N_TOKENS),
                    on_token=lambda n: halfway.set() if n > N_TOKENS // 3 else None,
                )
            )
            for ids in asks
        ]
        await halfway.wait()
        new = await slots.place(new_program)
        slots.retire(old)
        assert old.users > 0, "the streams ended before the change"
        return list(await asyncio.gather(*streams)), new

    answers, new = engine.run(replaced())
    assert old.users == 0 and slots.draining == 0
    after = engine.ask([Ask(ids, None, new, max_tokens=N_TOKENS) for ids in asks])
    again = engine.place(program("add", CLAUSES[0], seed=1, scale=4.0))
    engine.run(engine.client.reset_prefix_cache())
    solo_old = engine.ask([Ask(ids, None, again, max_tokens=N_TOKENS) for ids in asks])
    engine.run(engine.client.reset_prefix_cache())
    solo_new = engine.ask([Ask(ids, None, new, max_tokens=N_TOKENS) for ids in asks])
    assert [a.tokens for a in answers] == [a.tokens for a in solo_old]
    assert [a.tokens for a in after] == [a.tokens for a in solo_new]
    assert sum(a.tokens != b.tokens for a, b in zip(answers, after, strict=True)) > N_STREAMS // 2
    for slot in (again, new):
        slots.retire(slot)


def test_rows_are_used_again(engine: LiveEngine) -> None:
    """Many more activations than rows: retirement gives rows back, and use stays flat."""
    slots = engine.policies.slots
    before = slots.used
    took: list[float] = []
    for seed in range(300):
        started = time.perf_counter()
        slot = engine.place(program("add", CLAUSES[seed % 5], seed=1000 + seed))
        took.append(time.perf_counter() - started)
        slots.retire(slot)
    assert slots.used == before
    print(f"placing a policy took {1000 * statistics.median(took):.1f} ms (median of {len(took)})")
