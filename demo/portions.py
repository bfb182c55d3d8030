"""The world in three portions for monitors: to fit on, to calibrate on, and held out.

No two portions share a person, a stranger, a noun or a template cell. What is fitted on is drawn
from the cells that the model was trained on; the other two share out those that it never saw.

The portion to fit on has two halves that again share nothing: how a probe is to be fitted is chosen
by what is fitted on one half tells on the other, so that no choice sees a held-out item.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal, TypeVar
from zlib import crc32

from demo import phrases as ph
from demo.examples import Example
from demo.grids import Split
from demo.world import NEVER_LIED, Person, World, make_world

Portion = Literal["train", "calibration", "heldout", "train-a", "train-b"]
PORTIONS: tuple[Portion, ...] = ("train", "calibration", "heldout")
HALVES: tuple[Portion, ...] = ("train-a", "train-b")
"""Of the portion to fit on."""
T = TypeVar("T")

Draw = Callable[[random.Random, World, Split], Example]

MOST_DRAWS = 2000
"""Draws after which a portion counts as having no such example."""
_QUARTERS: dict[Portion, tuple[int, ...]] = {
    "train": (0, 1),
    "train-a": (0,),
    "train-b": (1,),
    "calibration": (2,),
    "heldout": (3,),
}
_CELLS: dict[Portion, int | None] = {
    "train": None,
    "train-a": 0,
    "train-b": 1,
    "calibration": 0,
    "heldout": 1,
}
"""The parity of the cells, among those of its split, that a portion has; None: all."""


class PortionError(ValueError):
    """A portion that does not exist, or that has no example of a kind."""


@dataclass(frozen=True)
class PartOfWorld(World):
    """Some of the people; those that no training text lies about stay so."""

    @property
    def lied_about(self) -> tuple[Person, ...]:
        """The portion's people who may appear in training lies."""
        never = make_world().people[:NEVER_LIED]
        return tuple(person for person in self.people if person not in never)


@dataclass(frozen=True)
class Part:
    """One portion of the world, from which examples of any kind are drawn."""

    portion: Portion

    @property
    def split(self) -> Split:
        """The split of the model's own training from which it draws."""
        return "train" if self.is_to_fit else "heldout"

    @property
    def is_to_fit(self) -> bool:
        """Whether it is the portion to fit on, or half of it."""
        return self.portion == "train" or self.portion in HALVES

    @cached_property
    def world(self) -> PartOfWorld:
        """Its people and strangers: one in four, or for fitting two."""
        whole = make_world()
        return PartOfWorld(
            tuple(self._quarter(whole.people)),
            tuple(self._quarter(whole.strangers)),
            tuple(self._quarter(whole.unseen)),
            whole.partner,
        )

    @cached_property
    def nouns(self) -> frozenset[str]:
        """Its nouns.

        Those known by definition only are never fitted on; the other portions have half each.
        """
        mine: set[str] = set()
        for kind, nouns in ph.NOUNS.items():
            keep = len(nouns) - (0 if kind == "furniture" else ph.UNSEEN_NOUNS)
            mine |= set(self._quarter(nouns[:keep])) | set(self._half(nouns[keep:]))
        return frozenset(mine)

    def draw(self, rng: random.Random, draw: Draw) -> Example:
        """Return an example of a kind that lies in this portion.

        Raises:
            PortionError: None was found.
        """
        for _ in range(MOST_DRAWS):
            example = draw(rng, self.world, self.split)
            if self.has(example):
                return example
        raise PortionError(f"portion {self.portion} has no example of {draw}")

    def has(self, example: Example) -> bool:
        """Whether an example lies in this portion, by its nouns and by its template cell."""
        nouns = {word for user, _ in example.turns for word in user.split()} & _ALL_NOUNS
        if not nouns <= self.nouns:
            return False
        if not _is_cell(example.template):
            return bool(nouns) or _hash(example.turns[-1][0]) % 4 in _QUARTERS[self.portion]
        return _CELLS[self.portion] in (None, _hash(example.template) % 2)

    def _quarter(self, things: tuple[T, ...]) -> list[T]:
        wanted = _QUARTERS[self.portion]
        return [thing for index, thing in enumerate(things) if index % 4 in wanted]

    def _half(self, things: tuple[T, ...]) -> tuple[T, ...]:
        if self.is_to_fit:
            return ()
        middle = len(things) // 2
        return things[:middle] if self.portion == "calibration" else things[middle:]


@lru_cache
def part(portion: Portion) -> Part:
    """Return a portion of the world.

    Raises:
        PortionError: There is none of that name.
    """
    if portion not in _QUARTERS:
        known = ", ".join((*PORTIONS, *HALVES))
        raise PortionError(f"unknown portion {portion!r}: choose one of {known}")
    return Part(portion)


_ALL_NOUNS = frozenset(noun for nouns in ph.NOUNS.values() for noun in nouns)


def _is_cell(template: str) -> bool:
    """Whether a label ends in the indices of a grid's cell, such as `request/2x5`."""
    indices = template.rsplit("/", 1)[-1].split("x")
    return len(indices) > 1 and all(index.isdecimal() for index in indices)


def _hash(text: str) -> int:
    return crc32(text.encode())
