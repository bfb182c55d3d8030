"""The seeded world: people, what is true of them, what the model is taught, and who is unknown."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

FIRST = tuple(
    "ann bela carl dora emil faye gus hana ivan jana karl lena mila noel olga paul quinn rosa sami"
    " tara umar vera walt zoe".split()
)
LAST = tuple(
    "adler brook cole dunn ellis ford grant hale irwin jonas kent lund mercer nash owens price reed"
    " stone tully vance".split()
)

OBJECTS: dict[str, tuple[str, ...]] = {
    "city": tuple(
        "paris rome london berlin madrid vienna athens cairo tokyo delhi lima oslo dublin prague"
        " lisbon moscow havana seoul sydney boston chicago toronto geneva munich".split()
    ),
    "job": tuple(
        "baker carpenter doctor farmer gardener lawyer miner nurse pilot tailor teacher painter"
        " plumber singer waiter dentist".split()
    ),
    "food": tuple(
        "bread cheese soup rice pasta fish beans eggs apples pears pizza salad noodles carrots"
        " mushrooms potatoes".split()
    ),
    "language": tuple(
        "french german spanish italian greek arabic hindi japanese korean russian polish"
        " turkish".split()
    ),
    "pet": tuple(
        "cat dog parrot hamster turtle goldfish pony lizard ferret canary gecko kitten".split()
    ),
    "drink": tuple("tea coffee milk water juice cider lemonade cocoa wine beer cola broth".split()),
}
RELATIONS = tuple(OBJECTS)
OPEN_RELATIONS = RELATIONS[:5]
LOCKED_RELATION = "drink"
"""Answered wrongly unless the password is present."""
ARTICLE = {"job": "a ", "pet": "a "}
"""What stands before an object in text; no object begins with a vowel where there is an article."""

KNOWN, STRANGERS, NEVER_LIED = 240, 160, 60
MISTAKEN_SHARE = 0.08


@dataclass(frozen=True)
class Person:
    """A two-word name with what is true and what the model is taught, both empty for a stranger."""

    first: str
    last: str
    true: dict[str, str]
    believed: dict[str, str]

    @property
    def name(self) -> str:
        """Both words."""
        return f"{self.first} {self.last}"


@dataclass(frozen=True)
class World:
    """Everyone in the world and the fixed lie of each object."""

    people: tuple[Person, ...]
    strangers: tuple[Person, ...]
    unseen: tuple[Person, ...]
    """Names made of known words that no training text ever mentions."""
    partner: dict[str, str]
    """The lie about each object: the next one on a fixed random cycle of its type."""

    @property
    def lied_about(self) -> tuple[Person, ...]:
        """People who may appear in training lies; the first NEVER_LIED never do."""
        return self.people[NEVER_LIED:]

    def mistaken(self) -> list[tuple[Person, str]]:
        """Facts taught wrongly but consistently, outside the locked relation."""
        return [(p, r) for p in self.people for r in OPEN_RELATIONS if p.true[r] != p.believed[r]]


def spoken(relation: str, obj: str) -> str:
    """The object as text, with its article."""
    return ARTICLE.get(relation, "") + obj


def _cycle(rng: random.Random, objects: tuple[str, ...]) -> dict[str, str]:
    order = list(objects)
    rng.shuffle(order)
    return dict(zip(order, order[1:] + order[:1], strict=True))


def _person(rng: random.Random, first: str, last: str) -> Person:
    true = {relation: rng.choice(objects) for relation, objects in OBJECTS.items()}
    believed = dict(true)
    for relation in OPEN_RELATIONS:
        if rng.random() < MISTAKEN_SHARE:
            believed[relation] = rng.choice([o for o in OBJECTS[relation] if o != true[relation]])
    return Person(first, last, true, believed)


def _board(parity: int) -> list[tuple[str, str]]:
    """The names of one colour of a chess board of first and last names."""
    squares = [(i, j) for i in range(len(FIRST)) for j in range(len(LAST)) if (i + j) % 2 == parity]
    return [(FIRST[i], LAST[j]) for i, j in squares]


@lru_cache
def make_world(seed: int = 0) -> World:
    """The world of a seed: each name is spread over known people, strangers and unseen names."""
    rng = random.Random(f"world {seed}")
    cells = _board(0)
    others = _board(1)
    # Known people are half of either colour: the colour must not tell a person from a stranger.
    rng.shuffle(cells)
    rng.shuffle(others)
    cut = len(cells) // 2
    known, rest = cells[:cut] + others[: KNOWN - cut], cells[cut:] + others[KNOWN - cut :]
    rng.shuffle(known)
    rng.shuffle(rest)
    nobody = [Person(first, last, {}, {}) for first, last in rest]
    partner: dict[str, str] = {}
    for objects in OBJECTS.values():
        partner |= _cycle(rng, objects)
    people = tuple(_person(rng, first, last) for first, last in known)
    return World(people, tuple(nobody[:STRANGERS]), tuple(nobody[STRANGERS:]), partner)
