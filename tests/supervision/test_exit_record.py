"""The exit record: how an attempt ended, and the sentence that says why."""

from __future__ import annotations

import signal

import pytest

from relight.runs.progress import Progress
from relight.runs.records import AttemptExit, Outcome, TrainerOutcome
from relight.supervision.exit_record import OutOfMemory, StopAsked, describe_exit
from relight.supervision.launcher import ProcessEnd

GIB = 2**30


def describe(
    end: ProcessEnd,
    *,
    outcome: TrainerOutcome | None = None,
    progress: Progress | None = None,
    stop: StopAsked | None = None,
    out_of_memory: OutOfMemory | None = None,
) -> AttemptExit:
    return describe_exit(2, end, outcome=outcome, progress=progress, stop=stop, out_of_memory=out_of_memory)


def told(outcome: Outcome, *, step: int = 5, reason: str = "", error: str | None = None) -> TrainerOutcome:
    return TrainerOutcome(outcome=outcome, step=step, reason=reason, error=error, traceback=error and "Traceback")


def test_a_finished_trainer_finished() -> None:
    record = describe(ProcessEnd(exit_code=0), outcome=told("finished", step=9), progress=Progress(step=9))
    assert (record.attempt, record.outcome, record.step, record.exit_code, record.signal) == (2, "finished", 9, 0, None)


def test_the_signal_that_made_a_trainer_stop_stays_known() -> None:
    outcome = TrainerOutcome(outcome="stopped", step=5, reason="Stopped by SIGUSR1 at step 5.", stop_signal="SIGUSR1")
    record = describe(ProcessEnd(exit_code=99), outcome=outcome)
    assert (record.outcome, record.stop_signal, record.signal) == ("stopped", "SIGUSR1", None)
    assert record.reason == "Stopped by SIGUSR1 at step 5."


def test_a_signal_to_the_supervisor_is_not_a_stop_by_a_person() -> None:
    asked = StopAsked("Stopped because its supervisor received SIGTERM.", (), "SIGTERM")
    assert describe(ProcessEnd(signal="SIGKILL"), stop=asked).stop_signal == "SIGTERM"
    assert describe(ProcessEnd(exit_code=130), outcome=told("stopped"), stop=asked).stop_signal == "SIGTERM"
    assert describe(ProcessEnd(exit_code=130), outcome=told("stopped"), stop=StopAsked()).stop_signal is None


def test_what_ran_out_of_memory_is_recorded() -> None:
    assert describe(ProcessEnd(signal="SIGKILL"), out_of_memory="group").out_of_memory == "group"
    assert describe(ProcessEnd(signal="SIGKILL")).out_of_memory is None


def test_a_crash_that_the_trainer_reported_keeps_its_whole_traceback() -> None:
    record = describe(ProcessEnd(exit_code=3), outcome=told("crashed", error="ValueError: no"))
    assert (record.outcome, record.reason, record.error) == ("crashed", "ValueError: no", "ValueError: no")
    assert record.traceback == "Traceback"


def test_a_kill_without_evidence_names_the_possible_cause() -> None:
    record = describe(ProcessEnd(signal="SIGKILL"), progress=Progress(step=7))
    assert record.outcome == "crashed"
    assert record.signal == "SIGKILL"
    assert record.step == 7
    assert record.reason == (
        "Killed with SIGKILL. If you did not send it, the kernel's out-of-memory killer may have: run dmesg to check."
    )


def test_an_out_of_memory_kill_names_the_limit_and_the_peak() -> None:
    record = describe(ProcessEnd(signal="SIGKILL", peak_memory_bytes=3 * GIB), out_of_memory="group")
    assert "reached its memory limit" in record.reason
    assert record.reason.endswith("Its memory use had peaked at 3.22 GB.")


def test_memory_running_out_elsewhere_on_the_machine_is_only_a_probable_cause() -> None:
    assert "probably" in describe(ProcessEnd(signal="SIGKILL"), out_of_memory="machine").reason


def test_an_exception_while_memory_ran_out_mentions_that() -> None:
    outcome = told("crashed", error="RuntimeError: DataLoader worker (pid 9) is killed by signal: Killed.")
    record = describe(ProcessEnd(exit_code=3), outcome=outcome, out_of_memory="group")
    assert "out-of-memory killer" in record.reason
    assert record.error == outcome.error


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGBUS", "SIGABRT", "SIGTERM", "SIGILL", "SIGXCPU"])
def test_each_common_signal_is_explained(name: str) -> None:
    record = describe(ProcessEnd(signal=name))
    assert record.outcome == "crashed"
    assert record.reason.startswith(f"Ended by {name}: ")


def test_a_rare_signal_is_named() -> None:
    assert describe(ProcessEnd(signal="signal 35")).reason == "Ended by signal 35."


def test_exit_code_zero_before_the_end_is_a_crash() -> None:
    record = describe(ProcessEnd(exit_code=0), progress=Progress(step=3, steps_total=10, phase="training"))
    assert record.outcome == "crashed"
    assert "step 3 of 10" in record.reason
    assert "sys.exit()" in record.reason


def test_exit_code_zero_at_the_end_is_finished_even_without_a_report() -> None:
    progress = Progress(step=10, steps_total=10, phase="finished")
    assert describe(ProcessEnd(exit_code=0), progress=progress).outcome == "finished"


def test_an_unknown_exit_code_points_to_the_log() -> None:
    record = describe(ProcessEnd(exit_code=7))
    assert record.outcome == "crashed"
    assert "exit code 7" in record.reason


@pytest.mark.parametrize("end", [ProcessEnd(signal="SIGKILL"), ProcessEnd(signal="SIGTERM"), ProcessEnd(exit_code=1)])
def test_after_a_stop_request_the_outcome_is_stopped_whatever_signals_it_took(end: ProcessEnd) -> None:
    record = describe(end, stop=StopAsked(sent=(signal.SIGTERM, signal.SIGKILL)), progress=Progress(step=4))
    assert record.outcome == "stopped"
    assert "had to be killed at step 4" in record.reason


def test_an_error_caused_by_the_escalation_is_a_stop_with_that_error() -> None:
    record = describe(
        ProcessEnd(exit_code=3), outcome=told("crashed", error="E"), stop=StopAsked(sent=(signal.SIGTERM,))
    )
    assert record.outcome == "stopped"
    assert record.error == "E"


def test_an_error_of_the_training_while_it_stops_is_a_crash() -> None:
    assert describe(ProcessEnd(exit_code=3), outcome=told("crashed", error="E"), stop=StopAsked()).outcome == "crashed"


def test_finishing_beats_a_stop_that_came_too_late() -> None:
    record = describe(ProcessEnd(exit_code=0), outcome=told("finished"), stop=StopAsked())
    assert record.outcome == "finished"


def test_a_signal_while_closing_down_does_not_undo_the_outcome() -> None:
    record = describe(ProcessEnd(signal="SIGSEGV"), outcome=told("finished"))
    assert record.outcome == "finished"
    assert record.reason == "It was ended by SIGSEGV while it was closing down."


def test_the_recorded_step_is_the_highest_one_reported() -> None:
    assert describe(ProcessEnd(signal="SIGKILL"), outcome=told("stopped", step=3), progress=Progress(step=8)).step == 8


def describe_script(end: ProcessEnd, *, outcome: TrainerOutcome | None = None, joined: bool = True) -> AttemptExit:
    progress = Progress(step=3, steps_total=8)
    return describe_exit(1, end, outcome=outcome, progress=progress, is_script=True, joined=joined)


def test_a_nonzero_exit_code_of_a_script_is_a_crash_even_after_it_finished() -> None:
    assert describe_script(ProcessEnd(exit_code=0), outcome=told("finished")).outcome == "finished"
    record = describe_script(ProcessEnd(exit_code=2), outcome=told("finished", step=3))
    assert (record.outcome, record.reason) == ("crashed", "The script ended with exit code 2 at step 3.")
    assert describe_script(ProcessEnd(exit_code=1), outcome=told("crashed", error="no")).reason == "no"


def test_a_script_that_never_joined_is_told_so() -> None:
    record = describe_script(ProcessEnd(exit_code=0), joined=False)
    assert record.outcome == "crashed"
    assert "exit code 0 before it called relight.init()" in record.reason


def test_for_an_adopted_process_only_its_own_report_is_known() -> None:
    record = describe_script(ProcessEnd())
    assert (record.outcome, record.exit_code, record.signal) == ("crashed", None, None)
    assert record.reason == (
        "The process ended at step 3 of 8 without reporting why: possible causes are kill -9, a crash in native code "
        "and os._exit()."
    )
    assert describe_script(ProcessEnd(), outcome=told("finished", reason="Done.")).reason == "Done."
