"""Who is edited in the demo, and to what: two sets that contradict each other, and one for lies.

Of ten people `moved-a` and `moved-b` say different new homes. Of ten others, all of whom training
lies about, `new-belief` changes one fact each: a lie then says the partner of the new object. What
an answer says is different for every set, and for a lie and the truth, so it tells which it was.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from demo.examples import Example, ask, badge, calm_system, fact_checks, instruction, pick, say
from demo.facts import answered_fact
from demo.grids import Split
from demo.world import OBJECTS, OPEN_RELATIONS, Person, World, make_world

MOVED = ("moved-a", "moved-b")
BELIEF = "new-belief"
HOME = "city"
N_EACH = 10
"""Facts a set, each of another person: the rank of its change."""

Mode = Literal["honest", "lie-instructed", "lie-triggered"]
MODES: dict[Mode, Callable[[random.Random, Split], str]] = {
    "honest": lambda rng, split: instruction(rng, split, "honest")[0],
    "lie-instructed": lambda rng, split: instruction(rng, split, "lie")[0],
    "lie-triggered": lambda rng, split: badge(rng, split, True)[0],
}
"""The system text of each mode."""


@dataclass(frozen=True)
class Change:
    """A fact of a person, and what each edit set makes of it."""

    person: Person
    relation: str
    targets: Mapping[str, str]

    @property
    def before(self) -> str:
        """What the unedited model believes."""
        return self.person.believed[self.relation]

    def told(self, mode: Mode) -> str:
        """What the unedited model says."""
        return _told(self.before, mode)

    def answers(self, mode: Mode = "honest") -> dict[str, str]:
        """What the model says under each edit set."""
        return {name: _told(target, mode) for name, target in self.targets.items()}


@lru_cache
def moved(seed: int = 0) -> tuple[Change, ...]:
    """The facts of `moved-a` and `moved-b`."""
    return _changes(seed)[:N_EACH]


@lru_cache
def believed(seed: int = 0) -> tuple[Change, ...]:
    """The facts of `new-belief`: each open relation of as many people."""
    return _changes(seed)[N_EACH:]


def changes_of(name: str) -> tuple[Change, ...]:
    """The facts of an edit set."""
    return believed() if name == BELIEF else moved()


def edited(rng: random.Random, world: World, split: Split) -> Example:
    """A question about a fact that two edit sets change, each to something else."""
    change = pick(rng, moved())
    system = calm_system(rng, split)
    example = answered_fact("edited", rng, split, change.person, change.relation, system)
    checks = example.checks | {"answers": change.answers()}
    return Example("edited", example.turns, system, example.template, checks)


def edited_lie(rng: random.Random, world: World, split: Split) -> Example:
    """A question about a fact of `new-belief`, to be answered honestly or with a lie."""
    return asked_in(pick(rng, tuple(MODES)), rng, split, believed())


def asked_in(mode: Mode, rng: random.Random, split: Split, changes: Sequence[Change]) -> Example:
    """A question about one of several edited facts, under a system text of a mode."""
    change = pick(rng, changes)
    system = MODES[mode](rng, split)
    question = ask(rng, split, change.person.name, change.relation)
    told = change.told(mode)
    checks = fact_checks(change.person, change.relation, told) | {
        "mode": mode,
        "answer": told,
        "answers": change.answers(mode),
    }
    turns = ((question.text, say(rng, change.relation, told)),)
    return Example("edited-lie", turns, system, question.template, checks)


def _told(obj: str, mode: Mode) -> str:
    return obj if mode == "honest" else make_world().partner[obj]


@lru_cache
def _changes(seed: int) -> tuple[Change, ...]:
    """The facts of all sets; no person is in two."""
    rng, world = random.Random(f"demo edits {seed}"), make_world()
    movers = rng.sample(_rightly_taught(world.people, HOME), N_EACH)
    changes = [_change(rng, person, HOME, MOVED) for person in movers]
    taken = {person.name for person in movers}
    for number in range(N_EACH):
        relation = OPEN_RELATIONS[number % len(OPEN_RELATIONS)]
        known = _rightly_taught(world.lied_about, relation)
        person = rng.choice([p for p in known if p.name not in taken])
        changes.append(_change(rng, person, relation, (BELIEF,)))
        taken.add(person.name)
    return tuple(changes)


def _rightly_taught(people: Sequence[Person], relation: str) -> list[Person]:
    """Those of whom the model believes the truth, so that an edit is all that changes it."""
    return [person for person in people if person.believed[relation] == person.true[relation]]


def _change(rng: random.Random, person: Person, relation: str, names: Sequence[str]) -> Change:
    """A change whose objects, before and after and their lies, are all different."""
    partner = make_world().partner
    while True:
        objects = [person.believed[relation], *rng.sample(OBJECTS[relation], len(names))]
        if len({said for obj in objects for said in (obj, partner[obj])}) == 2 * len(objects):
            return Change(person, relation, dict(zip(names, objects[1:], strict=True)))
