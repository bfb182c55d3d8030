"""Runs queued jobs, one at a time, each in a process of its own; the server goes on answering.

The store is what counts: a job is claimed there, reported on there and ended there, and a runner
whose claim no longer holds ends its process. A server that is stopped puts its job back; one that
is killed leaves it running in the store, and whoever sees that it is not heard of queues it again.
"""

import asyncio
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from service.database import StoreError
from service.errors import ServiceError
from service.job_child import Child, JobFailedError
from service.job_folder import fresh_folder
from service.jobs import KEEPING, Content, Job, JobRecord, JobStore, Sighting

logger = logging.getLogger(__name__)


class Work(Protocol):
    """What jobs are about: what a process is given, and what becomes of what it found."""

    def prepare(self, record: JobRecord, folder: Path) -> None:
        """Write what the process is given. Blocking.

        Raises:
            ServiceError: The job cannot be begun any more.
            OSError: The folder cannot be written.
        """
        ...

    def found(self, folder: Path) -> Content:
        """Return what the process found. Blocking.

        Raises:
            RefusedError: It found that the job is to fail.
            ServiceError: It found nothing that can be used.
        """
        ...

    async def keep(self, record: JobRecord, folder: Path) -> Content:
        """Put what was found into effect and return the job's result.

        Raises:
            ServiceError: It cannot be; nothing is half in effect.
        """
        ...


class RefusedError(ServiceError):
    """Work that was done and is not to count; ``result`` has the figures."""

    def __init__(self, message: str, result: Content) -> None:
        """Keep why, and the figures."""
        super().__init__(message)
        self.result = result


@dataclass(frozen=True, slots=True)
class Pace:
    """How a runner goes about it.

    Attributes:
        report_seconds: How often a job's progress is written.
        poll_seconds: How often a runner looks for jobs that others queued or lost.
        lost_seconds: A running job that is not heard of for so long has lost its server.
        retry_seconds: Pause after the store failed.
        threads: Threads of a job's process.
    """

    report_seconds: float = 0.5
    poll_seconds: float = 5.0
    lost_seconds: float = 20.0
    retry_seconds: float = 2.0
    threads: int = max(1, (os.cpu_count() or 1) // 4)


class Silence:
    """How long nothing new is heard of running jobs, by a clock that nobody sets."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Call a job lost that is not heard of for so long."""
        self._seconds, self._clock = seconds, clock
        self._since: dict[Sighting, float] = {}

    def lost(self, sightings: Iterable[Sighting]) -> tuple[Sighting, ...]:
        """Return those of the sightings that are all that was heard for too long."""
        now = self._clock()
        self._since = {sighting: self._since.get(sighting, now) for sighting in sightings}
        return tuple(s for s, since in self._since.items() if now - since >= self._seconds)


@dataclass
class _Progress:
    stage: str = "starting"
    done: int = 0
    total: int = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.stage, self.done, self.total = stage, done, total


class JobRunner:
    """Takes jobs from a store, on one event loop, from ``start`` to ``close``."""

    def __init__(self, jobs: JobStore, work: Work, folder: Path, pace: Pace | None = None) -> None:
        """Run what ``jobs`` has.

        Args:
            jobs: The queue.
            work: What the jobs are about.
            folder: Where each gets a folder while it runs.
            pace: How often things are looked at.
        """
        self.jobs, self._work, self._folder = jobs, work, folder
        self._pace = pace or Pace()
        self._silence = Silence(self._pace.lost_seconds)
        self._queued = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._at_work: tuple[int, asyncio.Event] | None = None

    def start(self) -> None:
        """Begin to run jobs; what a killed server left running is queued again in time."""
        self._loop = asyncio.get_running_loop().create_task(self._run())
        self._loop.add_done_callback(_tell_of_fault)

    async def close(self) -> None:
        """Stop; the job at work is ended and put back."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])

    def wake(self) -> None:
        """Look at the queue now: a job was added."""
        self._queued.set()

    async def cancel(self, number: int) -> Job:
        """Cancel a job; if it is at work here, its process ends at once.

        Raises:
            JobNotFoundError, JobOverError: As ``JobStore.cancel``.
        """
        job = await asyncio.to_thread(self.jobs.cancel, number)
        if self._at_work is not None and self._at_work[0] == number:
            self._at_work[1].set()
        return job

    async def _run(self) -> None:
        while True:
            try:
                if not await self._next():
                    await self._wait()
            except StoreError as error:
                logger.warning("jobs wait: %s", error)
                await asyncio.sleep(self._pace.retry_seconds)

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.poll_seconds):
                await self._queued.wait()

    async def _next(self) -> bool:
        """Run the next job; whether there was one."""
        self._queued.clear()
        lost = self._silence.lost(await asyncio.to_thread(self.jobs.running))
        await asyncio.to_thread(self.jobs.requeue_lost, lost)
        record = await asyncio.to_thread(self.jobs.claim)
        if record is None:
            return False
        logger.info("job %d begins: %s %s", record.job.id, record.job.kind, record.job.name)
        try:
            await self._attempt(record)
        except asyncio.CancelledError:
            with suppress(StoreError):  # then it is lost, and queued again in time
                await asyncio.to_thread(self.jobs.put_back, record.job)
            raise
        return True

    async def _attempt(self, record: JobRecord) -> None:
        job = record.job
        error, result = None, None
        try:
            result = await self._done(record)
        except RefusedError as refused:
            error, result = str(refused), refused.result
        except JobFailedError as failed:
            error = str(failed)
            if failed.log:
                logger.error("job %d: %s\n%s", job.id, failed, failed.log)
        except (ServiceError, OSError) as failed:
            error = str(failed)
        if error is None and result is None:
            return
        await self._end(job, error, result)

    async def _done(self, record: JobRecord) -> Content | None:
        """Return a job's result; None if it was cancelled."""
        job = record.job
        folder = await asyncio.to_thread(fresh_folder, self._folder, job.id, job.attempt)
        try:
            await asyncio.to_thread(self._work.prepare, record, folder)
            if not await self._process(job, folder):
                return None
            await asyncio.to_thread(self._work.found, folder)
            if not await asyncio.to_thread(self.jobs.keep, job):
                return None
            return await self._kept(record, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _process(self, job: Job, folder: Path) -> bool:
        """Run a job's process to its end; whether the job is still to go on."""
        progress, cancelled = _Progress(), asyncio.Event()
        child = await Child.start(folder, self._pace.threads)
        self._at_work = (job.id, cancelled)
        listening = asyncio.ensure_future(child.listen(progress))
        minding = asyncio.ensure_future(self._mind(job, progress, cancelled))
        try:
            await asyncio.wait({listening, minding}, return_when=asyncio.FIRST_COMPLETED)
            if minding.done():
                return minding.result()
            listening.result()
            return True
        finally:
            self._at_work = None
            minding.cancel()
            await child.end()
            await asyncio.wait({listening, minding})

    async def _mind(self, job: Job, progress: _Progress, cancelled: asyncio.Event) -> bool:
        """Write a job's progress until it is not to go on."""
        said, due = None, 0.0
        while True:
            at = (progress.stage, progress.done, progress.total)
            if at != said or time.monotonic() >= due:
                if not await self._reported(job, *at):
                    return False
                said, due = at, time.monotonic() + self._pace.lost_seconds / 4
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pace.report_seconds):
                    await cancelled.wait()
                    return False

    async def _reported(self, job: Job, stage: str, done: int, total: int) -> bool:
        """Return whether a job is to go on; as long as the store cannot say, it is."""
        try:
            return await asyncio.to_thread(self.jobs.report, job, stage, done, total)
        except StoreError as error:
            logger.warning("job %d cannot be reported on: %s", job.id, error)
            return True

    async def _kept(self, record: JobRecord, folder: Path) -> Content:
        """Put a result into effect while the store hears that the job is at work."""
        progress = _Progress(KEEPING, 0, 1)
        minding = asyncio.ensure_future(self._mind(record.job, progress, asyncio.Event()))
        try:
            return await self._work.keep(record, folder)
        finally:
            minding.cancel()
            await asyncio.wait({minding})

    async def _end(self, job: Job, error: str | None, result: Content | None) -> None:
        """Record how a job ended, however long the store takes to hear of it."""
        if error is None:
            end = partial(self.jobs.succeed, job, result or {})
        else:
            end = partial(self.jobs.fail, job, error, result)
        while True:
            try:
                counted = await asyncio.to_thread(end)
            except StoreError as failed:
                logger.warning("the end of job %d is not recorded yet: %s", job.id, failed)
                await asyncio.sleep(self._pace.retry_seconds)
                continue
            logger.info("job %d %s", job.id, _said(error) if counted else "was no longer ours")
            return


def _tell_of_fault(loop: asyncio.Task[None]) -> None:
    """Say in the log that jobs are run no more, should a fault of ours end the runner."""
    if not loop.cancelled() and loop.exception() is not None:
        logger.critical("no more jobs are run", exc_info=loop.exception())


def _said(error: str | None) -> str:
    return "succeeded" if error is None else f"failed: {error}"
