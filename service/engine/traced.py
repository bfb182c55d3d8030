"""Traces of choices: which tokens are kept around an event, and their texts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from service.trace import Trace, window
from service.verdicts import Verdict
from service.watcher import Watcher


@dataclass(frozen=True, slots=True)
class Speech:
    """Tells tokens by a tokenizer; by their numbers where there is none."""

    tokenizer: Any

    def whole(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones too."""
        if self.tokenizer is None:
            return " ".join(str(token) for token in tokens)
        return self.tokenizer.decode(list(tokens), skip_special_tokens=False)

    def words(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return the text of each token; one that is a part of a character reads as U+FFFD."""
        return tuple(self._word(tokens, place) for place in range(len(tokens)))

    def _word(self, tokens: Sequence[int], place: int) -> str:
        # Some tokenizers drop a space where a text begins: a token is told by what it adds.
        before = self.whole(tokens[place - 1 : place]) if place else ""
        both = self.whole(tokens[max(0, place - 1) : place + 1])
        adds = place > 0 and both.startswith(before)
        return both[len(before) :] if adds else self.whole(tokens[place : place + 1])


@dataclass(frozen=True, slots=True)
class Said:
    """What is known of a choice's tokens.

    Attributes:
        prompt: Of the prompt.
        tokens: That were generated.
        ended_at: Position of the verdict that ended the choice.
        answer: The text that the client was given.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]
    ended_at: int | None
    answer: str

    @property
    def stop(self) -> int:
        """One beyond the last position that may be kept.

        That of the verdict is the last: its score is why, and what follows nobody was given.
        """
        whole = len(self.prompt) + len(self.tokens)
        return whole if self.ended_at is None else min(self.ended_at + 1, whole)


def captured_events(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts that are events of policies that capture."""
    return [verdict for verdict in verdicts if verdict.captures and verdict.is_eventful]


def trace_of(
    said: Said, verdicts: Iterable[Verdict], watchers: Iterable[Watcher], speech: Speech
) -> Trace | None:
    """Return the tokens around the first event of a policy that captures; None without one."""
    found = captured_events(verdicts)
    if not found:
        return None
    at = [verdict.position for verdict in found if verdict.position is not None]
    first, end = window(min(at, default=len(said.prompt)), said.stop)
    shown = [watcher for watcher in watchers if watcher.watched.captures]
    return Trace(
        first,
        len(said.prompt),
        speech.words([*said.prompt, *said.tokens][first:end]),
        {w.name: w.scores_between(first, end) for w in shown},
        {w.name: w.watched.threshold for w in shown},
        speech.whole(said.prompt),
        said.answer,
    )
