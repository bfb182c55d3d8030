"""Jobs in real processes: they end once, whole or not at all, whatever happens to whom."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from editing.card import from_artifact
from forward.container import read_artifact
from service.job_runner import Silence
from service.jobs import Job, JobRecord, Sighting
from service.store import Store
from tests.service.solving import (
    CASE,
    LOOSE,
    PACE,
    QUICK,
    Bench,
    bench,
    edit_set,
    is_alive,
    processes,
    solving,
)

SLOW = QUICK | {"steps": 1000, "stop": 0.0}
"""Fits of values take minutes."""


@pytest.fixture(scope="module")
def model(checkpoint) -> Path:
    return checkpoint("llama")


def left_over(found: Bench) -> list[str]:
    """Return what jobs left behind beside whole artifacts and the cache."""
    folder = found.store.artifacts_folder
    stray = [p.name for p in folder.iterdir() if p.name.startswith(".")]
    jobs = folder / "jobs"
    return stray + ([p.name for p in jobs.iterdir()] if jobs.exists() else [])


async def begun(found: Bench, job: Job, stage: str) -> int:
    """Wait until a job is at a stage, and return its process."""
    await found.until(job, lambda seen: seen.stage == stage)
    (pid,) = processes()
    return pid


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[Path, JobRecord]:
    """The folder of a store in which a job solved a set, and the job."""
    folder = tmp_path_factory.mktemp("solved")

    async def solve() -> JobRecord:
        async with bench(folder, model) as found:
            record = await found.ended(found.ask(solving(cases=[CASE])))
            assert [d.name for d in found.applied] == ["moves"]
            return record

    return folder, asyncio.run(solve())


async def test_a_set_is_solved_and_kept_and_another_uses_what_was_fitted(
    solved: tuple[Path, JobRecord], model: Path
) -> None:
    folder, first = solved
    async with bench(folder, model) as found:
        assert (first.job.state, first.job.error) == ("succeeded", None)
        result = first.result
        stored = found.store.artifact(result["artifact"])
        edit = from_artifact(read_artifact(stored.path))
        assert edit.edits.digest == result["set"]
        assert (edit.delta.rank, edit.name) == (result["edit"]["rank"], "moves")
        assert edit.gates["overridden"] == sorted(LOOSE) and edit.gates["beside"] == []
        assert [f["digest"] for f in result["edit"]["facts"]] == [
            f.digest for f in edit.edits.facts
        ]
        scores = result["scores"]
        assert scores["edited"]["EM"]["value"] > scores["unedited"]["EM"]["value"]
        stages = [one["stage"] for one in result["stages"]]
        assert stages[0] == "reading the model" and stages[-1] == "writing"
        assert left_over(found) == []

        beside = solving(edit_set("more", 3), beside=[result["artifact"]])
        cached = found.store.artifacts_folder / "cache"
        before = {path.name for path in cached.iterdir()}
        second = await found.ended(found.ask(beside, "more"))
        assert second.job.state == "failed", "its keys are those of the edit beside it"
        assert "interference 1 (limit 0.5)" in second.job.error
        assert "override=interference" in second.job.error
        new = {path.name for path in cached.iterdir()} - before
        assert len(new) == 1, "of three facts, two were kept, and so was the second moment"
        assert len(found.edits()) == 1 and found.applied == []
        assert second.result["edit"]["gates"]["figures"]["interference"] == pytest.approx(1)


async def test_a_killed_process_fails_its_job_and_the_next_one_runs(
    tmp_path: Path, model: Path
) -> None:
    async with bench(tmp_path, model) as found:
        job = found.ask(solving(settings=SLOW))
        waiting = found.ask(solving(edit_set("next"), settings=SLOW), "next")
        os.kill(await begun(found, job, "fitting values"), signal.SIGKILL)
        ended = (await found.ended(job)).job
        assert ended.state == "failed" and "SIGKILL" in ended.error
        assert (found.edits(), found.applied) == ([], [])
        await found.until(waiting, lambda seen: seen.state == "running")
        assert f"{job.id}.1" not in left_over(found)


async def test_a_cancelled_job_ends_at_once_with_its_process(tmp_path: Path, model: Path) -> None:
    async with bench(tmp_path, model) as found:
        job = found.ask(solving(settings=SLOW))
        pid = await begun(found, job, "starting")
        assert os.getpgid(pid) == pid, "its group is its own"
        await found.runner.cancel(job.id)
        async with asyncio.timeout(5):
            while is_alive(pid) or left_over(found):
                await asyncio.sleep(0.02)
        record = found.jobs.get(job.id)
        assert (record.job.state, record.job.error, record.result) == ("cancelled", None, None)
        assert (found.edits(), found.applied) == ([], [])


async def test_a_job_that_is_cancelled_in_the_store_alone_ends_too(
    tmp_path: Path, model: Path
) -> None:
    async with bench(tmp_path, model, replace(PACE, lost_seconds=0.4)) as found:
        job = found.ask(solving(settings=SLOW))
        pid = await begun(found, job, "starting")
        found.jobs.cancel(job.id)
        async with asyncio.timeout(10):
            while is_alive(pid):
                await asyncio.sleep(0.02)


async def test_a_job_whose_server_vanished_is_run_again_by_the_next(
    tmp_path: Path, model: Path
) -> None:
    with Store.open(str(tmp_path)) as store:
        job = store.jobs().add("edit-solve", "moves", solving())
        lost = store.jobs().claim().job
        cut_short = store.artifacts_folder / "jobs" / f"{job.id}.1" / "out"
        cut_short.mkdir(parents=True)
    async with bench(tmp_path, model, replace(PACE, lost_seconds=0.1)) as found:
        record = await found.ended(job)
        assert (record.job.state, record.job.attempt, record.job.lost) == ("succeeded", 2, 1)
        assert len(found.edits()) == 1 and left_over(found) == []
        assert not found.jobs.fail(lost, "the first one comes back")


def test_who_says_nothing_new_is_lost_whatever_the_clocks_say() -> None:
    passed = [100.0]
    silence = Silence(20, lambda: passed[0])
    first = Sighting(1, 1, "1999-01-01T00:00:00.000+00:00")
    other = Sighting(2, 1, "2999-01-01T00:00:00.000+00:00")
    assert silence.lost([first, other]) == ()
    passed[0] += 19
    newer = Sighting(2, 1, "1990-01-01T00:00:00.000+00:00")
    assert silence.lost([first, newer]) == ()
    passed[0] += 1
    assert silence.lost([first, newer]) == (first,)
    passed[0] += 19
    assert silence.lost([newer]) == (newer,)
    assert silence.lost([first]) == (), "a job that was gone in between is seen anew"


async def test_a_server_that_stops_puts_its_job_back(tmp_path: Path, model: Path) -> None:
    async with bench(tmp_path, model) as found:
        job = found.ask(solving(settings=SLOW))
        pid = await begun(found, job, "starting")
    assert not is_alive(pid)
    with Store.open(str(tmp_path)) as store:
        seen = store.jobs().get(job.id).job
        assert (seen.state, seen.attempt, seen.lost) == ("queued", 1, 0)


def test_a_process_ends_with_its_server(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "service.job_process", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    assert process.wait(30) == 3
    assert process.stdout.read() == b""
    process.stdout.close()


async def test_a_full_disk_under_the_process_fails_the_job(tmp_path: Path, model: Path) -> None:
    async with bench(tmp_path, model) as found:
        job = found.ask(solving())
        pid = await begun(found, job, "starting")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (2000, 2000))
        ended = (await found.ended(job)).job
        assert ended.state == "failed"
        assert "cannot be written" in ended.error and "make room" in ended.error
        assert (found.edits(), found.applied, left_over(found)) == ([], [], [])


async def test_a_full_disk_under_the_store_fails_the_job(
    tmp_path: Path, solved: tuple[Path, JobRecord], model: Path
) -> None:
    async with bench(tmp_path, model) as found:
        # The kernel says that the disk is full to whoever writes there.
        name = f".{solved[1].result['artifact']}.safetensors.{os.getpid()}"
        (found.store.artifacts_folder / name).symlink_to("/dev/full")
        ended = (await found.ended(found.ask(solving()))).job
        assert ended.state == "failed" and "No space left on device" in ended.error
        assert (found.edits(), found.applied, left_over(found)) == ([], [], [])
        assert not list(found.store.artifacts_folder.glob("*.safetensors"))


async def test_an_edit_that_is_gone_is_said_before_a_process_begins(
    tmp_path: Path, model: Path
) -> None:
    async with bench(tmp_path, model) as found:
        ended = (await found.ended(found.ask(solving(beside=["d" * 64])))).job
        assert ended.state == "failed" and "no artifact ddd" in ended.error
        assert (found.edits(), found.applied, left_over(found)) == ([], [], [])
