"""Two tensor-parallel ranks, and n-gram speculation: the same tokens, token by token."""

from collections.abc import Callable
from pathlib import Path

import pytest

from forward.huggingface import SteeredModel
from tests.engine.live import EAGER, Ask, LiveEngine
from tests.engine.programs import CAPACITIES, POINTS, varied
from tests.engine.test_exactness import assert_exact
from tests.models import build_model, prompt

SPECULATE = (
    "--speculative-config",
    '{"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3,'
    ' "prompt_lookup_min": 1}',
)
SETUPS = {"tensor parallel": ("--tensor-parallel-size", "2"), "n-gram": SPECULATE}


@pytest.mark.parametrize("setup", SETUPS)
def test_exact_under(checkpoint: Callable[[str], Path], setup: str) -> None:
    """Requests under all kinds of programs together equal Hugging Face."""
    oracle = SteeredModel(build_model("llama"), POINTS, CAPACITIES[POINTS[0]])
    programs = varied(10)
    phrase = prompt(6, seed=3)[1:]
    with LiveEngine(checkpoint("llama"), CAPACITIES, (*EAGER, *SETUPS[setup])) as live:
        slots = [live.place(p) for p in programs]
        cases = [prompt(20, seed=i) + phrase * 4 for i in range(len(programs))]
        answers = live.ask(
            [Ask(ids, None, slot, max_tokens=32) for ids, slot in zip(cases, slots, strict=True)]
        )
    for ids, program, answer in zip(cases, programs, answers, strict=True):
        assert_exact(oracle, ids, answer.tokens, (None, program, 1.0))
