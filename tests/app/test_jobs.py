"""At most one background job runs per key, and a reader of a job sees a consistent state."""

from __future__ import annotations

import threading

from relight_app.jobs import Jobs, Work


def test_starting_a_running_job_again_returns_the_same_one() -> None:
    jobs, release, runs = Jobs(), threading.Event(), []

    def work() -> str:
        runs.append(1)
        assert release.wait(10)
        return "done"

    first = jobs.start("key", work)
    assert jobs.start("key", work) is first
    assert first.wait(0.01).state == "running"
    release.set()
    ended = first.wait(10)
    assert (ended.state, ended.result, len(runs)) == ("done", "done", 1)


def test_a_job_that_was_found_does_not_change_when_the_work_ends() -> None:
    jobs, release = Jobs(), threading.Event()

    def work(job: Work) -> str:
        job.tell("Working.")
        assert release.wait(10)
        job.tell("Almost there.")
        return "done"

    begun = jobs.start_telling("key", work)
    found = jobs.find("key")
    release.set()
    ended = begun.wait(10)
    assert found is not None
    assert (found.state, found.result) == ("running", None)
    assert (ended.state, ended.result, ended.told) == ("done", "done", ("Working.", "Almost there."))
    assert jobs.find("key") == ended


def test_the_error_of_a_failed_job_is_kept() -> None:
    job = Jobs().start("key", lambda: 1 // 0).wait(10)
    assert job.state == "failed"
    assert isinstance(job.error, ZeroDivisionError)


def test_a_job_that_ended_can_be_forgotten_and_started_again() -> None:
    jobs = Jobs()
    jobs.start("key", lambda: 1).wait(10)
    jobs.forget("key")
    assert jobs.find("key") is None
    assert jobs.start("key", lambda: 2).wait(10).result == 2


def test_a_running_job_is_not_forgotten() -> None:
    jobs, release = Jobs(), threading.Event()
    begun = jobs.start("key", lambda: release.wait(10))
    jobs.forget("key")
    assert jobs.find("key") == begun.job
    release.set()
    assert begun.wait(10).result
