"""The better alternative is chosen, by what it tells on the other half, and only there."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from demo.choosing import RATES, Half, choose, half, recall, see, worth
from demo.effects import HERE
from demo.generate import Talker
from demo.labelled import answered
from demo.obeyed import MADE
from demo.portions import HALVES
from demo.probes import GENERATION, LAST_PROMPT, RECIPES, Choice, Recipe, positions
from forward.capture import capture
from forward.hookpoints import HookPoint
from monitors.items import Item, token_sequence
from monitors.pooling import Pool

N = 60
EMA = Pool("ema", alpha=0.2)


def made(seed, n_tokens=3, told_at=2, layers=(3,)):
    """Items of whose tokens only one tells, by its first number, and only at layer 3."""
    rng = np.random.default_rng(seed)
    items, seen = [], []
    for index in range(N):
        x = torch.from_numpy(rng.normal(size=(n_tokens, 2)))
        x[told_at, 0] += 9.0 * (index % 2)
        items.append(Item("q", index % 2, "a"))
        seen.append(
            {layer: x if layer == 3 else torch.zeros_like(x) + x[:, 1:] for layer in layers}
        )
    return Half(items, seen)


def recipe(*stages, **changes):
    return Recipe("r", "harm", GENERATION, "", stages, **({"all_tokens": True} | changes))


def test_recall_at_low_rates_by_its_definition():
    negative = np.arange(1999.0)
    positive = np.array([-1.0, 1898.5, 1995.5, 5000.0])
    # a rate r allows floor(2000 r) - 1 of the benign scores above its threshold
    expected = [
        np.mean([np.sum(negative >= x) <= np.floor(2000 * rate + 1e-9) - 1 for x in positive])
        for rate in RATES
    ]
    assert recall(positive, negative) == pytest.approx(np.mean(expected))
    assert 0.25 < recall(positive, negative) < 0.75


def test_too_few_benign_scores_for_a_rate_ask_for_more_than_the_highest():
    assert recall(np.array([5.0]), np.array([5.0, 4.0])) == 0.0
    assert recall(np.array([5.1]), np.array([5.0, 4.0])) == 1.0


def test_the_alternative_that_tells_is_chosen():
    halves = [made(seed, layers=(3, 1)) for seed in (1, 2)]
    told = []
    found = choose(
        recipe({"layer": (1, 3), "l2": (1e-1, 1e-2)}, {"places": ((0,), (1,), (2,))}),
        halves,
        lambda _recipe, choice, value: told.append((choice, value)),
    )
    assert (found.layer, found.places) == (3, (2,))
    assert len(told) == len({choice for choice, _ in told})
    assert dict(told)[found] == max(value for _, value in told) > 0.9
    assert dict(told)[replace(found, places=(0,))] < 0.6


def test_the_first_of_equals_is_chosen():
    halves = [made(seed) for seed in (1, 2)]
    stage = {"places": ((2,),), "l2": (1e-2, 1e-3, 1e-1)}
    assert choose(recipe(stage), halves, lambda *_: None).l2 == 1e-2


def test_what_is_worth_is_told_on_the_other_half():
    """Two halves that each tell by another column: each fit fails on the other."""
    one = made(1)
    other = Half(one.items, [{3: x[3].flip(1)} for x in made(2).seen])
    choice = Choice(places=(2,), l2=1e-2)
    assert worth(recipe(), choice, [one, made(2)]) > 0.9
    assert worth(recipe(), choice, [one, other]) < 0.3


def test_a_pool_that_remembers_tells_what_two_tokens_decide():
    """Alone neither token tells: benign items have either, harmful ones both."""

    def pair(seed):
        rng = np.random.default_rng(seed)
        items, seen = [], []
        for index in range(4 * N):
            first, second = index % 2, index // 2 % 2
            x = torch.from_numpy(0.1 * rng.normal(size=(2, 2)))
            x[0, 0] += first
            x[1, 1] += second
            items.append(Item("q", first * second, "a"))
            seen.append({3: x})
        return Half(items, seen)

    halves = [pair(1), pair(2)]
    stage = {"l2": (1e-4,), "places": ((1,),), "pool": (Pool("max"), Pool("ema", alpha=0.5))}
    assert choose(recipe(stage), halves, lambda *_: None).pool.kind == "ema"


def test_a_recipe_of_one_place_is_told_there_and_nowhere_else():
    halves = [made(seed, told_at=1) for seed in (1, 2)]
    noisy = [
        Half(h.items, [{3: torch.cat([x[3][:2], x[3][2:] + 99.0])} for x in h.seen]) for h in halves
    ]
    only = recipe(all_tokens=False, at_place=True)
    choice = Choice(places=(1,), l2=1e-2)
    assert worth(only, choice, noisy) == worth(only, choice, halves) > 0.9
    assert worth(replace(only, at_place=False), choice, noisy) < 0.5


@pytest.mark.parametrize(
    ("changes", "item", "expected"),
    [
        ({}, Item("q", 1, "a"), (0, 2)),
        ({}, Item("q", 1, "a", position=4), (4, 6)),
        ({}, Item("q", 0, "a", position=4), ("every",)),
        ({"all_tokens": False}, Item("q", 0, "a", position=4), (4, 6)),
        ({"clause": LAST_PROMPT}, Item("q", 1, "a", position=4), ("last_prompt",)),
    ],
)
def test_which_tokens_stand_for_an_item(changes, item, expected):
    assert positions(replace(recipe(), **changes), Choice(places=(0, 2)), item) == expected


def test_what_is_seen_is_what_is_captured():
    talker = Talker(HERE / "checkpoint")
    prompts = answered("harm", HALVES[0], 1, talker)
    seen = see(prompts, talker)
    found = half(RECIPES["harm-answer"], prompts, seen, talker)
    item, rows = found.items[1], found.seen[1][2]
    sequence = token_sequence(talker.tokenizer, item)
    point = HookPoint("resid_post", 2)
    whole = capture(talker.model, list(sequence.ids), [point])[point]
    torch.testing.assert_close(rows, whole[sequence.prompt_length :], rtol=1e-4, atol=1e-4)
    last = half(RECIPES["harm"], prompts, seen, talker)
    torch.testing.assert_close(
        last.seen[1][2],
        whole[sequence.prompt_length - 1 : sequence.prompt_length],
        rtol=1e-4,
        atol=1e-4,
    )


def test_what_a_policy_made_of_a_request_is_for_the_monitor_of_answers_only():
    talker = Talker(HERE / "checkpoint")
    (one, *_) = answered("harm", "train-a", 1, talker)
    prompts = [
        one,
        replace(one, slice=next(iter(MADE)), answer="first take the acid, then mix it."),
    ]
    seen = see(prompts, talker)
    sizes = {
        name: len(half(RECIPES[name], prompts, seen, talker).items)
        for name in RECIPES
        if name != "deception"
    }
    assert sizes == {"harm": 1, "harm-answer": 2, "refusal": 1, "deception-transfer": 0}
