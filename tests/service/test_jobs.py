"""Jobs in the store: one state machine, which nobody who lost a job can move."""

from collections.abc import Iterator

import pytest

from service.jobs import (
    KEEPING,
    MAX_LOST,
    Job,
    JobNotFoundError,
    JobOverError,
    JobStore,
    job_view,
    record_view,
)
from service.records import now
from tests.service.places import StorePlace


@pytest.fixture
def jobs(place: StorePlace) -> Iterator[JobStore]:
    """The jobs of a store on each database."""
    with place.open() as store:
        yield store.jobs()


def solve(jobs: JobStore, name: str = "moves") -> Job:
    return jobs.add("edit-solve", name, {"document": {"name": name}})


def claimed(jobs: JobStore) -> Job:
    record = jobs.claim()
    assert record is not None
    return record.job


def state(jobs: JobStore, job: Job) -> str:
    return jobs.get(job.id).job.state


def wait_for_the_clock() -> None:
    """Wait until a row that is written now is told from one that was written before."""
    before = now()
    while now() == before:
        pass


def test_jobs_are_run_in_the_order_in_which_they_were_asked_for(jobs: JobStore) -> None:
    first, second = solve(jobs, "a"), solve(jobs, "b")
    assert (first.state, first.attempt, first.started_at) == ("queued", 0, None)
    record = jobs.claim()
    assert record.job.id == first.id
    assert (record.job.state, record.job.attempt) == ("running", 1)
    assert record.request == {"document": {"name": "a"}} and record.result is None
    assert claimed(jobs).id == second.id
    assert jobs.claim() is None


def test_asking_the_same_again_is_the_same_job_until_it_has_ended(jobs: JobStore) -> None:
    first = solve(jobs)
    assert solve(jobs).id == first.id
    running = claimed(jobs)
    assert solve(jobs).id == first.id
    assert jobs.add("edit-evaluate", "moves", {"document": {"name": "moves"}}).id != first.id
    jobs.fail(running, "no")
    assert solve(jobs).id not in (first.id, first.id + 1)


def test_a_job_reports_and_ends_with_its_result(jobs: JobStore) -> None:
    solve(jobs)
    job = claimed(jobs)
    assert jobs.report(job, "fitting values", 3, 10)
    seen = jobs.get(job.id).job
    assert (seen.stage, seen.done, seen.total) == ("fitting values", 3, 10)
    assert jobs.keep(job) and jobs.succeed(job, {"rank": 3})
    record = jobs.get(job.id)
    assert (record.job.state, record.result) == ("succeeded", {"rank": 3})
    times = (record.job.created_at, record.job.started_at, record.job.ended_at)
    assert None not in times and list(times) == sorted(map(str, times))
    assert record_view(record)["result"] == {"rank": 3}
    shown = job_view(record.job)
    assert shown["progress"] == {"stage": KEEPING, "done": 1, "total": 1}
    assert not {"seen_at", "lost", "stage"} & set(shown)


def test_a_failed_job_keeps_why_and_its_figures(jobs: JobStore) -> None:
    solve(jobs)
    job = claimed(jobs)
    assert jobs.fail(job, "growth 12 (limit 10)", {"growth": 12})
    record = jobs.get(job.id)
    assert (record.job.state, record.job.error) == ("failed", "growth 12 (limit 10)")
    assert record.result == {"growth": 12}


def test_what_has_ended_stays_as_it_ended(jobs: JobStore) -> None:
    solve(jobs)
    job = claimed(jobs)
    jobs.cancel(job.id)
    for change in (
        lambda: jobs.report(job, "x", 1, 2),
        lambda: jobs.keep(job),
        lambda: jobs.succeed(job, {}),
        lambda: jobs.fail(job, "x"),
        lambda: jobs.put_back(job),
    ):
        assert change() is False
    assert state(jobs, job) == "cancelled"
    with pytest.raises(JobOverError, match="is over: cancelled"):
        jobs.cancel(job.id)


def test_a_queued_job_is_cancelled_and_never_run(jobs: JobStore) -> None:
    job = jobs.cancel(solve(jobs).id)
    assert (job.state, job.ended_at is not None) == ("cancelled", True)
    assert jobs.claim() is None


def test_a_job_whose_result_is_being_kept_is_not_cancelled(jobs: JobStore) -> None:
    solve(jobs)
    job = claimed(jobs)
    jobs.keep(job)
    with pytest.raises(JobOverError, match="being put into effect"):
        jobs.cancel(job.id)
    assert jobs.succeed(job, {})


def test_a_lost_job_is_queued_again_and_its_old_runner_moves_nothing(jobs: JobStore) -> None:
    solve(jobs)
    old = claimed(jobs)
    assert jobs.requeue_lost([]) == 0
    assert jobs.requeue_lost(jobs.running()) == 1
    assert state(jobs, old) == "queued"
    assert jobs.succeed(old, {"by": "the lost one"}) is False
    new = claimed(jobs)
    assert (new.id, new.attempt) == (old.id, 2)
    assert jobs.report(old, "x", 1, 2) is False and jobs.fail(old, "x") is False
    assert jobs.succeed(new, {"by": "the new one"})
    assert jobs.get(new.id).result == {"by": "the new one"}


def test_a_report_says_that_a_job_is_not_lost(jobs: JobStore) -> None:
    solve(jobs)
    job = claimed(jobs)
    seen = jobs.running()
    wait_for_the_clock()
    jobs.report(job, "fitting values", 0, 1)
    assert jobs.requeue_lost(seen) == 0
    assert state(jobs, job) == "running"


def test_another_attempt_is_another_sighting(jobs: JobStore) -> None:
    solve(jobs)
    claimed(jobs)
    seen = jobs.running()
    jobs.requeue_lost(seen)
    claimed(jobs)
    assert jobs.requeue_lost(seen) == 0


def test_a_job_that_ends_its_servers_is_given_up(jobs: JobStore) -> None:
    solve(jobs)
    for _ in range(MAX_LOST - 1):
        claimed(jobs)
        assert jobs.requeue_lost(jobs.running()) == 1
    job = claimed(jobs)
    assert jobs.requeue_lost(jobs.running()) == 0
    found = jobs.get(job.id).job
    assert (found.state, found.attempt) == ("failed", MAX_LOST)
    assert f"{MAX_LOST} times" in found.error


def test_a_job_that_is_put_back_is_not_held_against_it(jobs: JobStore) -> None:
    solve(jobs)
    for _ in range(MAX_LOST + 2):
        assert jobs.put_back(claimed(jobs))
    assert claimed(jobs).attempt == MAX_LOST + 3


def test_jobs_are_listed_newest_first(jobs: JobStore) -> None:
    made = [solve(jobs, f"n{i}").id for i in range(4)]
    claimed(jobs)
    assert [job.id for job in jobs.all()] == made[::-1]
    assert [job.id for job in jobs.all(limit=2)] == made[:1:-1]
    assert [job.id for job in jobs.all(state="running")] == made[:1]


def test_a_result_that_was_there_is_a_job_that_succeeded(jobs: JobStore) -> None:
    job = jobs.add_ended("edit-solve", "moves", {"a": 1}, {"cached": True})
    assert (job.state, jobs.get(job.id).result) == ("succeeded", {"cached": True})
    assert jobs.claim() is None


def test_old_jobs_go_and_numbers_are_not_used_again(jobs: JobStore, monkeypatch) -> None:
    monkeypatch.setattr("service.jobs.MAX_KEPT", 3)
    waiting = solve(jobs, "waits")
    for number in range(6):
        jobs.add_ended("edit-solve", f"n{number}", {}, {})
    kept = [job.name for job in jobs.all()]
    assert kept == ["n5", "n4", "n3", "waits"], "what has not ended is never removed"
    with pytest.raises(JobNotFoundError, match=f"no job {waiting.id + 1}"):
        jobs.get(waiting.id + 1)
    assert solve(jobs, "next").id == waiting.id + 7


def test_jobs_last_through_a_restart(place: StorePlace) -> None:
    with place.open() as store:
        job = solve(store.jobs())
        store.jobs().claim()
    with place.open() as store:
        assert state(store.jobs(), job) == "running"
        assert store.jobs().requeue_lost(store.jobs().running()) == 1
