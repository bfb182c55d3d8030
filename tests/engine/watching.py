"""A watched engine without a model: vLLM's own output processor, driven by a script of steps."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
from vllm.v1.engine.parallel_sampling import ParentRequest
from vllm.v1.outputs import LogprobsLists

from forward.allocation import Placement
from forward.clauses import TokenClause
from forward.columns import Read
from forward.hookpoints import HookPoint
from forward.program import EMPTY
from monitors.plan import MonitorPlan
from monitors.pooling import Pool
from monitors.reader import linear_reader
from service.engine.channel import ScoreEntry
from service.engine.generate import StampedGenerate
from service.engine.lease import CURRENT_LEASE, Lease
from service.engine.slots import Slot
from service.engine.stamp import Stamp
from service.engine.tracks import Tracks
from service.engine.watched import Watching
from service.report import CURRENT_REPORT, ChoiceReport, RequestReport
from service.watch import Watched

POINT = HookPoint("resid_post", 1)
PROMPT = [104, 105, 33]
"""``hi!`` in bytes."""
P = len(PROMPT)
REFUSAL = "No."


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are bytes, so that characters span several of them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    by_byte = _byte_letters()
    vocabulary = {by_byte[b]: b for b in range(256)}
    assert sorted(vocabulary) == letters
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def _byte_letters() -> list[str]:
    """The letter that byte-level tokenizers write for each byte (GPT-2's table)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = iter(range(256, 512))
    return [chr(b) if b in plain else chr(next(other)) for b in range(256)]


TOKENIZER = byte_tokenizer()


def watched(monitor: str = "harm", column: int = 0, **fields: Any) -> Watched:
    """Return a use of a monitor whose token score is one exported column, threshold 0.5."""
    clause = fields.pop("clause", TokenClause("all"))
    pool = fields.pop("pool", Pool("max"))
    vector = torch.zeros(8)
    vector[column] = 1.0
    plan = MonitorPlan(monitor, linear_reader(POINT, Read(vector)), pool, clause)
    values: dict[str, Any] = {
        "policy": "guard@1",
        "policy_name": "guard",
        "mode": "enforce",
        "do": "refuse",
        "on_error": "block",
        "threshold": 0.5,
        "calibration": None,
        "refusal": REFUSAL,
    }
    return Watched(monitor=monitor, plan=plan, **(values | fields))


class FakeSlots:
    """Counts who holds rows."""

    def __init__(self) -> None:
        self.held = 0

    def acquire(self, slot: Slot) -> None:
        self.held += 1

    def release(self, slot: Slot) -> None:
        self.held -= 1


def lease_of(*monitors: Watched, first_column: int = 7, slots: FakeSlots | None = None) -> Lease:
    """Return a lease whose monitors' reads are exported side by side."""
    columns: dict[tuple[HookPoint, str], int] = {}
    for monitor in monitors:
        for read in monitor.plan.reader.reads:
            columns.setdefault((POINT, read.digest), first_column + len(columns))
    slot = Slot(Placement(EMPTY, (0, 0, 0), {}, None, columns))
    return Lease(slots or FakeSlots(), slot, None, 1.0, ("guard@1",), "digest", tuple(monitors))


@dataclass(frozen=True)
class Rows:
    """A step's scores: of tokens fed from ``start`` on."""

    start: int
    tokens: Sequence[int]
    scores: Any
    child: int = 0


@dataclass(frozen=True)
class Tokens:
    """What a step gave."""

    ids: Sequence[int]
    finish: str | None = None
    child: int = 0
    stop: int | str | None = None


@dataclass(frozen=True)
class Lose:
    """Messages that never came."""

    count: int = 1


class Hang:
    """The engine takes its time: nothing follows."""


@dataclass(frozen=True)
class Pause:
    """The engine is busy with others for so many seconds."""

    seconds: float


class Die:
    """The engine dies."""


Step = Rows | Tokens | Lose | Hang | Pause | Die
HOLD = 0.2
"""Seconds that a bench waits for a score that is due."""


def logprob_of(token: int) -> float:
    """The log-probability that the fake engine gives a token."""
    return -(token % 7) / 8 - 0.125


@dataclass
class FakeEngine:
    """Runs a script for each request; says which were submitted and which ended early."""

    tracks: Tracks
    script: Callable[[], Iterator[Step]]
    seen: list[SamplingParams] = field(default_factory=list)
    aborted: int = 0
    _late: list[asyncio.Task[None]] = field(default_factory=list)

    async def generate(
        self, prompt: Any, params: SamplingParams, request_id: str, **_: Any
    ) -> AsyncIterator[RequestOutput]:
        self.seen.append(params)
        processor = OutputProcessor(TOKENIZER, log_stats=False)
        queue = RequestOutputCollector(params.output_kind, request_id)
        names = _submit(processor, queue, params, request_id)
        task = asyncio.create_task(self._drive(processor, names, params))
        finished = False
        try:
            while not finished:
                output = queue.get_nowait() or await queue.get()
                assert isinstance(output, RequestOutput)
                finished = output.finished
                yield output
        finally:
            self.aborted += not finished
            if finished:
                self._late.append(task)  # scores may still be on their way
            else:
                task.cancel()

    async def _drive(
        self, processor: OutputProcessor, names: list[str], params: SamplingParams
    ) -> None:
        extra = params.extra_args or {}
        request = Stamp.unpack(extra).request if "trimtab" in extra else ""
        for step in self.script():
            match step:
                case Rows():
                    scores = np.asarray(step.scores, dtype=np.float32)
                    scores = scores.reshape(len(step.tokens), -1)
                    tokens = np.asarray(step.tokens, dtype=np.int32)
                    entry = ScoreEntry(request, step.child, step.start, tokens, scores)
                    self.tracks.deliver([entry])
                case Tokens():
                    processor.process_outputs([_engine_output(step, names, params)])
                case Lose():
                    self.tracks.lose(step.count)
                case Hang():
                    await asyncio.Event().wait()
                case Pause():
                    await asyncio.sleep(step.seconds)
                case Die():
                    processor.propagate_error(EngineDeadError())
            for _ in range(4):
                await asyncio.sleep(0)


def _submit(
    processor: OutputProcessor,
    queue: RequestOutputCollector,
    params: SamplingParams,
    request_id: str,
) -> list[str]:
    def request(name: str, own: SamplingParams) -> EngineCoreRequest:
        return EngineCoreRequest(
            request_id=name,
            prompt_token_ids=list(PROMPT),
            mm_features=None,
            sampling_params=own,
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
            external_req_id=request_id,
        )

    if params.n == 1:
        processor.add_request(request(request_id, params), None, None, 0, queue)
        return [request_id]
    whole = request(request_id, params)
    parent = ParentRequest(whole)
    names: list[str] = []
    for index in range(params.n):
        name, own = parent.get_child_info(index)
        processor.add_request(request(name, own), None, parent, index, queue)
        names.append(name)
    return names


def _engine_output(step: Tokens, names: list[str], params: SamplingParams) -> EngineCoreOutput:
    logprobs = None
    if params.logprobs is not None and step.ids:
        values = np.array([[logprob_of(token)] for token in step.ids], dtype=np.float32)
        ids = np.array([[token] for token in step.ids])
        logprobs = LogprobsLists(ids, values, np.zeros(len(step.ids), dtype=np.int64))
    return EngineCoreOutput(
        request_id=names[step.child],
        new_token_ids=list(step.ids),
        new_logprobs=logprobs,
        finish_reason=None if step.finish is None else FinishReason[step.finish.upper()],
        stop_reason=step.stop,
    )


class Kept:
    """A sink that keeps reports."""

    def __init__(self) -> None:
        self.choices: list[ChoiceReport] = []
        self.waits: list[float] = []
        self.prefix = 0

    def decided(self, choice: ChoiceReport) -> None:
        self.choices.append(choice)

    def held(self, policy: str, seconds: float) -> None:
        self.waits.append(seconds)

    def recomputed(self, tokens: int) -> None:
        self.prefix += tokens

    def channel(self, dropped: int) -> None:
        return None


@dataclass
class Bench:
    """A wrapped fake engine, its sink and the report of one client request."""

    lease: Lease
    slots: FakeSlots
    engine: FakeEngine
    watching: Watching
    sink: Kept
    report: RequestReport
    generate: StampedGenerate

    async def run(self, params: SamplingParams, **more: Any) -> list[RequestOutput]:
        """Return all that a client is given; ``more`` goes to ``generate``."""
        tokens = CURRENT_LEASE.set(self.lease), CURRENT_REPORT.set(self.report)
        try:
            stream = self.generate({"prompt_token_ids": PROMPT}, params, "cmpl-1", **more)
        finally:
            CURRENT_LEASE.reset(tokens[0])
            CURRENT_REPORT.reset(tokens[1])
        outputs = [output async for output in stream]
        await self.watching.settled()
        assert self.slots.held == 0
        assert not self.watching.tracks._open
        return outputs


def bench(
    script: Callable[[], Iterator[Step]] | Sequence[Step],
    *monitors: Watched,
    wants_scores: bool = True,
    hold_seconds: float = HOLD,
) -> Bench:
    """Return a bench whose engine plays ``script``."""
    tracks, sink = Tracks(), Kept()
    play = script if callable(script) else lambda: iter(script)
    engine = FakeEngine(tracks, play)
    watching = Watching(tracks, lambda: TOKENIZER, sink, hold_seconds, 0.2)
    slots = FakeSlots()
    lease = lease_of(*monitors, slots=slots)
    generate = StampedGenerate(engine.generate, lambda: lease, watching)
    return Bench(lease, slots, engine, watching, sink, RequestReport(wants_scores), generate)
