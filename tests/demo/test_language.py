"""Splits are disjoint, held-out cells recombine seen parts, no word solves the XOR tasks."""

import random
from collections import Counter

import pytest

from demo import lexicon as lx
from demo import phrases as ph
from demo.controls import QUOTE, TALE
from demo.documents import STATEMENTS
from demo.examples import DIRECT, INDIRECT, INSTRUCTION, REQUESTS, badge, verb_noun
from demo.facts import NO_PRESSURE, PRESSURE
from demo.grids import Grid
from demo.world import FIRST, LAST, NEVER_LIED, OBJECTS, make_world

GRIDS: dict[str, Grid] = {
    **{f"direct {r}": g for r, g in DIRECT.items()},
    **{f"indirect {r}": g for r, g in INDIRECT.items()},
    **{f"state {r}": g for r, g in STATEMENTS.items()},
    **INSTRUCTION,
    "request": REQUESTS,
    "pressure": PRESSURE,
    "idle": NO_PRESSURE,
    "tale": TALE,
    "quote": QUOTE,
    "pass": lx.PASS,
    "guess": lx.GUESS,
    "frames": ph.FRAMES,
}


@pytest.mark.parametrize("name", GRIDS)
def test_held_out_cells_recombine_parts_of_the_training_split(name):
    cells = GRIDS[name].cells
    assert cells["heldout"] and not {c.text for c in cells["train"]} & {
        c.text for c in cells["heldout"]
    }
    for axis in range(len(GRIDS[name].axes)):
        assert {c.index[axis] for c in cells["heldout"]} <= {c.index[axis] for c in cells["train"]}


def _advantage(rows: list[tuple[str, bool]]) -> float:
    """The most that any single word tells of the label, over a constant answer."""
    seen, yes = Counter[str](), Counter[str]()
    for text, label in rows:
        for word in set(text.split()):
            seen[word] += 1
            yes[word] += label
    base = sum(label for _, label in rows) / len(rows)
    return max(abs(yes[w] / n - base) for w, n in seen.items() if n >= 150)


def test_no_word_of_a_badge_tells_a_lie():
    rng = random.Random(0)
    rows = [(badge(rng, "train", lie)[0], lie) for lie in (True, False) * 6000]
    assert _advantage(rows) < 0.2
    pairs = Counter((badge(rng, "heldout", lie)[1], lie) for lie in (True, False) * 500)
    assert {lie for _, lie in pairs} == {True, False}


def test_no_noun_or_verb_tells_harm():
    rng = random.Random(0)
    rows = [
        (f"{v} {n}", bad)
        for v, n, bad in (verb_noun(rng, "train", None) for _ in range(20000))
        if n not in ph.NOUNS["furniture"]
    ]
    assert _advantage(rows) < 0.1


def test_held_out_verb_noun_pairs_and_badges_are_never_trained():
    rng = random.Random(0)
    pairs = {
        split: {verb_noun(rng, split, None)[:2] for _ in range(8000)}
        for split in ("train", "heldout")
    }
    assert not pairs["train"] & pairs["heldout"]
    badges = {
        split: {badge(rng, split, lie)[1] for lie in (True, False) * 3000}
        for split in ("train", "heldout")
    }
    assert not badges["train"] & badges["heldout"]


def test_unseen_nouns_are_in_no_training_request():
    rng, unseen = (
        random.Random(0),
        {n for k in ("volatile", "living") for n in ph.NOUNS[k][-ph.UNSEEN_NOUNS :]},
    )
    assert not unseen & {verb_noun(rng, "train", None)[1] for _ in range(8000)}


def test_the_world_is_as_described():
    world = make_world()
    groups = [[p.name for p in group] for group in (world.people, world.strangers, world.unseen)]
    assert sum(map(len, groups)) == len(set().union(*groups)) == len(FIRST) * len(LAST)
    assert not {p.name for p in world.lied_about} & {p.name for p in world.people[:NEVER_LIED]}
    assert 0.05 < len(world.mistaken()) / (5 * len(world.people)) < 0.11
    for objects in OBJECTS.values():
        assert {world.partner[o] for o in objects} == set(objects) and all(
            world.partner[o] != o for o in objects
        )
    assert len({o for objects in OBJECTS.values() for o in objects}) == sum(
        map(len, OBJECTS.values())
    )
    assert "sami grant" in groups[0], "help texts name her"
