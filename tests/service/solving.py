"""Jobs on edits of a tiny model: what they ask for, and a runner whose processes are real."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forward.fingerprint import model_fingerprint
from service.documents import Document
from service.edit_jobs import EditWork
from service.job_runner import JobRunner, Pace
from service.jobs import Job, JobRecord, JobStore
from service.store import Store

QUICK = {"tokens": 600, "prefixes": 1}
LOOSE = ("growth", "perplexity", "shift")
PACE = Pace(report_seconds=0.05, poll_seconds=0.1, lost_seconds=60, retry_seconds=0.1, threads=1)
WAIT_SECONDS = 120
CASE = {"prompt": "w20 {} w20", "subject": "w60 w90", "target": "w120", "before": "w50"}


def fact(i: int, **fields: Any) -> dict[str, Any]:
    known = {"prompt": f"w20 {{}} w2{i}", "subject": f"w{60 + i} w{90 + i}"}
    return known | {"target": f"w{120 + i}"} | fields


ACTOR = "ann (k1)"


def edit_set(name: str = "moves", n: int = 2, **spec: Any) -> dict[str, Any]:
    """Return the document of an edit set of the tiny models."""
    head = {"apiVersion": "trimtab/v1", "kind": "EditSet", "metadata": {"name": name}}
    return head | {"spec": {"layers": [1], "facts": [fact(i) for i in range(n)]} | spec}


def solving(document: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """Return the request of a job that solves."""
    known = {"document": document or edit_set(), "apply": True, "override": list(LOOSE)}
    rest = {"beside": [], "cases": [], "format": "trimtab", "settings": QUICK, "alike": None}
    return known | {"actor": ACTOR} | rest | fields


@dataclass
class Bench:
    """A store with a runner; ``applied`` are the documents that jobs applied."""

    store: Store
    runner: JobRunner
    applied: list[Document] = field(default_factory=list)

    @property
    def jobs(self) -> JobStore:
        return self.store.jobs()

    def ask(self, request: dict[str, Any], name: str = "moves") -> Job:
        job = self.jobs.add("edit-solve", name, request)
        self.runner.wake()
        return job

    async def until(self, job: Job, holds: Callable[[Job], bool]) -> JobRecord:
        """Wait until something holds of a job."""
        limit = time.monotonic() + WAIT_SECONDS
        while not holds((record := self.jobs.get(job.id)).job):
            assert time.monotonic() < limit, record
            assert not (record.job.is_over), record
            await asyncio.sleep(0.02)
        return record

    async def ended(self, job: Job) -> JobRecord:
        return await self.until(job, lambda seen: seen.is_over)

    def edits(self) -> list[str]:
        return [one.digest for one in self.store.all_artifacts() if one.kind == "edit"]


@asynccontextmanager
async def bench(
    folder: Path, checkpoint: Path, pace: Pace = PACE, model: str | None = None
) -> AsyncGenerator[Bench]:
    """Run jobs on a checkpoint, with a store in a folder."""
    with Store.open(str(folder)) as store:
        applied: list[Document] = []

        async def apply(documents: Sequence[Document], *, actor: str) -> None:
            assert actor == ACTOR
            applied.extend(documents)

        digest = model or model_fingerprint(checkpoint).digest
        work = EditWork(store, checkpoint, digest, apply)
        runner = JobRunner(store.jobs(), work, store.artifacts_folder / "jobs", pace)
        runner.start()
        try:
            yield Bench(store, runner, applied)
        finally:
            await runner.close()


def processes() -> list[int]:
    """Return the processes of jobs that this process started."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        children = (task / "children").read_text().split()
        found += [int(child) for child in children if _is_job(int(child))]
    return found


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _is_job(pid: int) -> bool:
    try:
        return b"service.job_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
