"""The engines of ``trimtab bench``: plain vLLM, ours, and the eager baseline, driven alike.

Each is an ``AsyncLLM`` with processes of its own, started from the same arguments; requests are
token ids in and token ids out, as a server's routes end.
"""

import asyncio
import itertools
import os
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from forward.families import ModelShape
from forward.hookpoints import HookPoint
from forward.program import Program
from forward.site import Capacity
from service.engine import bench_hooks, servecheck
from service.engine.channel import ScoreReceiver
from service.engine.engine import PolicyEngine, configure, platform, scheduling
from service.engine.lease import CURRENT_LEASE, Lease
from service.engine.slots import Slot, Slots
from service.engine.tracks import Tracks
from service.engine.watched import Watching
from service.report import ChoiceReport, Nowhere
from service.settings import Headroom
from service.speed import BenchError, Side
from service.watch import Watched


@dataclass(frozen=True, slots=True)
class Job:
    """One request: its prompt, and its policy in the form that its engine takes."""

    prompt: tuple[int, ...]
    operator: Slot | None = None
    client: Slot | None = None
    hooked: int | None = None
    """Index of its policy on the eager baseline."""
    watched: tuple[Watched, ...] = ()
    """Monitors that watch it, whose reads its client's slot holds."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request; times are ``time.perf_counter``'s."""

    tokens: tuple[int, ...]
    first: float
    last: float


@dataclass(frozen=True, slots=True)
class Run:
    """One batch served: output tokens a second, prompts included in the time."""

    tokens_per_second: float
    answers: tuple[Answer, ...]
    began: float

    @property
    def first_ms(self) -> float:
        """Median time to a first token, in milliseconds; all requests came at once."""
        return 1000 * median(answer.first - self.began for answer in self.answers)

    @property
    def between_ms(self) -> float:
        """Median of the requests' mean time between tokens, in milliseconds."""
        return 1000 * median(
            (answer.last - answer.first) / max(1, len(answer.tokens) - 1) for answer in self.answers
        )

    @property
    def in_batch(self) -> int:
        """The most requests that were generating at once."""
        edges = [(a.first, 1) for a in self.answers] + [(a.last, -1) for a in self.answers]
        return max(itertools.accumulate(step for _, step in sorted(edges)))


class Delivered(Nowhere):
    """Counts what monitors were given of what they were owed."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.scored = self.owed = 0

    def decided(self, report: ChoiceReport) -> None:
        """Count one choice."""
        self.scored += sum(verdict.scored for verdict in report.verdicts)
        self.owed += sum(verdict.owed for verdict in report.verdicts)


class BenchEngine:
    """One running engine, how long it took to come up, and the memory of its processes."""

    def __init__(self, side: Side, client: AsyncLLM, processes: frozenset[int]) -> None:
        """Keep a started engine; ``start`` makes one."""
        self.side, self.client, self._processes = side, client, processes
        self.policies: PolicyEngine | None = None
        self.watching: Watching | None = None
        self.delivered = Delivered()
        self._receiver: ScoreReceiver | None = None
        self.boot_seconds = 0.0
        self._ids = itertools.count()

    @classmethod
    async def start(
        cls,
        side: Side,
        options: Sequence[str],
        capacities: Mapping[HookPoint, Capacity],
        programs: list[Program],
    ) -> "BenchEngine":
        """Start an engine; ours runs its boot checks, the baseline gets its programs.

        Raises:
            BootError: Ours is not what policies need.
        """
        began, before = time.perf_counter(), _descendants(os.getpid())
        args = _arguments(side, options, capacities)
        client = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(args))
        engine = cls(side, client, _descendants(os.getpid()) - before)
        if side is Side.TRIMTAB:
            await engine._open_policies(capacities)
        if side is Side.EAGER:
            await client.collective_rpc("bench_policies", args=(bench_hooks.dump(programs),))
        await engine.run([Job((1, 2, 3))], 1)
        engine.boot_seconds = time.perf_counter() - began
        return engine

    async def _open_policies(self, capacities: Mapping[HookPoint, Capacity]) -> None:
        policies = PolicyEngine(self.client, capacities)
        await policies.boot_check()
        await servecheck.check_serving(policies)
        watching = Watching(Tracks(), lambda: None, self.delivered)
        self._receiver = await policies.watch(watching.tracks)
        policies.install(lambda: Lease(policies.slots, None, None, 0.0, (), ""), watching)
        self.policies, self.watching = policies, watching

    async def run(self, jobs: Sequence[Job], tokens: int) -> Run:
        """Serve requests together on an empty prefix cache, each for so many tokens."""
        await self.client.reset_prefix_cache()
        began = time.perf_counter()
        answers = await asyncio.gather(*(self._serve(job, tokens) for job in jobs))
        seconds = time.perf_counter() - began
        if self.watching is not None:
            await self.watching.settled()
        count = sum(len(answer.tokens) for answer in answers)
        return Run(count / seconds, tuple(answers), began)

    async def _serve(self, job: Job, tokens: int) -> Answer:
        if self.policies is not None:
            slots = self.policies.slots
            lease = Lease(slots, job.operator, job.client, 1.0, (), "", job.watched)
            CURRENT_LEASE.set(lease)
        hooked = {} if job.hooked is None else {bench_hooks.POLICY_KEY: job.hooked}
        params = SamplingParams(
            temperature=0.0,
            ignore_eos=True,
            max_tokens=tokens,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args=hooked or None,
        )
        prompt = TokensPrompt(prompt_token_ids=list(job.prompt))
        got: list[int] = []
        first = last = 0.0
        async for output in self.client.generate(prompt, params, f"bench-{next(self._ids)}"):
            last = time.perf_counter()
            first = first or last
            got += output.outputs[0].token_ids
        return Answer(tuple(got), first, last)

    @property
    def slots(self) -> Slots:
        """The slots of our engine.

        Raises:
            BenchError: This is another engine.
        """
        if self.policies is None:
            raise BenchError(f"the {self.side} engine has no tables to place policies in")
        return self.policies.slots

    @property
    def memory_mib(self) -> float:
        """Memory of the engine's processes, what they share counted by parts (PSS)."""
        return sum(_pss_kib(process) for process in self._processes) / 1024

    def close(self) -> None:
        """Stop the engine's processes."""
        self.client.shutdown()


def _arguments(
    side: Side, options: Sequence[str], capacities: Mapping[HookPoint, Capacity]
) -> Namespace:
    parser = make_arg_parser(FlexibleArgumentParser(prog="trimtab bench"))
    args: Any = parser.parse_args(list(options))
    if side is Side.TRIMTAB:
        configure(args, capacities, Headroom().gates)  # as a server has them
    else:
        hooked = side is Side.EAGER
        module, name = ("bench_hooks", "Hook") if hooked else ("bench_plain", "Plain")
        args.worker_cls = f"service.engine.{module}.{platform()}{name}Worker"
        args.scheduler_cls = f"service.engine.bench_plain.{scheduling(args)}PlainScheduler"
        args.enforce_eager = args.enforce_eager or hooked
    return args


def _descendants(process: int) -> frozenset[int]:
    """Return all processes below one (Linux)."""
    found: set[int] = set()
    for children in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            found |= {child} | _descendants(child)
    return frozenset(found)


def _pss_kib(process: int) -> int:
    rollup = Path(f"/proc/{process}/smaps_rollup")
    if not rollup.exists():
        return 0
    lines = rollup.read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def table_mib(capacities: Mapping[HookPoint, Capacity], shape: ModelShape) -> float:
    """Return the size of all sites' tables in MiB, float32 (index and parameter vectors aside)."""
    cells = 0
    for point, c in capacities.items():
        read = shape.d_mlp if point.is_edit else shape.d_model
        written = c.writes if point.is_edit else c.writes + c.rows
        cells += read * max(1, c.reads) + shape.d_model * written + c.rows * c.writes
    return 4 * cells / 2**20


def options_for(model: Path, dtype: str, max_requests: int, length: int) -> tuple[str, ...]:
    """Return the vLLM options that all engines of a bench share.

    Args:
        model: Checkpoint folder; without weights in it they are random.
        dtype: Precision of the model.
        max_requests: Requests in one batch.
        length: Longest prompt and answer in tokens.
    """
    has_weights = any(model.glob("*.safetensors"))
    return (
        *("--model", str(model), "--dtype", dtype, "--skip-tokenizer-init"),
        *("--load-format", "auto" if has_weights else "dummy"),
        *("--max-num-seqs", str(max_requests), "--max-num-batched-tokens", "2048"),
        *("--block-size", "32", "--max-model-len", str(max(128, length))),
        *("--kv-cache-memory-bytes", str(2**30), "--disable-log-stats"),
    )


def describe_threads() -> str:
    """Return how vLLM was told to bind its threads on a CPU."""
    return os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "auto")


def job_list(
    prompts: Sequence[tuple[int, ...]],
    clients: Sequence[Any],
    operator: Slot | None,
    side: Side,
    watched: tuple[Watched, ...] = (),
) -> list[Job]:
    """Give request i the policy i modulo their number, in the form that its engine takes."""
    if not clients or side is Side.PLAIN:
        return [Job(prompt) for prompt in prompts]
    turn = itertools.cycle(clients)
    if side is Side.EAGER:
        return [Job(prompt, hooked=next(turn)) for prompt in prompts]
    return [Job(prompt, operator, next(turn), watched=watched) for prompt in prompts]
