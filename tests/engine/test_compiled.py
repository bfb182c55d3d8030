"""The compiled graph: row 0 is plain vLLM, and rows do there what they do in Hugging Face."""

from collections.abc import Callable
from pathlib import Path

import pytest

from forward.huggingface import SteeredModel, Steering
from tests.engine.live import EAGER, Ask, LiveEngine
from tests.engine.programs import CAPACITIES, POINTS, varied
from tests.models import build_model, prompt

N_PROMPTS = 24
N_TOKENS = 16
TOLERANCE = 1e-4


@pytest.mark.parametrize("options", [EAGER, ()], ids=["eager", "compiled"])
def test_off_is_off_and_on_is_exact(
    checkpoint: Callable[[str], Path], options: tuple[str, ...]
) -> None:
    """With row 0, greedy tokens equal plain vLLM's in the same batch; with rows, Hugging Face's."""
    asks = [Ask(prompt(20 + 3 * i, seed=i), max_tokens=N_TOKENS) for i in range(N_PROMPTS)]
    with LiveEngine(checkpoint("llama"), None, options) as plain:
        expected = [answer.tokens for answer in plain.ask(asks)]
    oracle = SteeredModel(build_model("llama"), POINTS, CAPACITIES[POINTS[0]])
    with LiveEngine(checkpoint("llama"), CAPACITIES, options) as live:
        assert [answer.tokens for answer in live.ask(asks)] == expected
        for program in varied(10):
            ids, slot = prompt(40, seed=77), live.place(program)
            params = {"logprobs": -1, "prompt_logprobs": -1}
            [answer] = live.ask([Ask(ids, None, slot, 0.8, max_tokens=6, params=params)])
            logits = oracle.logits([*ids, *answer.tokens], len(ids), [None, Steering(program, 0.8)])
            assert answer.prompt_logits is not None and answer.logits is not None
            before, after = logits[: len(ids) - 1], logits[len(ids) - 1 : -1]
            assert (answer.prompt_logits - before).abs().max() < TOLERANCE
            assert (answer.logits - after).abs().max() < TOLERANCE
            live.policies.slots.retire(slot)
