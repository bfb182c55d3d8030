"""One choice under watch: what of its tokens may go out, and what its monitors say.

A generated token goes out when the scores of all enforcing monitors up to and at it are in, without
a verdict; the last token of an answer, which is never fed, when all before it are. A verdict at a
token withholds it and all after.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.outputs import CompletionOutput

from service.engine.pieces import cut, joined
from service.engine.traced import Said, Speech, captured_events, trace_of
from service.engine.tracks import Gap, Scored, Track
from service.report import ChoiceReport
from service.trace import Trace
from service.verdicts import FOREVER, Verdict, owed_end
from service.watcher import Watcher, ender

MakeWatchers = Callable[[int], tuple[Watcher, ...]]
"""Makes the watchers of a choice from its prompt's length."""

Retell = Callable[[Sequence[int] | None, Sequence[int]], str]
"""The text of an answer's first tokens, from the prompt's ids and theirs."""


@dataclass(slots=True)
class Held:
    """A delta that waits, when it came, and the position whose score it needs."""

    piece: CompletionOutput
    arrived: float
    needs: int


@dataclass(slots=True)
class Choice:
    """One of a request's choices, from its first delta to its report.

    Attributes:
        index: Which of the request's choices.
        track: Its scores.
        speech: Tells the tokens of a trace.
        has_logprobs: Whether the client asked for them.
        is_over: Whether its client was given its end.
    """

    index: int
    track: Track
    make_watchers: MakeWatchers
    retell: Retell
    speech: Speech
    has_logprobs: bool = False
    watchers: tuple[Watcher, ...] = ()
    is_over: bool = False
    _prompt: Sequence[int] | None = None
    _prompt_length: int = 0
    _tokens: list[int] = field(default_factory=list[int])
    _released: int = 0
    _said: str = ""
    _cumulative: float | None = None
    _held: deque[Held] = field(default_factory=deque[Held])
    _finished: bool = False
    _ender: Watcher | None = None
    _stall: tuple[int, float] | None = None
    _given: int | None = None
    _refusal: str = ""
    waits: list[float] = field(default_factory=list[float])

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt; 0 while it is not known."""
        return self._prompt_length

    @property
    def n_tokens(self) -> int:
        """Generated tokens that are known."""
        return len(self._tokens)

    def open(self, prompt: Sequence[int] | None) -> None:
        """Learn the prompt; nothing is scored before."""
        if not self.watchers:
            self._prompt, self._prompt_length = prompt, len(prompt or ())
            self.watchers = self.make_watchers(self._prompt_length)
            self.track.know(self._prompt_length, ())

    def hear(self, tokens: Sequence[int], finished: bool) -> None:
        """Learn tokens that were generated, and whether they are the last."""
        if self._finished:
            return
        self._tokens.extend(tokens)
        self.track.know(self._prompt_length, tokens)
        if finished:
            self._finished = True
            self.track.finish()

    def hold(self, piece: CompletionOutput, now: float) -> None:
        """Take a delta of the engine's; what comes after the choice's end is dropped."""
        if self.is_over:
            return
        self.hear(piece.token_ids, piece.finished())
        needs = self._prompt_length + len(self._tokens) - 1
        self._held.append(Held(piece, now, needs))
        if piece.finished() and self._tokens:  # the last token is never fed
            for held in self._held:
                held.needs = min(held.needs, needs - 1)

    def advance(self, now: float) -> None:
        """Let the watchers see what is confirmed, up to the first verdict that ends the choice."""
        if self.is_over and self._ender is not None:
            return
        for taken in self.track.take():
            if self._ender is None:
                self._show(taken)

    def _show(self, taken: Scored | Gap) -> None:
        if isinstance(taken, Gap):
            for watcher in self.watchers:
                watcher.miss(taken.start, taken.stop, taken.reason)
            self.check()
            return
        # No answer ends before the prompt's last token but by a fault, and the earliest counts.
        block = max(0, self._prompt_length - 1 - taken.start) if self._enforces else None
        for watcher in self.watchers:
            watcher.feed_rows(taken.start, taken.rows[:block])
        self._ender = ender(self.watchers)
        if block is None or self._ender is not None:
            return
        for position, row in enumerate(taken.rows[block:], start=taken.start + block):
            for watcher in self.watchers:
                watcher.feed(position, row)
            self.check()
            if self._ender is not None:
                return

    @property
    def _enforces(self) -> bool:
        return any(watcher.is_enforcing for watcher in self.watchers)

    def check(self) -> None:
        """Take note of a watcher that ends the choice; what is over cannot be ended any more."""
        if self._ender is None and not self.is_over:
            self._ender = ender(self.watchers)

    def stalled_at(self, now: float) -> float | None:
        """Return since when a score has been due that is not in; None if none is.

        A score is due once its token was fed, which a token after it proves, or the answer's end.
        Before, the engine may be busy with others, and no score is late.
        """
        waited = self._horizon()
        if not self._held or (waited > self._last_fed() and not self._finished):
            self._stall = None
            return None
        if self._stall is None or self._stall[0] != waited:
            self._stall = (waited, now)
        return self._stall[1]

    def _last_fed(self) -> int:
        """Return the last position that is known to have been fed."""
        return self._prompt_length + len(self._tokens) - 2

    @property
    def is_waiting(self) -> bool:
        """Whether a delta is held."""
        return bool(self._held)

    def give_up(self, reason: str) -> None:
        """Wait no longer for the scores that the oldest delta needs."""
        if not self._held:
            return
        for watcher in self.watchers:
            if watcher.is_enforcing and watcher.waits_at(self.track.next) <= self._held[0].needs:
                watcher.give_up(self.track.next, self._last_fed(), reason)
        self.check()

    def release(self, now: float) -> CompletionOutput | None:
        """Return what may go out since the last call, as one delta."""
        if self.is_over:
            return None
        if self._ender is not None:
            return self._end(self._ender, now)
        horizon = self._horizon()
        ready: list[CompletionOutput] = []
        while self._held and self._held[0].needs < horizon:
            held = self._held.popleft()
            self.waits.append(now - held.arrived)
            ready.append(held.piece)
        if not ready:
            return None
        piece = joined(ready)
        self._released += len(piece.token_ids)
        self._said += piece.text
        self._cumulative = piece.cumulative_logprob
        self.is_over = piece.finished()
        return piece

    def _horizon(self) -> int:
        """Return the first position whose score some enforcing watcher still waits for."""
        enforcing = (w for w in self.watchers if w.is_enforcing)
        return min((w.waits_at(self.track.next) for w in enforcing), default=FOREVER)

    def _end(self, watcher: Watcher, now: float) -> CompletionOutput:
        """Return the last delta: what comes before the verdict, then the refusal."""
        position = watcher.ended_at or 0
        keep = max(self._released, position - self._prompt_length)
        before = self._before(keep)
        if watcher.watched.do != "stop":
            self._refusal = watcher.watched.refusal
        pieces = [held.piece for held in self._held]
        self.waits.extend(now - held.arrived for held in self._held)
        self._held.clear()
        cumulative = self._cumulative if self._released else 0.0
        cumulative = cumulative if self.has_logprobs else None
        self.is_over, self._given = True, keep
        self.track.close()
        text = before + self._refusal
        return cut(pieces, self.index, keep - self._released, text, cumulative)

    def _before(self, keep: int) -> str:
        """Return the text of the first ``keep`` tokens that was not said yet.

        Text may lag behind tokens: the engine holds back what may begin a stop string.
        """
        told = self.retell(self._prompt, self._tokens[:keep])
        if self._finished:
            # A stop string cuts text that its tokens have: no more than the engine itself gave.
            told = told[: len(self._said) + sum(len(held.piece.text) for held in self._held)]
        return told[len(self._said) :] if told.startswith(self._said) else ""

    @property
    def refusal(self) -> str:
        """The text that took the place of the rest; empty if none did."""
        return self._refusal

    @property
    def ending(self) -> Watcher | None:
        """The watcher that ended the choice."""
        return self._ender

    @property
    def is_scored(self) -> bool:
        """Whether every watcher has the scores that it is owed."""
        if self._ender is not None or not self.watchers:
            return True
        return all(w.waits_at(self.track.next) >= self._end_of_owed() for w in self.watchers)

    def _end_of_owed(self) -> int:
        return owed_end(self._prompt_length, len(self._tokens))

    def decide(self, missing: str, **names: Any) -> ChoiceReport:
        """Return the report; scores that are owed and not in count as ``missing``."""
        end = self._end_of_owed()
        if self._ender is not None:
            end = (self._ender.ended_at or 0) + 1
        elif missing == "aborted":
            end = min(end, self.track.next)
        verdicts = tuple(self._verdict(watcher, end, missing) for watcher in self.watchers)
        scores = {w.name: w.token_scores() for w in self.watchers if w.keeps_scores}
        given = len(self._tokens) if self._given is None else self._given
        return ChoiceReport(
            prompt_length=self._prompt_length,
            generated=given,
            verdicts=verdicts,
            scores=scores,
            refusal=self._refusal,
            captured=self._captured(verdicts),
            trace=self._trace(verdicts),
            **names,
        )

    def _captured(self, verdicts: Sequence[Verdict]) -> str | None:
        """Return the prompt's text if an event of a policy that captures is written."""
        wanted = captured_events(verdicts)
        return self.retell(None, self._prompt or ()) if wanted else None

    def _trace(self, verdicts: Sequence[Verdict]) -> Trace | None:
        """Return the tokens around the first event of a policy that captures."""
        if not captured_events(verdicts):
            return None
        answer = self.retell(self._prompt, self._tokens[: self._given])
        ended_at = None if self._ender is None else self._ender.ended_at
        said = Said(self._prompt or (), self._tokens, ended_at, answer)
        return trace_of(said, verdicts, self.watchers, self.speech)

    def _verdict(self, watcher: Watcher, end: int, missing: str) -> Verdict:
        """Only the verdict that ended the choice counts as having ended it."""
        verdict = watcher.close(end, missing)
        if verdict.ended and watcher is not self._ender:
            return verdict.as_second()
        return verdict
