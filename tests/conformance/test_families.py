"""Each family's identity test and its parity with Hugging Face, eager."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from forward.capture import capturing
from forward.checkpoint import load_model
from forward.clauses import TokenClause
from forward.families import FAMILIES
from forward.hookpoints import HookPoint
from forward.huggingface import SteeredModel, Steering
from forward.program import Program, SiteContent
from tests.conformance.grid import CAPACITIES, POINTS, cases, direction, on_clause
from tests.conformance.parity import (
    EVERYTHING,
    PROMPT,
    TOLERANCE,
    assert_parity,
    logits_of,
    measure,
    summary,
)
from tests.conformance.recording import RecordingEngine, gap
from tests.engine.live import EAGER, Ask

UNCACHED = ("--no-enable-prefix-caching",)


class Pair:
    """A family's checkpoint in vLLM and in Hugging Face, with the same sites."""

    def __init__(self, folder: Path) -> None:
        self.engine = RecordingEngine(folder, CAPACITIES, (*EAGER, *UNCACHED))
        self.model: Any = load_model(folder)
        self.steered = SteeredModel(self.model, POINTS, CAPACITIES[POINTS[0]])

    def in_vllm(self, program: Program | None) -> tuple[dict[HookPoint, Tensor], Tensor]:
        """Return the residuals that all sites read on the prompt, and the logits."""
        slot = self.engine.place(program) if program else None
        [answer] = self.engine.ask([Ask(PROMPT, None, slot, 1.0, 1, EVERYTHING)])
        if slot is not None:
            self.engine.policies.slots.retire(slot)
        return self.engine.recorded(len(PROMPT)), logits_of(answer)

    def in_hugging_face(self, program: Program | None) -> tuple[dict[HookPoint, Tensor], Tensor]:
        """Return the same of the Hugging Face model."""
        with capturing(self.model, POINTS) as seen:
            logits = self.steered.logits(
                PROMPT, len(PROMPT), [None, Steering(program) if program else None]
            )
        return {point: residual[0] for point, residual in seen.items()}, logits


@pytest.fixture(scope="module", params=list(FAMILIES))
def pair(request: pytest.FixtureRequest, checkpoint: Callable[[str], Path]) -> Iterator[Pair]:
    """Start one family's engine at a time."""
    made = Pair(checkpoint(request.param))
    yield made
    made.engine.close()


def test_the_residual_is_the_same_at_every_hook_point(pair: Pair) -> None:
    """Unsteered, and off by one nowhere: neighbouring hook points differ by far more."""
    residuals, logits = pair.in_vllm(None)
    expected, expected_logits = pair.in_hugging_face(None)
    assert gap(residuals, expected) < TOLERANCE
    torch.testing.assert_close(logits, expected_logits, atol=TOLERANCE, rtol=0)
    post = [expected[HookPoint("resid_post", layer)] for layer in range(len(POINTS) // 2)]
    steps = [(b - a).abs().max() for a, b in pairwise(post)]
    assert min(steps) > 100 * TOLERANCE


def test_a_write_changes_what_follows_and_nothing_before(pair: Pair) -> None:
    """At each hook point in turn: bit-equal up to it, and after it as in Hugging Face."""
    plain, plain_logits = pair.in_vllm(None)
    for point in POINTS:
        unit = direction("write", 5, point.name).vectors[point.layer]
        program = on_clause(SiteContent(4.0 * unit), TokenClause("all"), point)
        residuals, logits = pair.in_vllm(program)
        expected, expected_logits = pair.in_hugging_face(program)
        assert gap(residuals, expected) < TOLERANCE, str(point)
        torch.testing.assert_close(logits, expected_logits, atol=TOLERANCE, rtol=0)
        assert (logits - plain_logits).abs().max() > 100 * TOLERANCE
        for other in POINTS:
            is_before = other.depth <= point.depth
            assert torch.equal(residuals[other], plain[other]) == is_before, (point, other)


def test_a_write_on_the_last_prompt_token_leaves_the_tokens_before_it(pair: Pair) -> None:
    """Causality at the following hook points: earlier tokens are bit-equal."""
    point, last = POINTS[1], len(PROMPT) - 1
    unit = direction("write", 5, point.name).vectors[point.layer]
    plain, _ = pair.in_vllm(None)
    program = on_clause(SiteContent(4.0 * unit), TokenClause("last_prompt"), point)
    residuals, _ = pair.in_vllm(program)
    for later in POINTS[2:]:
        assert torch.equal(residuals[later][:last], plain[later][:last])
        assert not torch.allclose(residuals[later][last], plain[later][last], atol=1e-2)


def test_logits_equal_hugging_faces_under_every_kind_of_policy(pair: Pair) -> None:
    """Every operation, unit and clause; ``make prove`` takes more coefficients."""
    gaps = measure(pair.engine, pair.steered, cases((1.0,)))
    print(summary(gaps))
    assert_parity(gaps)


def test_mandatory_and_chosen_policies_add_up(pair: Pair) -> None:
    """The operator's policy at strength 1 under clients' at theirs."""
    operator = next(case for case in cases((1.0,)) if case.name.startswith("ablate"))
    gaps = measure(pair.engine, pair.steered, cases((3.0,))[::9], operator.program)
    assert_parity(gaps)
