"""Score tracks: what arrives for a request, put in the order of its tokens, drafts taken out.

A step feeds tokens from some position on, and its scores arrive as one entry. Entries of a request
arrive in the order of its steps. A step that starts at a position takes the place of what was fed
there and beyond and is not yet confirmed: the drafts before it were rejected, or the request was
preempted. Scores from the first fed token on that is not the request's own belong to another
context and are dropped, whatever tokens follow. Positions that were taken are never taken twice.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.engine.channel import ScoreEntry


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of consecutive tokens that are the request's own: ``rows`` is (tokens, columns)."""

    start: int
    rows: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Gap:
    """Positions [start, stop) whose scores will not come, and why."""

    start: int
    stop: int
    reason: str


@dataclass(frozen=True, eq=False)
class _Step:
    start: int
    tokens: NDArray[np.int32]
    scores: NDArray[np.float32]

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens)

    def between(self, first: int, stop: int) -> "_Step":
        low, high = max(0, first - self.start), max(0, stop - self.start)
        return _Step(self.start + low, self.tokens[low:high], self.scores[low:high])


class Track:
    """One choice's scores. ``next`` is the first position that was not taken."""

    def __init__(self) -> None:
        """Start before the first token; nothing is taken until the prompt's length is known."""
        self.next = 0
        self.lost_messages = 0
        self._steps: deque[_Step] = deque()
        self._is_closed = False
        self._prompt_length: int | None = None
        self._generated: list[int] = []
        self._end: int | None = None

    def add(self, entry: ScoreEntry) -> None:
        """Keep what a step fed; it takes the place of what is pending from its start on."""
        if self._is_closed:
            return
        # Pending steps are in order: only the last ones can reach beyond the new one's start.
        while self._steps and self._steps[-1].stop > entry.start:
            last = self._steps.pop()
            if last.start < entry.start:
                self._steps.append(last.between(last.start, entry.start))
        if entry.start + len(entry.tokens) > self.next:
            self._steps.append(_Step(entry.start, entry.tokens, entry.scores))

    def close(self) -> None:
        """Keep nothing more: what comes is of no use."""
        self._is_closed = True
        self._steps.clear()

    def lose(self, messages: int) -> None:
        """Take note that some of its scores may be among lost messages."""
        self.lost_messages += messages

    def know(self, prompt_length: int, generated: Iterable[int]) -> None:
        """Learn the prompt's length and the tokens that were generated since the last call."""
        self._prompt_length = prompt_length
        self._generated.extend(generated)

    def finish(self) -> None:
        """Learn that no token follows: the last one is not fed, a score of it is not taken."""
        if self._prompt_length is not None:
            self._end = self._prompt_length + max(0, len(self._generated) - 1)

    def take(self) -> list[Scored | Gap]:
        """Return what is confirmed and was not taken before, in order; steps in a row as one."""
        taken: list[Scored | Gap] = []
        run: list[_Step] = []

        def close_run() -> None:
            if run:
                taken.append(Scored(run[0].start, np.concatenate([s.scores for s in run])))
                run.clear()

        if self._prompt_length is None:
            return taken
        limit = self._prompt_length + len(self._generated)
        limit = limit if self._end is None else min(limit, self._end)
        while self._steps and self.next < limit and self._steps[0].start < limit:
            step = self._steps.popleft()
            if step.start > self.next:
                # Steps come in order, and one that starts later leaves this one's place for good.
                close_run()
                taken.append(Gap(self.next, step.start, self._reason()))
                self.next = step.start
            own = self._own(step, limit)
            if len(own.tokens):
                run.append(own)
                self.next = own.stop
            if own.stop == limit < step.stop:
                self._steps.appendleft(step.between(limit, step.stop))
                break
        close_run()
        return taken

    def _reason(self) -> str:
        return "channel" if self.lost_messages else "prefix_cache"

    def _own(self, step: _Step, limit: int) -> _Step:
        """Return a step's part from ``next`` on up to its first token that is not the request's."""
        known = step.between(step.start, limit)
        prompt_length = self._prompt_length or 0
        first = min(len(known.tokens), max(0, prompt_length - step.start))
        offset = max(0, step.start - prompt_length)
        actual = self._generated[offset : offset + len(known.tokens) - first]
        wrong = np.flatnonzero(known.tokens[first:] != np.asarray(actual, dtype=np.int32))
        stop = step.start + first + int(wrong[0]) if len(wrong) else known.stop
        return step.between(max(step.start, self.next), stop)


class RequestTracks:
    """The tracks of one engine request, and a signal that something arrived."""

    def __init__(self, choices: int, columns: int) -> None:
        """Make a track for each choice; scores of another number of columns are not its own."""
        self.columns = columns
        self.tracks = tuple(Track() for _ in range(choices))
        self.changed = asyncio.Event()


class Tracks:
    """All requests that are watched right now; what arrives for others is dropped."""

    def __init__(self) -> None:
        """Start with none; ``on_lost`` hears of lost messages."""
        self._open: dict[str, RequestTracks] = {}
        self.on_lost: Callable[[int], None] = lambda messages: None
        self.lost_messages = 0

    def open(self, request: str, choices: int, columns: int) -> RequestTracks:
        """Take in what arrives for a request from now on."""
        made = self._open[request] = RequestTracks(choices, columns)
        return made

    def close(self, request: str) -> None:
        """Take in nothing more for a request."""
        self._open.pop(request, None)

    def deliver(self, entries: Sequence[ScoreEntry]) -> None:
        """Hand entries to their tracks."""
        for entry in entries:
            found = self._open.get(entry.request)
            if found is None:
                continue
            if not 0 <= entry.child < len(found.tracks) or entry.scores.shape[1] != found.columns:
                self.lose(1)
                continue
            found.tracks[entry.child].add(entry)
            found.changed.set()

    def lose(self, messages: int) -> None:
        """Tell every track that messages were lost: which requests they spoke of is not known."""
        self.lost_messages += messages
        self.on_lost(messages)
        for found in self._open.values():
            for track in found.tracks:
                track.lose(messages)
            found.changed.set()
