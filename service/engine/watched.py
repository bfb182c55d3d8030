"""Watched generation: scores and tokens of one engine request brought together.

Without an enforcing monitor the engine's outputs pass as they come, and the scores are followed
beside them. With one, deltas are held until they are scored, and released as the client asked for
them. Either way each choice ends in a report.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from service.engine.choice import Choice
from service.engine.lease import Lease
from service.engine.outputs import Outputs
from service.engine.pieces import Rebuilder, text_of
from service.engine.stamp import Stamp
from service.engine.traced import Speech
from service.engine.tracks import RequestTracks, Tracks
from service.report import ChoiceReport, Nowhere, RequestReport, Sink
from service.verdicts import display_names, is_enforcing
from service.watcher import Watcher

HOLD_SECONDS = 5.0
"""How long a token waits for a score that is owed before that is a fault."""
TAIL_SECONDS = 1.0
"""How long the end of an answer waits for scores that change nothing in it."""
FOLLOWED_AT_ONCE = 64
"""Outputs after which scores that hold nothing back are looked at, so that few are kept."""


@dataclass(slots=True)
class Watching:
    """What watched requests of one engine share.

    Attributes:
        tracks: Where scores arrive.
        tokenizer: The engine's; None where it has none.
        sink: Where reports go.
        hold_seconds: See ``HOLD_SECONDS``.
        tail_seconds: See ``TAIL_SECONDS``.
    """

    tracks: Tracks
    tokenizer: Callable[[], Any]
    sink: Sink = field(default_factory=Nowhere)
    hold_seconds: float = HOLD_SECONDS
    tail_seconds: float = TAIL_SECONDS
    _tails: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def __post_init__(self) -> None:
        """Have lost messages counted."""
        self.tracks.on_lost = lambda messages: self.sink.channel(messages)

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the rest of a request that nobody waits for."""
        task = asyncio.create_task(work)
        self._tails.add(task)
        task.add_done_callback(self._tails.discard)

    async def settled(self) -> None:
        """Wait until no such work is left."""
        while self._tails:
            await asyncio.wait(set(self._tails))


class WatchedRequest:
    """One engine request under watch. Make it before the request is submitted."""

    def __init__(
        self,
        watching: Watching,
        lease: Lease,
        stamp: Stamp,
        params: SamplingParams,
        answer: str,
        report: RequestReport,
        prompt_number: int = 0,
    ) -> None:
        """Prepare to watch what is submitted under ``stamp``; ``params`` are the client's own.

        Raises:
            StampError: A monitor reads what no table holds.
        """
        self._watching, self._lease, self._params = watching, lease, params
        self._answer, self._report, self._stamp = answer, report, stamp
        self._prompt_number = prompt_number
        self._places = places(lease, stamp)
        self._tracks = RequestTracks(0, 0)
        self._holds = any(is_enforcing(watched) for watched in lease.watched)
        self._choices: list[Choice] = []
        self._rebuild = Rebuilder(params.output_kind, params.n)
        self._last: RequestOutput | None = None
        self._is_decided = False

    def open(self) -> None:
        """Take in scores from now on; call before the request is submitted, and ``drop`` after."""
        params, stamp = self._params, self._stamp
        self._report.begin()
        self._tracks = self._watching.tracks.open(stamp.request, params.n, len(stamp.columns))
        has_logprobs = params.num_logprobs is not None
        speech = Speech(self._watching.tokenizer())
        self._choices = [
            Choice(index, track, self._watchers, self._retell, speech, has_logprobs)
            for index, track in enumerate(self._tracks.tracks)
        ]

    async def run(
        self, first: RequestOutput | None, stream: AsyncGenerator[RequestOutput, None]
    ) -> AsyncGenerator[RequestOutput, None]:
        """Yield what the client may see; close this generator to end the request early."""
        outputs = Outputs(stream, first, self._tracks.changed)
        try:
            run = self._held(outputs) if self._holds else self._followed(first, stream)
            async with aclosing(run):
                async for output in run:
                    yield output
            await outputs.close()
            if self._is_awaited():
                await self._tail()
                self.decide("late")
            else:
                self._is_decided = True
                self._watching.later(self._finish_later())
        finally:
            await outputs.close()
            self.drop()

    def drop(self) -> None:
        """Report what there is, unless that was done or is under way: the request is gone."""
        if not self._is_decided:
            self.decide("aborted")

    def decide(self, missing: str) -> None:
        """Report every choice; scores that are not in count as ``missing``."""
        self._is_decided = True
        if self._lease.reads_all:
            self._watching.sink.recomputed(sum(choice.prompt_length for choice in self._choices))
        self._watching.tracks.close(self._stamp.request)
        for choice in self._choices:
            if choice.watchers:
                made = choice.decide(
                    missing,
                    request=self._stamp.request,
                    answer=self._answer,
                    index=self._number(choice),
                )
                self._report.add(made)
                self._tell(made, choice)
        self._report.decided()

    def _tell(self, made: ChoiceReport, choice: Choice) -> None:
        sink = self._watching.sink
        sink.decided(made)
        policies = {w.policy_name for w in self._lease.watched if is_enforcing(w)}
        for policy in policies:
            for seconds in choice.waits:
                sink.held(policy, seconds)

    async def _finish_later(self) -> None:
        await self._tail()
        self.decide("late")

    async def _followed(
        self, first: RequestOutput | None, stream: AsyncGenerator[RequestOutput, None]
    ) -> AsyncGenerator[RequestOutput, None]:
        """Pass outputs on as they come; scores change nothing in them and are looked at in bulk."""
        output, seen = first, 0
        while output is not None:
            self._follow(output)
            yield output
            seen += 1
            if seen % FOLLOWED_AT_ONCE == 0:
                self._advance()
            output = await anext(stream, None)
        self._advance()

    def _follow(self, output: RequestOutput) -> None:
        for piece in output.outputs:
            choice = self._choices[piece.index]
            choice.open(output.prompt_token_ids)
            told = list(piece.token_ids)
            if self._params.output_kind != RequestOutputKind.DELTA:
                told = told[choice.n_tokens :]
            choice.hear(told, piece.finished())

    async def _held(self, outputs: Outputs) -> AsyncGenerator[RequestOutput, None]:
        while not all(choice.is_over for choice in self._choices):
            patience = self._patience()
            heeds = patience is not None or self._last is None or outputs.has_ended
            output = await outputs.next(patience, heeds)
            if output is not None:
                self._hear(output)
            made = self._step()
            if all(choice.is_over for choice in self._choices):
                await outputs.close()
            if made is not None:
                yield made
            if outputs.has_ended and not any(choice.is_waiting for choice in self._choices):
                return

    def _hear(self, output: RequestOutput) -> None:
        self._last = output
        self._rebuild.hear(output)
        for piece in output.outputs:
            choice = self._choices[piece.index]
            choice.open(output.prompt_token_ids)
            choice.hold(piece, now())

    def _step(self) -> RequestOutput | None:
        """Release what may go out by now."""
        self._advance()
        self._drop_stalled()
        if self._last is None:
            return None
        released = [piece for c in self._choices if (piece := c.release(now())) is not None]
        self._note_endings()
        finished = all(choice.is_over for choice in self._choices)
        return self._rebuild.released(self._last, released, finished)

    def _advance(self) -> None:
        for choice in self._choices:
            choice.advance(now())
            choice.check()

    def _drop_stalled(self) -> None:
        for choice in self._choices:
            since = choice.stalled_at(now())
            if since is not None and now() - since >= self._watching.hold_seconds:
                choice.give_up("channel" if choice.track.lost_messages else "timeout")

    def _patience(self) -> float | None:
        """Return how long the oldest waiting delta may still wait."""
        since = [at for choice in self._choices if (at := choice.stalled_at(now())) is not None]
        return max(0.0, min(since) + self._watching.hold_seconds - now()) if since else None

    def _note_endings(self) -> None:
        """Let the way out know what ended a choice before its last words come by."""
        for choice in self._choices:
            if choice.ending is not None and self._number(choice) not in self._report.endings:
                made = choice.ending.close(0, "aborted")
                self._report.end(self._number(choice), made, choice.refusal)

    def _is_awaited(self) -> bool:
        """Whether the answer's end says what monitors found."""
        says = self._report.wants_scores or any(w.mode == "enforce" for w in self._lease.watched)
        return says or all(choice.is_scored for choice in self._choices)

    async def _tail(self) -> None:
        """Wait, not for long, until every score that is owed is in."""
        deadline = now() + self._watching.tail_seconds
        self._advance()
        while not all(choice.is_scored for choice in self._choices) and now() < deadline:
            self._tracks.changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(deadline - now()):
                    await self._tracks.changed.wait()
            self._advance()

    def _watchers(self, prompt_length: int) -> tuple[Watcher, ...]:
        watched = self._lease.watched
        names = display_names(watched)
        return tuple(
            Watcher(w, name, place, prompt_length, self._report.wants_scores)
            for w, name, place in zip(watched, names, self._places, strict=True)
        )

    def _retell(self, prompt: Any, tokens: Any) -> str:
        return text_of(self._watching.tokenizer(), self._params, prompt, tokens)

    def _number(self, choice: Choice) -> int:
        return self._prompt_number * self._params.n + choice.index


def now() -> float:
    """Return the running loop's clock."""
    return asyncio.get_running_loop().time()


def places(lease: Lease, stamp: Stamp) -> list[NDArray[np.intp]]:
    """Return, for each monitor, its reads' places among the columns that the stamp asks for.

    Raises:
        StampError: A monitor reads what no table holds.
    """
    place = {column: index for index, column in enumerate(stamp.columns)}
    return [np.asarray([place[c] for c in cs], dtype=np.intp) for cs in lease.columns()]
