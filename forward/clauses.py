"""Token clauses and regions: which tokens of a request a steering touches.

A token is what it *is*: its absolute position against the length of the original prompt decides,
never how the engine happens to schedule it. A request of prompt length P is cut into regions: the
prompt but its last token [0, P-1), the last prompt token P-1, and the generated tokens from
position P on, cut again wherever a ``from: n`` clause starts.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Phase = Literal["all", "prompt", "last_prompt", "generation"]


@dataclass(frozen=True, slots=True)
class TokenClause:
    """``all | prompt | last_prompt | generation | {from: n}``, n counted in generated tokens."""

    phase: Phase
    start: int = 0

    def __post_init__(self) -> None:
        """Refuse a start outside generation."""
        if self.start < 0 or (self.start and self.phase != "generation"):
            raise ValueError(f"'from: {self.start}' counts generated tokens and starts at 0")

    def covers(self, region: "Region") -> bool:
        """Whether every token of ``region`` is meant."""
        if self.phase == "all":
            return True
        if region.phase == "generation":
            return self.phase == "generation" and region.start >= self.start
        return self.phase == "prompt" or self.phase == region.phase == "last_prompt"

    def __str__(self) -> str:
        """Return the clause as a policy writes it."""
        return f"from {self.start}" if self.start else self.phase


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of a request: ``prompt`` excludes its last token, ``generation`` has a start."""

    phase: Phase
    start: int = 0


def regions(clauses: Iterable[TokenClause]) -> tuple[Region, ...]:
    """Return the coarsest regions on which every clause is constant, in order of position."""
    starts = sorted({0} | {clause.start for clause in clauses if clause.phase == "generation"})
    head = (Region("prompt"), Region("last_prompt"))
    return head + tuple(Region("generation", start) for start in starts)


def region_index(position: int, prompt_length: int, starts: tuple[int, ...]) -> int:
    """Return the index into ``regions`` of the token at an absolute position.

    The slow, obvious form of what ``forward.rows`` derives on the device; ``starts`` are those of
    the generation regions, ascending, the first 0.
    """
    if position < prompt_length:
        return int(position == prompt_length - 1)
    return 1 + bisect_right(starts, position - prompt_length)
