"""Jobs in the background: one of each kind at a time, their end told to whoever asks."""

from __future__ import annotations

import threading

from relight_app.jobs import Jobs


def test_starting_a_running_job_again_returns_the_same_one() -> None:
    jobs, release, runs = Jobs(), threading.Event(), []

    def work() -> str:
        runs.append(1)
        assert release.wait(10)
        return "done"

    first = jobs.start("key", work)
    assert jobs.start("key", work) is first
    assert jobs.find("key") is first
    assert not first.wait(0.01)
    release.set()
    assert first.wait(10)
    assert (first.state, first.result, len(runs)) == ("done", "done", 1)


def test_a_failure_is_kept_for_who_asks() -> None:
    jobs = Jobs()
    job = jobs.start("key", lambda: 1 // 0)
    assert job.wait(10)
    assert job.state == "failed"
    assert isinstance(job.error, ZeroDivisionError)


def test_a_job_that_ended_can_be_forgotten_and_started_anew() -> None:
    jobs = Jobs()
    first = jobs.start("key", lambda: 1)
    assert first.wait(10)
    jobs.forget("key")
    assert jobs.find("key") is None
    second = jobs.start("key", lambda: 2)
    assert second.wait(10)
    assert second.result == 2


def test_a_running_job_is_not_forgotten() -> None:
    jobs, release = Jobs(), threading.Event()
    job = jobs.start("key", lambda: release.wait(10))
    jobs.forget("key")
    assert jobs.find("key") is job
    release.set()
    assert job.wait(10)
