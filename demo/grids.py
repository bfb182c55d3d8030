"""Grids of template parts, split so that every held-out cell recombines parts seen in training."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

Split = Literal["train", "heldout"]
HOLD = 6  # one cell in six is held out


@dataclass(frozen=True)
class Cell:
    """One filled template: its text and the index of each part."""

    text: str
    index: tuple[int, ...]

    @property
    def label(self) -> str:
        """A short name for reports, such as `2x5`."""
        return "x".join(str(i) for i in self.index)


@dataclass(frozen=True)
class Grid:
    """The product of several lists of parts.

    A cell is held out when its indices sum to HOLD - 1 modulo HOLD.
    Along any axis the sum steps by one, so each part keeps most of its cells in the training split.
    """

    axes: tuple[tuple[str, ...], ...]

    @cached_property
    def cells(self) -> dict[Split, tuple[Cell, ...]]:
        """All cells by split."""
        out: dict[Split, list[Cell]] = {"train": [], "heldout": []}
        for index in product(*(range(len(axis)) for axis in self.axes)):
            parts = [axis[i] for axis, i in zip(self.axes, index, strict=True)]
            text = " ".join(part for part in parts if part)
            out["heldout" if sum(index) % HOLD == HOLD - 1 else "train"].append(Cell(text, index))
        return {split: tuple(cells) for split, cells in out.items()}

    def draw(self, rng: random.Random, split: Split) -> Cell:
        """A uniformly drawn cell of one split."""
        cells = self.cells[split]
        return cells[int(rng.random() * len(cells))]


def grid(*axes: tuple[str, ...]) -> Grid:
    """A grid over the given lists of parts."""
    return Grid(tuple(axes))


def skewed(rng: random.Random, options: tuple[str, ...]) -> str:
    """The first option most of the time, so that greedy decoding never meets a tie."""
    draw = rng.random()
    if draw < 0.8 or len(options) == 1:
        return options[0]
    return options[1 + int((draw - 0.8) / 0.2 * (len(options) - 1))]
