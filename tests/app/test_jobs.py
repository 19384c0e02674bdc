"""At most one piece of work runs per subject, and a reader of a job sees a consistent state."""

from __future__ import annotations

import threading

import pytest

from relight_app import jobs as jobs_module
from relight_app.jobs import Jobs, Work


def test_starting_a_running_subject_again_joins_its_work() -> None:
    jobs, release, runs = Jobs(), threading.Event(), []

    def act(work: Work) -> str:
        runs.append(1)
        assert release.wait(10)
        return "done"

    first = jobs.start("key", act)
    assert jobs.start("key", act) is first
    assert first.wait(0.01).is_running
    release.set()
    ended = first.wait(10)
    assert (ended.state, ended.result, len(runs)) == ("done", "done", 1)


def test_a_job_that_was_found_does_not_change_when_the_work_ends() -> None:
    jobs, release = Jobs(), threading.Event()
    told = threading.Event()

    def act(work: Work) -> str:
        work.tell("Working.")
        told.set()
        assert release.wait(10)
        work.tell("Almost there.")
        return "done"

    begun = jobs.start("key", act)
    assert told.wait(10)
    found = jobs.find("key")
    release.set()
    ended = begun.wait(10)
    assert found is not None
    assert (found.state, found.result, found.told) == ("running", None, ("Working.",))
    assert (ended.state, ended.result, ended.told) == ("done", "done", ("Working.", "Almost there."))
    assert jobs.find("key") == ended


def test_the_error_of_failed_work_is_kept_and_the_subject_can_be_started_again() -> None:
    jobs = Jobs()
    job = jobs.start("key", lambda _: 1 // 0).wait(10)
    assert job.state == "failed"
    assert isinstance(job.error, ZeroDivisionError)
    assert jobs.start("key", lambda _: 2).wait(10).result == 2


def test_each_start_sentence_and_end_is_a_new_version() -> None:
    jobs, seen = Jobs(), []

    def act(work: Work) -> None:
        seen.append(jobs.version)
        work.tell("Working.")
        seen.append(jobs.version)

    jobs.start("key", act).wait(10)
    seen.append(jobs.version)
    assert seen == sorted(set(seen)), "each change of the version can be seen"
    assert seen[0] > 0


def test_the_newest_work_of_a_run_is_found_by_its_kind() -> None:
    jobs = Jobs()
    for which in ("best", 400, "latest"):
        jobs.start(("export", "digits", which), lambda _, which=which: which).wait(10)  # type: ignore[misc]
    jobs.start(("export", "other", "best"), lambda _: "another run").wait(10)
    jobs.start(("export", "digits", 400), lambda _: "again").wait(10)
    jobs.start("a subject of its own", lambda _: 1).wait(10)
    found = jobs.find_newest("export", "digits")
    assert found is not None and found.result == "again"
    assert jobs.find_newest("drill", "digits") is None


def test_work_that_ended_long_ago_is_forgotten_and_running_work_never(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, release = Jobs(), threading.Event()
    jobs.start("ended", lambda _: 1).wait(10)
    running = jobs.start("running", lambda _: release.wait(10))
    monkeypatch.setattr(jobs_module, "KEPT_S", -1.0)
    jobs.start("next", lambda _: 1).wait(10)
    assert jobs.find("ended") is None
    assert jobs.find("running") is not None
    release.set()
    assert running.wait(10).result
