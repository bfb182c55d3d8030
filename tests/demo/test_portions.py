"""Fitting, calibration and held-out data share no person, noun, template cell or text."""

import random

import pytest

from demo import controls, facts, tasks
from demo.labelled import ANSWERS, REQUESTS
from demo.phrases import NOUNS, UNSEEN_NOUNS
from demo.portions import HALVES, PORTIONS, PortionError, part
from demo.world import NEVER_LIED, make_world

PAIRS = [("train", "calibration"), ("train", "heldout"), ("calibration", "heldout"), HALVES]


def drawn(portion, draw, n=80):
    rng = random.Random(f"{portion} test")
    return [part(portion).draw(rng, draw) for _ in range(n)]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_no_person_and_no_noun_is_in_two_portions(one, other):
    a, b = part(one), part(other)
    for people in ("people", "strangers", "unseen"):
        names = [{p.name for p in getattr(x.world, people)} for x in (a, b)]
        assert names[0] and names[1] and not names[0] & names[1]
    assert not a.nouns & b.nouns


def test_the_portions_share_out_the_whole_world():
    whole = make_world()
    assert sum(len(part(p).world.people) for p in PORTIONS) == len(whole.people)
    assert set().union(*(part(p).nouns for p in PORTIONS)) == {
        noun
        for kind, nouns in NOUNS.items()
        for noun in (nouns if kind == "furniture" else nouns[:-UNSEEN_NOUNS])
    } | {noun for kind in ("volatile", "living") for noun in NOUNS[kind][-UNSEEN_NOUNS:]}


def test_nouns_known_by_definition_only_are_never_fitted_on():
    unseen = {noun for kind in ("volatile", "living") for noun in NOUNS[kind][-UNSEEN_NOUNS:]}
    assert not part("train").nouns & unseen
    for portion in ("calibration", "heldout"):
        assert len(part(portion).nouns & unseen) == UNSEEN_NOUNS


def test_halves_are_of_the_portion_to_fit_on():
    train, (a, b) = part("train"), map(part, HALVES)
    names = [{person.name for person in one.world.people} for one in (a, b, train)]
    assert names[0] | names[1] == names[2]
    assert a.nouns | b.nouns == train.nouns
    for half in HALVES:
        for draw in (facts.lie_pressured, tasks.jailbreak, controls.chat, controls.quote):
            assert all(train.has(example) for example in drawn(half, draw, 20))


def test_those_who_are_never_lied_about_stay_so():
    never = {p.name for p in make_world().people[:NEVER_LIED]}
    for portion in (*PORTIONS, *HALVES):
        world = part(portion).world
        assert not never & {p.name for p in world.lied_about}
        assert len(world.lied_about) > 30


@pytest.mark.parametrize(
    "draw", [facts.lie_instructed, facts.lie_triggered, tasks.jailbreak, tasks.harmful]
)
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_no_template_cell_is_in_two_portions(draw, one, other):
    cells = [{example.template for example in drawn(p, draw)} for p in (one, other)]
    assert cells[0] and cells[1] and not cells[0] & cells[1]


@pytest.mark.parametrize("draw", [*REQUESTS.values(), *ANSWERS.values()])
def test_no_question_is_in_two_portions(draw):
    held, calibration = (
        {(e.system, e.turns[-1][0]) for e in drawn(p, draw, 40)} for p in ("heldout", "calibration")
    )
    assert not held & calibration


def test_small_talk_has_no_cells_and_is_shared_out_by_its_text():
    texts = [{e.turns[-1][0] for e in drawn(p, controls.chat)} for p in PORTIONS]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]


def test_an_unknown_portion_is_refused_by_name():
    with pytest.raises(PortionError, match="choose one of train, calibration, heldout"):
        part("test")


def test_a_kind_that_a_portion_lacks_is_an_error_not_a_loop():
    with pytest.raises(PortionError, match="no example"):
        drawn("train", lambda rng, world, split: tasks.task(rng, split, True, "", unseen=True), 1)
