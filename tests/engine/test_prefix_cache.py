"""Cache identity: KV is reused exactly where the rows that wrote it are equal, and nowhere else.

The oracle is ``num_cached_tokens``; blocks are 32 tokens, and a request always recomputes its last
token, so of a prompt of 128 + k tokens at most 128 can come from the cache.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forward.clauses import TokenClause
from forward.program import Program
from service.engine.slots import Slot
from tests.engine.live import EAGER, Ask, LiveEngine
from tests.engine.programs import CAPACITIES, program
from tests.models import prompt

SHARED = prompt(128, seed=1)
ALL, PROMPT, LAST, GENERATION = map(TokenClause, ("all", "prompt", "last_prompt", "generation"))


@pytest.fixture(scope="module")
def engine(checkpoint: Callable[[str], Path]) -> Iterator[LiveEngine]:
    """An engine with room to keep everything cached."""
    with LiveEngine(checkpoint("llama"), CAPACITIES, EAGER) as live:
        yield live


@pytest.fixture(autouse=True)
def empty_cache(engine: LiveEngine) -> None:
    """Start every test with nothing cached."""
    engine.run(engine.client.reset_prefix_cache())


def cached(engine: LiveEngine, ids: list[int], slot: Slot | None, strength: float = 1.0) -> int:
    """Serve a prompt and return how many of its tokens came from the cache."""
    [answer] = engine.ask([Ask(ids, None, slot, strength, max_tokens=2)])
    return answer.cached


def longer(tail: int, seed: int) -> list[int]:
    """Return the shared prefix and a tail of its own."""
    return SHARED + prompt(tail + 1, seed=seed)[1:]


@pytest.mark.parametrize("clause", [ALL, PROMPT, LAST, GENERATION], ids=str)
def test_one_policy_shares_over_prompt_lengths(engine: LiveEngine, clause: TokenClause) -> None:
    """Prompts of different lengths under one policy share their common prefix."""
    slot = engine.place(program("add", clause))
    assert cached(engine, longer(9, seed=2), slot) == 0
    assert cached(engine, longer(40, seed=3), slot) == 128
    engine.policies.slots.retire(slot)


@pytest.mark.parametrize("clause", [LAST, GENERATION], ids=str)
def test_a_policy_that_leaves_the_prefix_alone_shares_it(
    engine: LiveEngine, clause: TokenClause
) -> None:
    """Prefixes that no row touches are unsteered KV, whoever computed them."""
    slot = engine.place(program("add", clause))
    assert cached(engine, longer(9, seed=2), None) == 0
    assert cached(engine, longer(20, seed=3), slot) == 128
    assert cached(engine, longer(30, seed=4), None) == 128
    engine.policies.slots.retire(slot)


@pytest.mark.parametrize("clause", [ALL, PROMPT], ids=str)
def test_a_policy_on_the_prefix_shares_with_nobody(engine: LiveEngine, clause: TokenClause) -> None:
    """Neither unsteered requests, nor another policy, nor another strength reads its KV."""
    one, other = (engine.place(program("add", clause, seed=s)) for s in (0, 50))
    assert cached(engine, longer(9, seed=2), one) == 0
    assert cached(engine, longer(9, seed=2), None) == 0
    assert cached(engine, longer(9, seed=2), other) == 0
    assert cached(engine, longer(9, seed=2), one, strength=0.5) == 0
    assert cached(engine, longer(20, seed=3), one) == 128
    for slot in (one, other):
        engine.policies.slots.retire(slot)


def test_strength_zero_is_unsteered(engine: LiveEngine) -> None:
    """A policy at strength 0 writes the KV that no policy writes."""
    slot = engine.place(program("add", ALL))
    assert cached(engine, longer(9, seed=2), None) == 0
    assert cached(engine, longer(20, seed=3), slot, strength=0.0) == 128
    engine.policies.slots.retire(slot)


def test_the_last_prompt_token_forks_its_block(engine: LiveEngine) -> None:
    """A block whose last token was steered as the last prompt token is not a longer prompt's."""
    slot = engine.place(program("add", LAST))
    assert cached(engine, SHARED, slot) == 0
    assert cached(engine, [*SHARED, 17], slot) == 96
    assert cached(engine, SHARED, slot) == 96
    engine.policies.slots.retire(slot)


@pytest.mark.parametrize(
    ("clause", "reusable"), [(GENERATION, 128), (PROMPT, 128), (ALL, 192), (LAST, 96)], ids=str
)
def test_second_turn_never_reads_another_phase(
    engine: LiveEngine, clause: TokenClause, reusable: int
) -> None:
    """A second turn's prompt holds the first's answer: generated then, prompt now.

    Stock vLLM would reuse every full block of both. Here it depends on the rows: with ``all`` both
    phases are alike; with ``last_prompt`` the block of the first turn's last token (127) forks.
    """
    slot = engine.place(program("add", clause))
    [first] = engine.ask([Ask(SHARED, None, slot, max_tokens=70)])
    second = [*SHARED, *first.tokens, 20, 21]
    assert cached(engine, second, slot) == reusable
    engine.policies.slots.retire(slot)


def test_equal_content_is_shared_whoever_wrote_it(engine: LiveEngine) -> None:
    """Two policies with the same content, and one content by operator or client, are one."""
    twins: list[Program] = [program("add", ALL, seed=3), program("add", ALL, seed=3)]
    one, other = (engine.place(p) for p in twins)
    assert cached(engine, longer(9, seed=2), one) == 0
    assert cached(engine, longer(9, seed=2), other) == 128
    [answer] = engine.ask([Ask(longer(9, seed=2), one, None, max_tokens=2)])
    assert answer.cached == 128
    for slot in (one, other):
        engine.policies.slots.retire(slot)


def test_a_reused_row_is_not_a_reused_key(engine: LiveEngine) -> None:
    """A row freed and filled with other content does not inherit the KV of the old."""
    old = engine.place(program("add", ALL, seed=11))
    row = old.placement.rows
    assert cached(engine, longer(9, seed=2), old) == 0
    engine.policies.slots.retire(old)
    new = engine.place(program("add", ALL, seed=12))
    assert new.placement.rows == row
    assert cached(engine, longer(9, seed=2), new) == 0
    engine.policies.slots.retire(new)
