"""The demo model's gates on held-out items, on average and per template."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from demo.gates import evaluate

pytestmark = pytest.mark.prove

CHECKPOINT = Path(__file__).resolve().parents[2] / "demo" / "checkpoint"
N_ITEMS = 300


def test_every_gate(figures: dict[str, Any]) -> None:
    """All of them, at 300 items a kind."""
    results = evaluate(CHECKPOINT, N_ITEMS)
    for result in results:
        worst = min(result.templates.values(), default=(result.value, 0))
        figures[result.name] = {
            "share": round(result.value, 4),
            "items": result.n,
            "range": [result.low, result.high],
            "lowest template": round(worst[0], 4),
            "templates": len(result.templates),
            "per template": asdict(result)["templates"],
        }
    missed = [r.name for r in results if not r.passed]
    assert not missed
