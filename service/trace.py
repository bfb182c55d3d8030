"""The tokens around an event with their scores: kept only where the event's policy captures."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

MOST_TOKENS = 512
"""Tokens that a trace holds."""
AFTER = 64
"""Those of them that are kept for what comes after the event."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A piece of one choice.

    Attributes:
        first: Absolute position of its first token.
        prompt_length: Tokens of the prompt.
        tokens: Each token's text.
        scores: By monitor of a capturing policy: one a token, None where it has none.
        thresholds: What pooled scores are compared with, by monitor; None without a calibration.
        prompt: The whole prompt, special tokens and all, as it can be tokenised again.
        answer: What was said up to the verdict that ended it, or all.
    """

    first: int
    prompt_length: int
    tokens: tuple[str, ...]
    scores: Mapping[str, tuple[float | None, ...]]
    thresholds: Mapping[str, float | None]
    prompt: str
    answer: str

    def shown(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def window(centre: int, stop: int, most: int = MOST_TOKENS, after: int = AFTER) -> tuple[int, int]:
    """Return the positions [first, end) of [0, stop) that are kept around ``centre``."""
    end = min(stop, max(centre + after + 1, most))
    return max(0, end - most), end
