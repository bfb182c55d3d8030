"""What is reused from the prefix cache: cached tokens by clause, and by who asks after whom."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.engine.slots import Slot
from tests.engine.live import EAGER, Ask, LiveEngine
from tests.engine.programs import CAPACITIES, CLAUSES, program
from tests.models import prompt

pytestmark = pytest.mark.prove

SHARED = prompt(128, seed=1)
N_ANSWER = 70
# By clause: another prompt of the same policy, an unsteered one, a second turn of the same policy.
EXPECTED = {
    "all": (128, 0, 192),
    "prompt": (128, 0, 128),
    "last_prompt": (128, 128, 96),
    "generation": (128, 128, 128),
    "from 3": (128, 128, 128),
}


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_reuse(checkpoint: Callable[[str], Path], figures: dict[str, Any], mode: str) -> None:
    """128 shared tokens in blocks of 32; prompts of different lengths; a second turn."""
    found: dict[str, tuple[int, int, int]] = {}
    with LiveEngine(checkpoint("llama"), CAPACITIES, EAGER if mode == "eager" else ()) as live:

        def cached(ids: list[int], slot: Slot | None) -> int:
            return live.ask([Ask(ids, None, slot, max_tokens=2)])[0].cached

        def fresh() -> None:
            live.run(live.client.reset_prefix_cache())

        for clause in CLAUSES:
            slot = live.place(program("add", clause))
            fresh()
            first = cached(SHARED + prompt(10, seed=2)[1:], slot)
            again = cached(SHARED + prompt(41, seed=3)[1:], slot)
            unsteered = cached(SHARED + prompt(25, seed=4)[1:], None)
            fresh()
            [turn] = live.ask([Ask(SHARED, None, slot, max_tokens=N_ANSWER)])
            second = cached([*SHARED, *turn.tokens, 20, 21], slot)
            assert first == 0
            found[str(clause)] = (again, unsteered, second)
            live.policies.slots.retire(slot)
    figures[mode] = {
        clause: dict(zip(("same policy", "unsteered after it", "second turn"), tokens, strict=True))
        for clause, tokens in found.items()
    }
    assert found == EXPECTED
