"""Parity: vLLM's logits against Hugging Face's with the same sites; the gap steering makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from forward.huggingface import SteeredModel, Steering
from forward.program import Program
from tests.conformance.grid import Case
from tests.engine.live import Answer, Ask, LiveEngine
from tests.models import prompt

TOLERANCE = 1e-4
PROMPT = prompt(21, seed=11)
N_GENERATED = 5
BATCH = 60
"""Programs active at once; the sites hold that many rows."""

EVERYTHING = {"logprobs": -1, "prompt_logprobs": -1, "detokenize": False}


@dataclass(frozen=True)
class Gap:
    """One case: the largest difference of logits to Hugging Face's, and to the unsteered ones."""

    name: str
    error: float
    unsteered: float


def measure(
    engine: LiveEngine, oracle: SteeredModel, cases: Sequence[Case], second: Program | None = None
) -> list[Gap]:
    """Serve all cases as clients' policies, stacked on an operator's ``second`` if given."""
    gaps: list[Gap] = []
    for start in range(0, len(cases), BATCH):
        gaps += _measure_batch(engine, oracle, cases[start : start + BATCH], second)
    return gaps


def _measure_batch(
    engine: LiveEngine, oracle: SteeredModel, cases: Sequence[Case], second: Program | None
) -> list[Gap]:
    operator = engine.place(second) if second else None
    slots = [engine.place(case.program) for case in cases]
    asks = [Ask(PROMPT, operator, slot, _strength(i), N_GENERATED, EVERYTHING)
            for i, slot in enumerate(slots)]  # fmt: skip
    answers = engine.ask(asks)
    for slot in [*slots, *([operator] if operator else [])]:
        engine.policies.slots.retire(slot)
    above = Steering(second) if second else None
    return [
        _compare(case, answer, oracle, [above, Steering(case.program, _strength(index))])
        for index, (case, answer) in enumerate(zip(cases, answers, strict=True))
    ]


def _strength(index: int) -> float:
    return (1.0, 1.0, 0.7)[index % 3]


def _compare(
    case: Case, answer: Answer, oracle: SteeredModel, steerings: list[Steering | None]
) -> Gap:
    """Compare the logits after every token: of the prompt, and of the answer vLLM gave."""
    found = logits_of(answer)
    ids = [*PROMPT, *answer.tokens[:-1]]
    expected = oracle.logits(ids, len(PROMPT), steerings)
    plain = oracle.logits(ids, len(PROMPT))
    error = float((found - expected).abs().max())
    return Gap(case.name, error, float((expected - plain).abs().max()))


def logits_of(answer: Answer) -> Tensor:
    """Return the logits after each prompt token and each generated one but the last."""
    if answer.prompt_logits is None or answer.logits is None:
        raise AssertionError("the request did not ask for logits")
    return torch.cat([answer.prompt_logits, answer.logits])


def summary(gaps: Sequence[Gap]) -> dict[str, Any]:
    """Return the figures of a family."""
    return {
        "cases": len(gaps),
        "largest_error": max(gap.error for gap in gaps),
        "median_unsteered_gap": median(gap.unsteered for gap in gaps),
        "smallest_unsteered_gap": min(gap.unsteered for gap in gaps),
    }


def assert_parity(gaps: Sequence[Gap]) -> None:
    """Every case is within tolerance, and its steering is far larger than that.

    A case whose steering moves no logit (a clamp that does not bind on its tokens) would prove
    nothing; there is none in the grid.
    """
    for gap in gaps:
        assert gap.error < TOLERANCE, f"{gap.name}: {gap.error:.2e} (steering {gap.unsteered:.2e})"
        assert gap.unsteered > 100 * gap.error, (
            f"{gap.name}: {gap.error:.2e} is no small part of {gap.unsteered:.2e}"
        )
