"""What monitors said of one client request: filled where tokens are released, read on the way out.

A client request may make several engine requests (a prompt each), and each has ``n`` choices; the
answer numbers its choices prompt by prompt.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from service.trace import Trace
from service.verdicts import Verdict

NO_VERDICT = "none"


@dataclass(frozen=True, slots=True)
class ChoiceReport:
    """One choice of an answer, decided.

    Attributes:
        request: Our identity of the engine request; ``answer`` is what its route calls it.
        answer: Identity of the answer as the client sees it.
        index: Number of the choice in the answer.
        prompt_length: Tokens of the prompt.
        generated: Tokens of the answer that the client was given.
        verdicts: By monitor.
        scores: Token scores by monitor, if the client asked for them.
        refusal: Text that took the place of the rest; empty without one.
        captured: The prompt's text, if a policy's ``capture`` asks for it.
        trace: The tokens around the first event with their scores, if one does.
    """

    request: str
    answer: str
    index: int
    prompt_length: int
    generated: int
    verdicts: tuple[Verdict, ...]
    scores: Mapping[str, list[float | None]] = field(default_factory=dict[str, Any])
    refusal: str = ""
    captured: str | None = None
    trace: Trace | None = None

    @property
    def ended(self) -> Verdict | None:
        """The verdict that ended it."""
        return next((v for v in self.verdicts if v.ended), None)

    def shown(self) -> dict[str, Any]:
        """Return what the ``trimtab`` object says of it."""
        return {
            "scores": {name: list(values) for name, values in self.scores.items()},
            "verdicts": {v.monitor: v.shown() for v in self.verdicts},
            "coverage": {v.monitor: v.coverage for v in self.verdicts},
        }


@dataclass(slots=True)
class RequestReport:
    """All choices of one answer, as far as they are decided.

    Attributes:
        wants_scores: Whether the client asked for the ``trimtab`` object, so that the answer's end
            waits for scores that are on their way.
        choices: By number in the answer.
        endings: What ended a choice, by its number: known before the choice's last words are out.
        finishes: Why each choice ended, by its number, as the engine's client is told.
        prompts: Tokens of each prompt, by its number.
        generated: Tokens of each choice that the engine's client was given, by its number.
        adapters: The LoRA adapters that were used.
    """

    wants_scores: bool = False
    choices: dict[int, ChoiceReport] = field(default_factory=dict[int, ChoiceReport])
    endings: dict[int, tuple[Verdict, str]] = field(default_factory=dict[int, tuple[Verdict, str]])
    finishes: dict[int, str] = field(default_factory=dict[int, str])
    prompts: dict[int, int] = field(default_factory=dict[int, int])
    generated: dict[int, int] = field(default_factory=dict[int, int])
    adapters: set[str] = field(default_factory=set[str])
    _prompts: int = 0
    _undecided: int = 0
    _then: Callable[[], None] | None = None

    def next_prompt(self) -> int:
        """Number the engine requests of the answer in the order in which they are made."""
        self._prompts += 1
        return self._prompts - 1

    def tokens(self) -> tuple[int, int]:
        """Return how many tokens all prompts have, and all choices so far."""
        return sum(self.prompts.values()), sum(self.generated.values())

    def begin(self) -> None:
        """Expect the choices of one more engine request, which ``decided`` then ends."""
        self._undecided += 1

    def decided(self) -> None:
        """Note that all choices of an engine request were added."""
        self._undecided -= 1
        self._tell()

    def settle(self, then: Callable[[], None]) -> None:
        """Call ``then`` once, when the answer is over and every choice that is expected is in.

        Verdicts that change nothing in an answer may come after its end.
        """
        self._then = then
        self._tell()

    def _tell(self) -> None:
        if self._then is not None and not self._undecided:
            then, self._then = self._then, None
            then()

    def end(self, index: int, verdict: Verdict, refusal: str) -> None:
        """Note that a choice was ended; its report follows."""
        self.endings[index] = (verdict, refusal)

    def add(self, choice: ChoiceReport) -> None:
        """Keep a decided choice."""
        self.choices[choice.index] = choice

    def header(self) -> str:
        """Return ``x-trimtab-verdict``: ``monitor=action`` of each that acted, or ``none``."""
        acted = {
            f"{v.monitor}={v.action}"
            for choice in self.choices.values()
            for v in choice.verdicts
            if v.action != "none"
        }
        return ", ".join(sorted(acted)) or NO_VERDICT

    def shown(self) -> dict[str, Any]:
        """Return scores, verdicts and coverage for the ``trimtab`` object.

        Of an answer with several choices those of the first that was ended, or else of the first,
        stand at the top, and all of them under ``choices``.
        """
        ordered = [self.choices[index] for index in sorted(self.choices)]
        if not ordered:
            return {"scores": {}, "verdicts": {}, "coverage": {}}
        first = next((choice for choice in ordered if choice.ended), ordered[0])
        shown = first.shown()
        if len(ordered) > 1:
            shown["choices"] = [{"index": c.index, **c.shown()} for c in ordered]
        return shown


class Sink(Protocol):
    """Where decided choices go: events and metrics."""

    def decided(self, choice: ChoiceReport, /) -> None:
        """Take a decided choice; never blocks and never raises."""
        ...

    def held(self, policy: str, seconds: float) -> None:
        """Count how long tokens waited for their scores."""
        ...

    def recomputed(self, tokens: int) -> None:
        """Count prompt tokens that were computed though the cache may have had them."""
        ...

    def channel(self, dropped: int) -> None:
        """Count score messages that were lost between worker and server."""
        ...


class Nowhere:
    """A sink that keeps nothing."""

    def decided(self, choice: ChoiceReport, /) -> None:
        """Drop it."""

    def held(self, policy: str, seconds: float) -> None:
        """Drop it."""

    def recomputed(self, tokens: int) -> None:
        """Drop it."""

    def channel(self, dropped: int) -> None:
        """Drop it."""


CURRENT_REPORT: ContextVar[RequestReport | None] = ContextVar("trimtab_report", default=None)
"""Set by the middleware for the handlers it calls; filled where all generating routes end."""
