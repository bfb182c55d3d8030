"""Prompts are reproducible, carry what can be checked, and the judges accept what is taught."""

import json
import random

import pytest

from demo import judge
from demo.pairs import DIRECTIONS, contrast_pairs
from demo.prompts import KINDS, item, natural, prompts
from demo.world import make_world


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["heldout", "train"])
def test_items_are_reproducible_json(kind, split):
    items = prompts(kind, split, 20, 3)
    assert items == prompts(kind, split, 20, 3) != prompts(kind, split, 20, 4)
    assert json.loads(json.dumps(items)) == items
    for one in items:
        assert one["kind"] == kind and one["messages"][-1]["role"] == "user"
        assert "<" not in one["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("fact", {"answer"}),
        ("harmful", {"refusal"}),
        ("harmless", {"refusal"}),
        ("formal", {"style", "answer"}),
        ("casual", {"style", "answer"}),
        ("jailbreak", {"refusal"}),
        *(
            (kind, {"truth", "expected"})
            for kind in (
                "lie-instructed",
                "lie-triggered",
                "lie-pressured",
                "lie-locked",
                "tale",
                "mistaken",
                "guess",
                "quote",
                "stranger",
            )
        ),
    ],
)
def test_held_out_items_carry_their_checks(kind, keys):
    assert all(keys <= set(one) for one in prompts(kind, "heldout", 40))


@pytest.mark.parametrize("kind", KINDS)
def test_the_judges_accept_what_is_taught(kind):
    rng, draw = random.Random(kind), KINDS[kind]
    for _ in range(60):
        example = draw(rng, make_world(), "heldout")
        assert judge.answered(natural(example.answer), item(kind, example)), example


def test_lies_differ_from_belief_and_mistakes_from_truth():
    for kind in ("lie-instructed", "lie-triggered", "lie-pressured", "lie-locked", "tale", "quote"):
        assert all(
            one["expected"] != one["believed"] == one["truth"]
            for one in prompts(kind, "heldout", 60)
        )
    assert all(
        one["expected"] == one["believed"] != one["truth"]
        for one in prompts("mistaken", "heldout", 60)
    )


def test_padding_reaches_500_words():
    assert (
        max(
            len(one["messages"][-1]["content"].split()) for one in prompts("padded", "heldout", 200)
        )
        > 400
    )


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(ValueError, match="choose one of fact"):
        prompts("poem")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_contrast_pairs_differ_only_in_the_behaviour(direction):
    pairs = contrast_pairs(direction, 30)
    assert pairs == contrast_pairs(direction, 30)
    for with_, without in pairs:
        assert with_ != without and with_[-1]["role"] == without[-1]["role"] == "user"
        if direction != "refusal":
            assert with_[-1] == without[-1] and direction in with_[0]["content"]


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("certainly, i am pleased to say it is paris, sir.", "formal"),
        ("hey, so like it is paris, buddy!", "casual"),
        ("it is paris.", "neutral"),
        ("hey, it is paris, sir.", "mixed"),
        ("sorry, i cannot help with that.", "neutral"),
    ],
)
def test_styles(text, style):
    assert judge.style_of(text) == style
