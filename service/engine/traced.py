"""Traces of choices: which tokens are kept around an event, and their texts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from service.trace import Trace, window
from service.verdicts import Verdict
from service.watcher import Watcher


@dataclass(frozen=True, slots=True)
class Speech:
    """Tells tokens by a tokenizer; by their numbers where there is none.

    Added tokens are told by their names: a tokenizer may leave some out of what it decodes.
    """

    tokenizer: Any

    def whole(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones too, so that it can be tokenised again."""
        if self.tokenizer is None:
            return " ".join(str(token) for token in tokens)
        parts: list[str] = []
        added, start = self._by_name(), 0
        while start < len(tokens):
            if (name := added.get(tokens[start])) is not None:
                parts.append(name)
                start += 1
                continue
            stop = next((i for i in range(start, len(tokens)) if tokens[i] in added), len(tokens))
            parts.append(self._added(tokens[max(0, start - 1) : start], tokens[start:stop]))
            start = stop
        return "".join(parts)

    def words(self, tokens: Sequence[int]) -> tuple[str, ...]:
        """Return the text of each token; one that is a part of a character reads as U+FFFD."""
        if self.tokenizer is None:
            return tuple(str(token) for token in tokens)
        added = self._by_name()
        return tuple(
            added.get(token) or self._added(tokens[max(0, i - 1) : i], [token])
            for i, token in enumerate(tokens)
        )

    def _added(self, before: Sequence[int], tokens: Sequence[int]) -> str:
        """Return what tokens add: some tokenizers drop a space where a text begins."""
        head, both = self._decoded(before), self._decoded([*before, *tokens])
        return both[len(head) :] if both.startswith(head) else self._decoded(tokens)

    def _decoded(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens), skip_special_tokens=False) if tokens else ""

    def _by_name(self) -> dict[int, str]:
        known: dict[int, Any] = getattr(self.tokenizer, "added_tokens_decoder", {})
        return {token: str(added) for token, added in known.items()}


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
