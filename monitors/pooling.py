"""Pooling: many token scores to one, token by token, in constant memory.

A state takes one score after the other and says what the pool of all scores so far is; it keeps a
few numbers (``rolling``: the last ``window`` scores). ``pooled`` is the same by its definition,
the oracle of the states. A score that is not a number makes every later pooled value not a number,
except for ``last``, which speaks of one token only.

Which pool when: J. Kramár et al., "Building production-ready probes for Gemini" (2026) and
H. Cunningham et al., "Constitutional classifiers++" (2026): max and ema grow with the length of a
text, mean and softmax are diluted by it.
"""

import math
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from forward.digest import values_digest

_NUMBER = re.compile(r"\d+(\.\d+)?")

PoolKind = Literal["max", "mean", "last", "ema", "rolling", "softmax", "attention"]


class PoolError(ValueError):
    """A pool with a parameter that has no meaning."""


class PoolState(Protocol):
    """What is remembered of the scores so far."""

    def update(self, value: float, query: float = 0.0) -> float:
        """Take the score of the next token; return the pool of all so far."""
        ...


@dataclass(frozen=True, slots=True)
class Pool:
    """How the scores of tokens become one.

    Attributes:
        kind: ``max``; ``mean``; ``last``; ``ema``: the highest e_t = α·s_t + (1 − α)·e_(t−1),
            e_0 = s_0; ``rolling``: the highest mean of ``window`` scores in a row (of all so far
            while they are fewer); ``softmax``: Σ s·exp(s/T) / Σ exp(s/T); ``attention``:
            Σ v·exp(q) / Σ exp(q).
        alpha: α of ``ema``, in (0, 1].
        window: Of ``rolling``, in tokens.
        temperature: T of ``softmax``, positive.
    """

    kind: PoolKind = "max"
    alpha: float = 0.5
    window: int = 10
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse parameters without meaning."""
        if not 0 < self.alpha <= 1:
            raise PoolError(f"alpha {self.alpha} of an ema lies above 0 and at most at 1")
        if self.window < 1:
            raise PoolError(f"a window of {self.window} tokens has no mean; use 1 or more")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise PoolError(f"temperature {self.temperature} must be positive and finite")

    @property
    def parameter(self) -> float | int | None:
        """The parameter that this kind uses, if any."""
        by_kind = {"ema": self.alpha, "rolling": self.window, "softmax": self.temperature}
        return by_kind.get(self.kind)

    @property
    def digest(self) -> str:
        """Identity: the kind and the parameter it uses."""
        return values_digest(self.kind, self.parameter)

    def __str__(self) -> str:
        """Return the pool as people write it, such as ``ema 0.5``."""
        return self.kind if self.parameter is None else f"{self.kind} {self.parameter:g}"

    def start(self) -> PoolState:
        """Return the state before any token."""
        match self.kind:
            case "max":
                return _Max()
            case "mean":
                return _Mean()
            case "last":
                return _Last()
            case "ema":
                return _Ema(self.alpha)
            case "rolling":
                return _Rolling(self.window)
            case "softmax":
                return _Weighted(1.0 / self.temperature)
            case "attention":
                return _Weighted(None)


def parse_pool(text: str) -> Pool:
    """Read a pool as the command line writes it: a kind, ``ema:0.5`` or ``rolling:10``.

    Raises:
        PoolError: It is none of them.
    """
    kind, colon, parameter = text.partition(":")
    match kind:
        case "max" | "mean" | "last" if not colon:
            return Pool(kind)
        case "rolling" if parameter.isdecimal():
            return Pool(kind, window=int(parameter))
        case "ema" if _NUMBER.fullmatch(parameter):
            return Pool(kind, alpha=float(parameter))
        case _:
            raise PoolError(
                f"'{text}' is not a pool to fit for; write max, mean, last, ema:0.5 or rolling:10"
            )


def highest(a: float, b: float) -> float:
    """Return the higher of two numbers; not a number if one of them is none."""
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


class _Max:
    __slots__ = ("_highest",)

    def __init__(self) -> None:
        self._highest = -math.inf

    def update(self, value: float, query: float = 0.0) -> float:
        self._highest = highest(self._highest, value)
        return self._highest


class _Mean:
    __slots__ = ("_n", "_sum")

    def __init__(self) -> None:
        self._n, self._sum = 0, 0.0

    def update(self, value: float, query: float = 0.0) -> float:
        self._n += 1
        self._sum += value
        return self._sum / self._n


class _Last:
    __slots__ = ()

    def update(self, value: float, query: float = 0.0) -> float:
        return value


class _Ema:
    __slots__ = ("_alpha", "_average", "_highest")

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._average: float | None = None
        self._highest = -math.inf

    def update(self, value: float, query: float = 0.0) -> float:
        before = value if self._average is None else self._average
        self._average = self._alpha * value + (1 - self._alpha) * before
        self._highest = highest(self._highest, self._average)
        return self._highest


class _Rolling:
    __slots__ = ("_highest", "_recent")

    def __init__(self, window: int) -> None:
        self._recent: deque[float] = deque(maxlen=window)
        self._highest = -math.inf

    def update(self, value: float, query: float = 0.0) -> float:
        self._recent.append(value)
        # summed anew: a running sum would drift, and keep a value that has left the window
        self._highest = highest(self._highest, sum(self._recent) / len(self._recent))
        return self._highest


class _Weighted:
    """Weights exp(scale · value), or exp(query) without a scale, relative to the largest yet."""

    __slots__ = ("_largest", "_scale", "_total", "_weight")

    def __init__(self, scale: float | None) -> None:
        self._scale = scale
        self._largest = -math.inf
        self._weight = self._total = 0.0

    def update(self, value: float, query: float = 0.0) -> float:
        exponent = query if self._scale is None else value * self._scale
        if not math.isfinite(exponent):
            exponent = math.nan
        largest = highest(self._largest, exponent)
        shrink = math.exp(self._largest - largest)
        weight = math.exp(exponent - largest)
        self._largest = largest
        self._weight = self._weight * shrink + weight
        self._total = self._total * shrink + weight * value
        return self._total / self._weight


def pooled(pool: Pool, values: Sequence[float], queries: Sequence[float]) -> float:
    """Return the pool of a whole sequence by its definition, slowly.

    Raises:
        PoolError: There are no scores.
    """
    if not values:
        raise PoolError("no scores: an empty sequence has no pooled value")
    if not all(math.isfinite(number) for number in (*values, *queries)):
        return values[-1] if pool.kind == "last" and math.isfinite(values[-1]) else math.nan
    match pool.kind:
        case "max":
            return max(values)
        case "mean":
            return _mean(values)
        case "last":
            return values[-1]
        case "ema":
            return max(_ema(values[: n + 1], pool.alpha) for n in range(len(values)))
        case "rolling":
            ends = range(1, len(values) + 1)
            return max(_mean(values[max(0, end - pool.window) : end]) for end in ends)
        case "softmax":
            return _weighted(values, [value / pool.temperature for value in values])
        case "attention":
            return _weighted(values, queries)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _ema(values: Sequence[float], alpha: float) -> float:
    """Return α Σ_i (1 − α)^i s_(t−i) + (1 − α)^t s_0, the recursion written out."""
    recent = sum(alpha * (1 - alpha) ** i * v for i, v in enumerate(reversed(values[1:])))
    return recent + (1 - alpha) ** (len(values) - 1) * values[0]


def _weighted(values: Sequence[float], exponents: Sequence[float]) -> float:
    largest = max(exponents)
    weights = [math.exp(exponent - largest) for exponent in exponents]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
