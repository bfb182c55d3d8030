"""Off is off: 200 prompts, eager and compiled, greedy tokens equal plain vLLM's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demo.prompts import prompts
from forward.checkpoint import load_tokenizer
from forward.hookpoints import HookPoint
from forward.prompts import render_chat
from forward.site import Capacity
from tests.engine.live import EAGER, Ask, LiveEngine
from tests.engine.programs import CAPACITIES
from tests.models import prompt

pytestmark = pytest.mark.prove

N_PROMPTS = 200
DEMO = Path(__file__).resolve().parents[2] / "demo" / "checkpoint"
KINDS = ("fact", "harmful", "harmless", "formal", "casual", "lie-instructed", "tale", "padded")
DEMO_SITES = {HookPoint("resid_post", layer): Capacity(64, 16, 16) for layer in (2, 3, 4)}


def demo_prompts() -> list[list[int]]:
    """Return held-out prompts of many kinds."""
    tokenizer = load_tokenizer(DEMO)
    each = N_PROMPTS // len(KINDS)
    items = [item for kind in KINDS for item in prompts(kind, "heldout", each)]
    return [render_chat(tokenizer, item["messages"]) for item in items]  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["eager", "compiled"])
@pytest.mark.parametrize("model", ["demo", "llama", "qwen2"])
def test_off_is_off(
    checkpoint: Callable[[str], Path], figures: dict[str, Any], model: str, mode: str
) -> None:
    """The same prompts, submitted together, on plain vLLM and on Trimtab without a policy."""
    folder = DEMO if model == "demo" else checkpoint(model)
    ids = demo_prompts() if model == "demo" else [prompt(20 + i, seed=i) for i in range(N_PROMPTS)]
    options = (*(EAGER if mode == "eager" else ()), "--max-model-len", "1024")
    if model != "demo":
        options = options[:-2]
    sites = DEMO_SITES if model == "demo" else CAPACITIES
    asks = [Ask(i, max_tokens=24) for i in ids]
    with LiveEngine(folder, None, options) as plain:
        expected = [a.tokens for a in plain.ask(asks)]
    with LiveEngine(folder, sites, options) as live:
        found = [a.tokens for a in live.ask(asks)]
    same = sum(a == b for a, b in zip(found, expected, strict=True))
    figures[f"{model}, {mode}"] = {"prompts": len(asks), "equal": same}
    assert len(asks) == N_PROMPTS and same == N_PROMPTS
