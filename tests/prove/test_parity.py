"""Every operation, unit, token clause and coefficient: vLLM's logits equal Hugging Face's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forward.checkpoint import load_model
from forward.families import FAMILIES
from forward.huggingface import SteeredModel
from tests.conformance.grid import CAPACITIES, POINTS, cases
from tests.conformance.parity import assert_parity, measure, summary
from tests.engine.live import EAGER, LiveEngine

pytestmark = pytest.mark.prove

RUNS = [(family, "eager") for family in FAMILIES] + [("llama", "compiled"), ("qwen2", "compiled")]


@pytest.mark.parametrize(("family", "mode"), RUNS)
def test_parity(
    checkpoint: Callable[[str], Path], figures: dict[str, Any], family: str, mode: str
) -> None:
    """The whole grid in one engine."""
    folder = checkpoint(family)
    oracle = SteeredModel(load_model(folder), POINTS, CAPACITIES[POINTS[0]])
    with LiveEngine(folder, CAPACITIES, EAGER if mode == "eager" else ()) as engine:
        gaps = measure(engine, oracle, cases())
    figures[f"{family} {mode}"] = summary(gaps)
    print(family, mode, summary(gaps))
    assert_parity(gaps)
