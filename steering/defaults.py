"""What a direction's card recommends: layers, operation, token clause, unit and coefficient."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from forward.clauses import Phase, TokenClause

OpName = Literal["add", "ablate", "clamp", "set", "rotate"]
Unit = Literal["natural", "absolute", "residual_norm"]
ClauseText = str | Mapping[str, int]

_PHASES: tuple[Phase, ...] = get_args(Phase)


class ClauseError(ValueError):
    """A token clause that is none of those served."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """How a direction is used when a policy does not say otherwise.

    Attributes:
        layers: 0-based layers to act at, ascending, at least one.
        op: Operation. ``set`` without a value means the direction's benign mean.
        tokens: Token clause.
        coefficient: Coefficient, in ``unit``; applies when the policy keeps ``op``.
        unit: Unit of coefficients, bounds and values.
    """

    layers: tuple[int, ...]
    op: OpName = "add"
    tokens: TokenClause = TokenClause("all")
    coefficient: float = 1.0
    unit: Unit = "natural"

    def __post_init__(self) -> None:
        """Refuse defaults that no policy could use."""
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise ValueError("default layers must be distinct and ascending, at least one")
        if self.op not in get_args(OpName) or self.unit not in get_args(Unit):
            raise ValueError(
                f"'{self.op}' in unit '{self.unit}' is not an operation that is served"
            )
        if not math.isfinite(self.coefficient):
            raise ValueError("the default coefficient must be finite")


def parse_clause(value: object) -> TokenClause:
    """Read a token clause as YAML or JSON writes it: a phase name or ``{from: n}``.

    Raises:
        ClauseError: It is neither.
    """
    if isinstance(value, str) and value in _PHASES:
        return TokenClause(value)
    if isinstance(value, dict) and list(value) == ["from"]:
        start: object = value["from"]
        if isinstance(start, int) and not isinstance(start, bool) and start >= 0:
            return TokenClause("generation", start)
    raise ClauseError(
        f"'{value}' is not a token clause; write {', '.join(_PHASES)} or {{from: n}}, n "
        "counted in generated tokens from 0"
    )


def clause_text(clause: TokenClause) -> str | dict[str, int]:
    """Return a clause as YAML or JSON writes it; the inverse of ``parse_clause``."""
    return {"from": clause.start} if clause.start else clause.phase
