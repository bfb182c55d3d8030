"""Mixed batch: 64 requests under 32 policies, stacked, together give the tokens of solo runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.live import EAGER, Ask, LiveEngine
from tests.engine.programs import CAPACITIES, varied
from tests.models import prompt

pytestmark = pytest.mark.prove

N_REQUESTS, N_POLICIES, N_TOKENS = 64, 32, 32


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_mixed_batch(checkpoint: Callable[[str], Path], figures: dict[str, Any], mode: str) -> None:
    """Mandatory and chosen, at various strengths, submitted at once, then one by one."""
    with LiveEngine(checkpoint("llama"), CAPACITIES, EAGER if mode == "eager" else ()) as live:
        slots = [live.place(p) for p in varied(N_POLICIES)]
        asks = [
            Ask(
                prompt(24 + i, seed=i),
                slots[(7 * i) % N_POLICIES] if i % 2 else None,
                slots[i % N_POLICIES],
                0.25 + 0.25 * (i % 7),
                N_TOKENS,
            )
            for i in range(N_REQUESTS)
        ]
        together = [a.tokens for a in live.ask(asks)]
        live.run(live.client.reset_prefix_cache())
        solo = [live.ask([ask])[0].tokens for ask in asks]
        plain = [a.tokens for a in live.ask([Ask(a.ids, max_tokens=N_TOKENS) for a in asks])]
    equal = sum(a == b for a, b in zip(together, solo, strict=True))
    steered = sum(a != b for a, b in zip(together, plain, strict=True))
    figures[mode] = {
        "requests": N_REQUESTS,
        "policies": N_POLICIES,
        "equal to solo": equal,
        "different from unsteered": steered,
    }
    assert equal == N_REQUESTS and steered > N_REQUESTS // 2
