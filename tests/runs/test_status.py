"""Status is a pure function of the evidence: what it may say in each situation, and what it must never say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relight.runs.evidence import Evidence
from relight.runs.layout import RunLayout
from relight.runs.records import (
    AttemptExit,
    AttemptProcesses,
    AttemptStart,
    ImportedFrom,
    ProcessIdentity,
    RunRecord,
    StopRequest,
    TaskReference,
    TrainerOutcome,
)
from relight.runs.status import FOREIGN_SILENCE_S, HANDOVER_S, STARTING_S, RunStatus, derive_status
from relight.slurm.job import JobReport

NOW = 1_000_000.0
SUPERVISOR = ProcessIdentity(pid=11, start_ticks=1, boot_id="b", host="h")
TRAINER = ProcessIdentity(pid=22, start_ticks=1, boot_id="b", host="h")
BOTH = AttemptProcesses(supervisor=SUPERVISOR, trainer=TRAINER)
START = AttemptStart(attempt=1, time_s=NOW - 60, reason="launch")
LAYOUT = RunLayout(Path("runs/a"))
IMPORTED = RunRecord(
    run="a",
    name="a",
    created_s=NOW,
    task=TaskReference(kind="builtin", name="digits"),
    imported_from=ImportedFrom(name="a.pth", path="/a.pth", kind="PyTorch checkpoint", sha256="0"),
)
STOP = StopRequest(attempt=1, time_s=NOW)


def _evidence(**changes: Any) -> Evidence:
    given: dict[str, Any] = {
        "layout": LAYOUT,
        "now_s": NOW,
        "launched_s": NOW - 60,
        "attempts": (1,),
        "start": START,
        "processes": BOTH,
        "supervisor_alive": True,
        "trainer_alive": True,
    }
    return Evidence(**(given | changes))


def _status(**changes: Any) -> tuple[str, str]:
    report = derive_status(_evidence(**changes))
    return report.status.value, report.reason


def _exit(outcome: Any, **fields: Any) -> AttemptExit:
    return AttemptExit(attempt=1, time_s=NOW, outcome=outcome, **fields)


def test_supervisor_and_trainer_alive_is_running() -> None:
    assert _status() == ("running", "")


@pytest.mark.parametrize(
    ("job", "status"),
    [
        (JobReport(7, "PENDING", reason="Resources"), "queued"),
        (JobReport(7, "RUNNING", "n1"), "queued"),
        (JobReport(7), "queued"),
        (JobReport(7, "CANCELLED"), "interrupted"),
        (JobReport(7, gone=True), "interrupted"),
    ],
)
def test_an_attempt_without_processes_is_queued_as_long_as_its_job_may_start(job: JobReport, status: str) -> None:
    assert _status(processes=None, supervisor_alive=False, trainer_alive=False, job=job) == (status, job.sentence)


def test_a_job_that_slurm_starts_again_is_queued_whatever_the_attempt_before_came_to() -> None:
    job = JobReport(7, "PENDING", reason="BeginTime")
    preempted = _exit("stopped", stop_signal="SIGUSR1")
    dead = {"supervisor_alive": False, "trainer_alive": False}
    assert _status(exit=preempted, job=job, **dead)[0] == "queued"
    assert _status(job=job, foreign=True, **dead)[0] == "queued"
    assert _status(exit=preempted, job=JobReport(7, "CANCELLED"), **dead)[0] == "stopped"


def test_on_another_machine_the_job_tells_more_than_the_silence_of_the_files() -> None:
    elsewhere = {"foreign": True, "supervisor_alive": False, "trainer_alive": False, "changed_s": NOW - 3600}
    assert _status(job=JobReport(7, "RUNNING", "n[1-2]"), **elsewhere) == ("running", "Slurm job 7 runs on n[1-2].")
    fresh = {**elsewhere, "changed_s": NOW}
    assert _status(job=JobReport(7, "NODE_FAIL"), **fresh) == ("interrupted", "Slurm job 7 has ended: NODE_FAIL.")
    assert _status(job=JobReport(7), **fresh)[0] == "running"


@pytest.mark.parametrize("outcome", ["finished", "stopped", "crashed"])
@pytest.mark.parametrize("alive", [True, False])
def test_the_exit_record_has_the_last_word(outcome: str, alive: bool) -> None:
    status, _ = _status(exit=_exit(outcome), supervisor_alive=alive, trainer_alive=alive, outcome=None)
    assert status == outcome


def test_an_exit_records_reason_is_told_else_its_error_else_signal_or_code() -> None:
    assert _status(exit=_exit("crashed", reason="Killed.", error="E"))[1] == "Killed."
    assert _status(exit=_exit("crashed", error="ValueError: x"))[1] == "ValueError: x"
    assert _status(exit=_exit("crashed", signal="SIGKILL"))[1] == "Ended by SIGKILL."
    assert _status(exit=_exit("crashed", exit_code=3))[1] == "Ended with exit code 3."
    assert _status(exit=_exit("finished"))[1] == ""


def test_a_killed_supervisor_is_interrupted_with_a_reason() -> None:
    status, reason = _status(supervisor_alive=False, trainer_alive=False)
    assert status == "interrupted"
    assert "supervisor (pid 11) was killed" in reason


def test_a_trainer_that_outlives_its_supervisor_for_a_moment_does_not_make_it_running() -> None:
    status, reason = _status(supervisor_alive=False)
    assert status == "interrupted"
    assert "trainer (pid 22) is ending" in reason


def test_a_restarted_machine_is_interrupted() -> None:
    status, reason = _status(supervisor_alive=False, trainer_alive=False, same_boot=False)
    assert status == "interrupted"
    assert "restarted" in reason


def test_a_killed_trainer_is_crashed_even_before_the_exit_record_is_there() -> None:
    status, reason = _status(trainer_alive=False)
    assert status == "crashed"
    assert "22" in reason


def test_a_killed_trainer_that_was_asked_to_stop_is_stopped() -> None:
    assert _status(trainer_alive=False, stop=STOP)[0] == "stopped"


@pytest.mark.parametrize("outcome", ["finished", "stopped", "crashed"])
def test_the_trainers_last_word_counts_until_the_exit_record_is_there(outcome: Any) -> None:
    said = TrainerOutcome(outcome=outcome, step=3, reason="So it was.")
    assert _status(trainer_alive=False, outcome=said) == (outcome, "So it was.")
    assert _status(outcome=said)[0] == "running", "it still writes its last checkpoint"


def test_a_trainer_that_finished_has_finished_even_if_its_supervisor_was_killed_then() -> None:
    said = TrainerOutcome(outcome="finished", step=3)
    assert _status(supervisor_alive=False, trainer_alive=False, outcome=said)[0] == "finished"


def test_a_stop_that_nobody_asked_for_after_the_supervisors_end_is_an_interruption() -> None:
    said = TrainerOutcome(outcome="stopped", step=3)
    assert _status(supervisor_alive=False, trainer_alive=False, outcome=said)[0] == "interrupted"
    assert _status(supervisor_alive=False, trainer_alive=False, outcome=said, stop=STOP)[0] == "stopped"


def test_until_the_trainer_is_started_it_is_queued() -> None:
    assert _status(processes=AttemptProcesses(supervisor=SUPERVISOR), trainer_alive=False)[0] == "queued"


@pytest.mark.parametrize(
    ("attempts", "age_s", "locked", "status"),
    [
        ((), 1.0, False, "queued"),
        ((), STARTING_S + 1, False, "interrupted"),
        ((), STARTING_S + 1, True, "queued"),
        ((), -1.0, False, "queued"),
        ((), -3600.0, False, "interrupted"),
        ((1,), 0.5, False, "queued"),
        ((1,), HANDOVER_S + 0.1, False, "interrupted"),
        ((1,), 600.0, True, "queued"),
    ],
)
def test_a_launch_is_queued_until_it_is_clear_that_nobody_comes(
    attempts: tuple[int, ...], age_s: float, locked: bool, status: str
) -> None:
    report = derive_status(Evidence(layout=LAYOUT, now_s=NOW, launched_s=NOW - age_s, attempts=attempts, locked=locked))
    assert report.status == status
    assert report.reason or status == "queued"


def test_another_machines_run_is_judged_by_its_signs_of_life() -> None:
    foreign: dict[str, Any] = {"foreign": True, "supervisor_alive": False, "trainer_alive": False, "same_boot": False}
    assert _status(**foreign, changed_s=NOW - 1.0) == ("running", "It runs on the machine 'h'.")
    status, reason = _status(**foreign, changed_s=NOW - FOREIGN_SILENCE_S - 1)
    assert status == "interrupted"
    assert "machine 'h'" in reason
    assert _status(**foreign, changed_s=NOW - 1.0, exit=_exit("finished"))[0] == "finished"


def test_a_damaged_record_of_processes_falls_back_to_the_lock() -> None:
    damaged: dict[str, Any] = {"processes": None, "damage": {"processes.json": "…"}}
    assert _status(**damaged, locked=True)[0] == "running"
    assert _status(**damaged, locked=False)[0] == "interrupted"


def test_a_damaged_exit_record_is_named() -> None:
    status, reason = _status(supervisor_alive=False, trainer_alive=False, damage={"exit.json": "…"})
    assert status == "interrupted"
    assert "exit record is damaged" in reason


OUTCOMES = st.sampled_from(["finished", "stopped", "crashed"])
EVIDENCE = st.builds(
    Evidence,
    layout=st.just(LAYOUT),
    now_s=st.just(NOW),
    launched_s=st.floats(NOW - 1000, NOW + 1000),
    attempts=st.sampled_from([(), (1,), (1, 2, 3)]),
    start=st.sampled_from([None, START]),
    processes=st.sampled_from([None, BOTH, AttemptProcesses(supervisor=SUPERVISOR)]),
    exit=st.none() | st.builds(_exit, OUTCOMES),
    outcome=st.none() | st.builds(TrainerOutcome, outcome=OUTCOMES, step=st.just(1), reason=st.sampled_from(["", "r"])),
    stop=st.sampled_from([None, STOP]),
    supervisor_alive=st.booleans(),
    trainer_alive=st.booleans(),
    same_boot=st.booleans(),
    locked=st.booleans(),
    foreign=st.booleans(),
    changed_s=st.floats(NOW - 100, NOW),
    damage=st.dictionaries(st.sampled_from(["exit.json", "processes.json", "start.json"]), st.just("…")),
)


@settings(max_examples=1000)
@given(evidence=EVIDENCE)
def test_whatever_the_evidence_a_dead_run_never_shows_as_running(evidence: Evidence) -> None:
    report = derive_status(evidence)
    assert report == derive_status(evidence), "the same evidence gives the same answer"
    assert isinstance(report.status, RunStatus)
    if evidence.exit is not None:
        assert report.status == evidence.exit.outcome
        return
    told = evidence.outcome.outcome if evidence.outcome is not None else None
    recorded = evidence.processes is not None
    if report.status is RunStatus.RUNNING:
        seen = recorded and evidence.supervisor_alive and evidence.trainer_alive
        heard = recorded and evidence.foreign and NOW - evidence.changed_s < FOREIGN_SILENCE_S
        held = not recorded and evidence.locked and "processes.json" in evidence.damage
        assert seen or heard or held
    if recorded and not evidence.foreign and not evidence.supervisor_alive:
        assert not report.status.is_live
    if recorded and not evidence.foreign and evidence.supervisor_alive and evidence.trainer_alive:
        assert report.status.is_live
    if report.status is RunStatus.FINISHED:
        assert told == "finished"
    if report.status is RunStatus.STOPPED:
        assert told == "stopped" or evidence.stop is not None
    if report.status is RunStatus.INTERRUPTED:
        assert report.reason
        assert report.reason.endswith(".")


def test_imported_weights_that_nobody_was_to_start_are_stopped_at_once() -> None:
    nothing = {"attempts": (), "start": None, "processes": None, "supervisor_alive": False, "trainer_alive": False}
    status, reason = _status(**nothing, record=IMPORTED, launched_s=NOW)
    assert status == "stopped" and "Resume it to train from them" in reason
    assert _status(**nothing, record=IMPORTED, locked=True)[0] == "queued"
    assert _status(record=IMPORTED)[0] == "running"
