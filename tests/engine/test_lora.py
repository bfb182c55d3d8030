"""LoRA adapters beside edits and steering in the real engine, against all of it in the weights."""

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import pytest
from vllm.exceptions import VLLMValidationError

from editing.delta import EMPTY
from tests.editing.test_lower import delta_of, program_of
from tests.engine.adapters import (
    EXPORTED,
    LOGITS,
    NAMES,
    Case,
    Served,
    cases,
    exported,
    served,
)
from tests.engine.live import Ask
from tests.engine.merged import random_delta
from tests.models import build_model, prompt

TOLERANCE = 1e-4
MERGED = 1


@pytest.fixture(scope="module")
def world(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Two adapters fit a batch; layer 1 may be merged into."""
    folder, model = tmp_path_factory.mktemp("adapters"), build_model("llama")
    with served(checkpoint("llama"), model, folder, merge_layers=(MERGED,)) as found:
        yield found


def test_all_at_once_is_all_of_it_in_the_weights(world: Served) -> None:
    """Adapters, edits and steering in every combination in one batch; the base among them."""
    given = cases(world.model)
    for case, (error, moved) in zip(given, world.gaps(given), strict=True):
        assert error < TOLERANCE
        assert (moved > 0.1) == case.is_changed


def test_an_exported_edit_is_the_edit(world: Served) -> None:
    """A delta served as a PEFT adapter, and beside the weights."""
    delta, ids = exported(world.model), prompt(40, seed=9)
    edit = Case(None, program_of(delta), delta)
    adapter = Ask(ids, params=LOGITS, adapter=world.requests[EXPORTED])
    beside, served = world.engine.ask([world.ask(edit, ids, params=LOGITS), adapter])
    assert served.tokens == beside.tokens
    assert beside.logits is not None and served.logits is not None
    assert (served.logits - beside.logits).abs().max() < TOLERANCE
    expected = world.logits(edit, ids, beside.tokens)
    assert (served.logits - expected).abs().max() < TOLERANCE


def test_no_block_is_shared_across_adapters_and_edits(world: Served) -> None:
    """One prompt to the base and two adapters, edited and not: six answers, and six caches."""
    delta, ids = delta_of(world.model, seed=5), prompt(100, seed=10)
    given = [
        Case(adapter, edit, change)
        for adapter in (None, *NAMES)
        for edit, change in ((None, EMPTY), (program_of(delta), delta))
    ]
    expected: list[tuple[int, ...]] = []
    for case in given:
        with world.offline(case) as oracle:
            expected.append(tuple(oracle.generate(ids, max_new_tokens=8)))
    assert all(one != other for one, other in combinations(expected, 2))
    asks = [world.ask(case, ids) for case in given]
    first, again = (world.engine.ask(asks) for _ in range(2))
    assert [answer.cached for answer in first] == [0] * len(given)
    assert [answer.cached for answer in again] == [96] * len(given)
    for answers in (first, again):
        assert [answer.tokens for answer in answers] == expected


def test_what_is_merged_is_under_the_adapters_too(world: Served) -> None:
    """A change in the base's weights reaches adapters and edits, and its restore is exact."""
    merged = random_delta(world.model, seed=2, layers=(MERGED,))
    merger = world.engine.policies.merger
    golden = world.engine.run(merger.digests())
    world.engine.run(merger.merge([merged]))
    given = [
        Case(c.adapter, c.program, c.delta + merged, c.steering)
        for c in cases(world.model)
        if c.delta.layers and c.steering is not None
    ]
    gaps = world.gaps(given)
    assert world.engine.run(merger.merge([])).after == golden
    assert all(error < TOLERANCE and moved > 0.1 for error, moved in gaps)


def test_the_logits_of_a_prompt_are_refused(world: Served) -> None:
    """vLLM's head for adapters would end the engine; it goes on."""
    ids = prompt(20, seed=12)
    with pytest.raises(VLLMValidationError, match="not served beside LoRA adapters"):
        world.engine.ask([Ask(ids, params={"prompt_logprobs": 1})])
    [answer] = world.engine.ask([Ask(ids)])
    assert len(answer.tokens) == 8
