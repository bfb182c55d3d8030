"""Parity with Hugging Face of the compiled engine, for the two families it is proven on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from forward.checkpoint import load_model
from forward.huggingface import SteeredModel
from tests.conformance.grid import CAPACITIES, POINTS, cases
from tests.conformance.parity import assert_parity, measure, summary
from tests.engine.live import LiveEngine


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_logits_equal_hugging_faces_when_compiled(
    checkpoint: Callable[[str], Path], family: str
) -> None:
    """Every operation, unit and clause, with one coefficient each."""
    folder = checkpoint(family)
    oracle = SteeredModel(load_model(folder), POINTS, CAPACITIES[POINTS[0]])
    with LiveEngine(folder, CAPACITIES) as engine:
        gaps = measure(engine, oracle, cases((1.0,)))
    print(family, summary(gaps))
    assert_parity(gaps)
