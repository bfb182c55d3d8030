"""``trimtab bench``: plain vLLM against policies, run by run in turn, on one machine.

All engines are up at once and only one works at a time: a pair's two runs are seconds apart, so
that what changes on the machine changes both. A row's policies are placed before its runs (which
times activation) and retired after them.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from forward.families import ModelShape, model_shape
from forward.program import Program
from service.engine.bench_engine import (
    BenchEngine,
    Run,
    describe_threads,
    job_list,
    options_for,
    table_mib,
)
from service.engine.bench_programs import (
    distinct_programs,
    edit_program,
    parameter_count,
    spread,
)
from service.engine.bench_watch import program_of, watched_of
from service.engine.slots import Slot
from service.prepare import size_tables
from service.settings import Headroom
from service.speed import EDIT_LAYERS, ROWS, TARGET_RATIO, Row, Side, median_interval, turns
from service.watch import Watched

SETTLE_SECONDS = 1.2
"""vLLM's workers poll for a second after their last step: the other engine waits until then."""
MIN_TOKENS = 4
SEED = 7

Progress = Callable[[int, int, str], None]
"""Hears runs done, runs in all, and what is being done."""


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to measure.

    Attributes:
        model: Checkpoint folder.
        name: What the report calls the model.
        dtype: Precision, as vLLM's ``--dtype``.
        rows: Comparisons, in order.
        pairs: Pairs of runs a row.
        requests: Requests in a batch; a row of more policies than that has one for each.
        tokens: Tokens that each request generates.
        prompt: Tokens of each prompt.
        n_sites: Steered layers.
        options: Further options of vLLM, for all engines.
    """

    model: Path
    name: str
    dtype: str = "auto"
    rows: tuple[Row, ...] = ROWS
    pairs: int = 15
    requests: int = 16
    tokens: int = 32
    prompt: int = 4
    n_sites: int = 2
    options: tuple[str, ...] = ()

    @property
    def max_requests(self) -> int:
        """Requests in the largest batch."""
        return max(self.requests_of(row) for row in self.rows)

    def requests_of(self, row: Row) -> int:
        """Requests in a batch of a row: every policy is in it."""
        return max(self.requests, row.policies)

    def tokens_of(self, row: Row) -> int:
        """Tokens a request: fewer where the row needs more requests, for the same work."""
        return max(MIN_TOKENS, self.tokens * self.requests // self.requests_of(row))


async def bench(plan: BenchPlan, progress: Progress) -> dict[str, Any]:
    """Measure every row of a plan and return the report, plain values only.

    Raises:
        BenchError: The plan does not fit the model.
        BootError: Our engine is not what policies need.
    """
    config = json.loads((plan.model / "config.json").read_text())
    shape = model_shape(config)
    n_policies = max(row.policies for row in plan.rows)
    points = spread(shape, plan.n_sites)
    half = shape.n_layers - shape.n_layers // 2
    read_points = spread(shape, min(half, max(row.read_sites for row in plan.rows)))
    watched = {row: watched_of(row, read_points, shape.d_model) for row in plan.rows if row.reads}
    programs = distinct_programs(n_policies + 1, points, shape.d_model)
    edits = {r: edit_program(r.ranks, EDIT_LAYERS, shape) for r in plan.rows if r.ranks}
    single = edits | {row: program_of(monitors) for row, monitors in watched.items()}
    lab = await Lab.open(plan, shape, programs, single, watched, progress)
    try:
        rows = [await lab.measure(row, int(config["vocab_size"])) for row in plan.rows]
        return {
            "model": {"name": plan.name, "dtype": plan.dtype, **_size(config, shape)},
            "sites": [str(point) for point in points],
            "threads": describe_threads(),
            "target": TARGET_RATIO,
            **lab.footing(),
            "rows": rows,
        }
    finally:
        lab.close()


class Lab:
    """The engines that a plan needs, side by side."""

    def __init__(
        self,
        plan: BenchPlan,
        programs: list[Program],
        single: Mapping[Row, Program],
        watched: Mapping[Row, tuple[Watched, ...]],
        progress: Progress,
    ) -> None:
        """Plan runs; ``open`` starts the engines."""
        self._plan, self._programs, self._progress = plan, programs, progress
        self._single, self._watched = single, watched
        self._engines: dict[Side, BenchEngine] = {}
        self._done, self._table_mib = 0, 0.0
        self._last: Side | None = None

    @classmethod
    async def open(
        cls,
        plan: BenchPlan,
        shape: ModelShape,
        programs: list[Program],
        single: Mapping[Row, Program],
        watched: Mapping[Row, tuple[Watched, ...]],
        progress: Progress,
    ) -> "Lab":
        """Start plain vLLM and whatever else the rows ask for, one after the other."""
        lab = cls(plan, programs, single, watched, progress)
        capacities = size_tables([*programs, *single.values()], (), Headroom())
        lab._table_mib = table_mib(capacities, shape)
        length = max(plan.prompt + plan.tokens_of(row) for row in plan.rows)
        options = options_for(plan.model, plan.dtype, plan.max_requests, length) + plan.options
        try:
            for side in dict.fromkeys((Side.PLAIN, *(row.side for row in plan.rows))):
                lab._say(f"starting {side}")
                lab._engines[side] = await BenchEngine.start(side, options, capacities, programs)
        except BaseException:
            lab.close()
            raise
        return lab

    def close(self) -> None:
        """Stop all engines."""
        for engine in self._engines.values():
            engine.close()

    def footing(self) -> dict[str, Any]:
        """Return boot and memory of each engine."""
        return {
            "boot_seconds": {s: round(e.boot_seconds, 1) for s, e in self._engines.items()},
            "memory_mib": {s: round(e.memory_mib) for s, e in self._engines.items()},
            "table_mib": round(self._table_mib, 2),
        }

    async def measure(self, row: Row, vocabulary: int) -> dict[str, Any]:
        """Make a row's runs and return its figures."""
        plan = self._plan
        placed, activation = await self._place(row)
        watched = self._watched.get(row, ())
        clients = placed[: row.policies or 1] if placed else list(range(row.policies))
        operator = placed[-1] if row.is_stacked else None
        prompts = random_prompts(plan.requests_of(row), plan.prompt, vocabulary)
        jobs = {
            side: job_list(prompts, clients, operator, side, watched)
            for side in (Side.PLAIN, row.side)
        }

        async def run(side: Side) -> Run:
            if side is not self._last:
                await asyncio.sleep(SETTLE_SECONDS)
            made = await self._engines[side].run(jobs[side], plan.tokens_of(row))
            self._last = side
            self._done += 1
            self._say(f"{row.name}: {side} {made.tokens_per_second:.0f} tokens/s")
            return made

        warm = {side: await run(side) for side in jobs}
        pairs = [{s: await run(s) for s in turn} for turn in turns(row.side, plan.pairs)]
        self._retire(placed)
        return {
            **_figures(row, warm, pairs),
            **_workload(plan, row),
            **activation,
            **self._scored(),
        }

    def _scored(self) -> dict[str, Any]:
        """Return how many of the scores owed since the last call reached the monitors."""
        delivered = self._engines[Side.TRIMTAB].delivered if Side.TRIMTAB in self._engines else None
        if delivered is None or not delivered.owed:
            return {}
        found = {"scores_owed": delivered.owed, "scores_delivered": delivered.scored}
        delivered.owed = delivered.scored = 0
        return found

    async def _place(self, row: Row) -> tuple[list[Slot], dict[str, Any]]:
        """Place the row's policies one by one, the mandatory one last; say how long each took."""
        if row.side is not Side.TRIMTAB:
            return [], {"activation_ms": None}
        wanted = self._programs[: row.policies]
        wanted = [*wanted, self._programs[-1]] if row.is_stacked else wanted
        wanted = [self._single[row]] if row in self._single else wanted
        slots: list[Slot] = []
        milliseconds: list[float] = []
        for program in wanted:
            began = time.perf_counter()
            slots.append(await self._engines[row.side].slots.place(program))
            milliseconds.append(1000 * (time.perf_counter() - began))
        return slots, {"activation_ms": round(median(milliseconds), 2) if milliseconds else None}

    def _retire(self, placed: Sequence[Slot]) -> None:
        for slot in placed:
            self._engines[Side.TRIMTAB].slots.retire(slot)

    def _say(self, what: str) -> None:
        runs = len(self._plan.rows) * 2 * (self._plan.pairs + 1)
        self._progress(self._done, runs, what)


def random_prompts(count: int, length: int, vocabulary: int) -> list[tuple[int, ...]]:
    """Return prompts of random ids, the same for the same arguments; no two share a beginning."""
    chance = random.Random(SEED)
    return [
        (index % vocabulary, *(chance.randrange(vocabulary) for _ in range(length - 1)))
        for index in range(count)
    ]


def _figures(
    row: Row, warm: Mapping[Side, Run], pairs: Sequence[Mapping[Side, Run]]
) -> dict[str, Any]:
    ratios = [p[row.side].tokens_per_second / p[Side.PLAIN].tokens_per_second for p in pairs]
    interval = median_interval(ratios)
    speed = {side: [pair[side].tokens_per_second for pair in pairs] for side in warm}
    answers = zip(warm[Side.PLAIN].answers, warm[row.side].answers, strict=True)
    return {
        "row": row.name,
        "side": row.side,
        "policies": row.policies,
        "is_stacked": row.is_stacked,
        "plain_tokens_per_second": round(median(speed[Side.PLAIN]), 1),
        "tokens_per_second": round(median(speed[row.side]), 1),
        "ratio": round(interval.median, 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
        "coverage": round(interval.coverage, 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "in_batch": min(pair[side].in_batch for pair in pairs for side in pair),
        "first_token_ms": {s: round(median(p[s].first_ms for p in pairs), 2) for s in warm},
        "between_tokens_ms": {s: round(median(p[s].between_ms for p in pairs), 3) for s in warm},
        "answers_changed": sum(a.tokens != b.tokens for a, b in answers),
    }


def _workload(plan: BenchPlan, row: Row) -> dict[str, Any]:
    return {
        "pairs": plan.pairs,
        "requests": plan.requests_of(row),
        "tokens": plan.tokens_of(row),
        "prompt": plan.prompt,
    }


def _size(config: dict[str, Any], shape: ModelShape) -> dict[str, Any]:
    is_llama = shape.family.name in ("llama", "mistral")
    return {
        "family": shape.family.name,
        "layers": shape.n_layers,
        "width": shape.d_model,
        "parameters": parameter_count(config) if is_llama else None,
    }
