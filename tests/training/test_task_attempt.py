"""An attempt that is stopped, crashes or is orphaned saves its state if, and only if, that can be done exactly."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from relight.overview.summary import summarize_run
from relight.runs.record_file import read_record
from relight.runs.records import ProcessIdentity, SavingState
from relight.runs.stop_request import clear_stop_request, request_stop
from tests.training.conftest import TrainedRun

pytestmark = pytest.mark.processes

ONLY_WHEN_ASKED = {"checkpoint_every_s": 0.0}


def test_a_signal_stops_at_the_next_edge_with_a_checkpoint_from_which_the_run_goes_on_exactly(
    make_run: Callable,
) -> None:
    twin = make_run("twin")
    assert twin.run() == 0, twin.log
    run = make_run("stopped", step_s=0.02, **ONLY_WHEN_ASKED)
    for number, reason in ((signal.SIGTERM, "launch"), (signal.SIGINT, "resume")):
        process = run.start(reason=reason)
        first = 0 if reason == "launch" else run.checkpoints_now()[-1].step
        run.wait_until(lambda first=first: run.step >= first + 3)
        run.signal(number)
        assert process.wait(30) == 130, run.log
        outcome = run.outcome
        assert outcome.outcome == "stopped"
        assert number.name in outcome.reason
        newest = run.checkpoints()[-1]
        assert (newest.step, newest.reason) == (outcome.step, "signal")
    assert run.resume() == 0, run.log
    assert run.final_digest() == twin.final_digest()


def test_a_request_in_the_run_folder_stops_with_a_checkpoint_and_now_stops_without(make_run: Callable) -> None:
    run = make_run(step_s=0.02, samples=20_000, **ONLY_WHEN_ASKED)  # no epoch ends, so no checkpoint is the best
    process = run.start()
    run.wait_for_step(2)
    request_stop(run.layout)
    assert process.wait(30) == 130, run.log
    assert (run.outcome.outcome, run.checkpoints()[-1].reason) == ("stopped", "stop")
    assert run.checkpoints()[-1].step == run.outcome.step
    clear_stop_request(run.layout)

    before = run.outcome.step
    process = run.start(reason="resume")
    run.wait_for_step(before + 2)
    request_stop(run.layout, now=True)
    assert process.wait(30) == 130, run.log
    assert run.outcome.step > before
    assert run.checkpoints()[-1].step == before, "stop --now asked for no checkpoint"


def test_a_signal_in_a_long_step_saves_the_step_before_it(make_run: Callable) -> None:
    run = make_run(samples=16, step_s=0.05, slow_step=4, slow_s=60.0, **ONLY_WHEN_ASKED)
    process = run.start()
    run.wait_for_step(3)
    time.sleep(0.2)  # well inside the fourth step, which takes a minute
    run.signal(signal.SIGTERM)
    assert process.wait(30) == 130, run.log
    assert [(one.step, one.reason) for one in run.checkpoints()][-1] == (3, "signal")

    twin = make_run("twin", samples=16)
    assert twin.run() == 0
    run.edit_config(slow_step=0)
    assert run.resume() == 0, run.log
    assert run.final_digest() == twin.final_digest()


def test_stop_now_does_not_wait_for_a_long_step(make_run: Callable) -> None:
    run = make_run(slow_step=3, slow_s=60.0)
    process = run.start()
    run.wait_for_step(2)
    request_stop(run.layout, now=True)
    run.signal(signal.SIGTERM)
    assert process.wait(30) == 130, run.log


def test_an_exception_in_a_step_saves_the_step_before_it_and_keeps_its_whole_traceback(make_run: Callable) -> None:
    twin = make_run("twin")
    assert twin.run() == 0
    run = make_run("failing", fail_at=15, **ONLY_WHEN_ASKED)
    assert run.run() == 3
    outcome = run.outcome
    assert (outcome.outcome, outcome.step, outcome.error) == ("crashed", 14, "ValueError: the spiral broke")
    assert outcome.traceback is not None
    assert outcome.traceback.startswith("Traceback")
    assert 'raise ValueError("the spiral broke")' in outcome.traceback
    assert outcome.traceback in run.log
    newest = run.checkpoints()[-1]
    assert (newest.step, newest.reason) == (14, "exception")
    assert run.resume() == 0, run.log  # each process fails at its fifteenth step, and only ten are left
    assert run.final_digest() == twin.final_digest()


def test_an_exception_while_the_optimizer_moves_saves_nothing(make_run: Callable) -> None:
    run = make_run(fail_in_update=6, **ONLY_WHEN_ASKED)
    assert run.run() == 3
    assert run.outcome.step == 5
    assert run.checkpoints() == [], "half of the parameters had moved"


def test_a_persons_mistake_is_one_line_without_a_traceback(make_run: Callable) -> None:
    run = make_run(device="cuda:7")
    assert run.run() == 3
    outcome = run.outcome
    assert outcome.error is not None
    assert "device=cuda:7 is not available" in outcome.error
    assert outcome.traceback is None
    assert "Traceback" not in run.log


def test_a_trainer_whose_supervisor_died_saves_and_ends(make_run: Callable, tmp_path: Path) -> None:
    lifeline = tmp_path / "lifeline"
    os.mkfifo(lifeline)
    run = make_run(step_s=0.05, epochs=1000, **ONLY_WHEN_ASKED)
    process = run.start(lifeline=lifeline)
    held = os.open(lifeline, os.O_WRONLY)
    run.wait_for_step(2)
    assert process.poll() is None
    os.close(held)
    process.wait(10)
    newest = run.checkpoints()[-1]
    assert newest.reason == "signal"
    assert newest.step == run.step
    assert not run.layout.attempt(1).outcome.exists(), "the run is to show as interrupted"


def test_an_orphan_in_a_long_step_saves_the_step_before_it_within_seconds(make_run: Callable, tmp_path: Path) -> None:
    lifeline = tmp_path / "lifeline"
    os.mkfifo(lifeline)
    run = make_run(slow_step=3, slow_s=60.0, **ONLY_WHEN_ASKED)
    process = run.start(lifeline=lifeline)
    held = os.open(lifeline, os.O_WRONLY)
    run.wait_for_step(2)
    os.close(held)
    process.wait(10)
    assert run.checkpoints()[-1].step == 2


def test_a_signal_while_the_task_is_still_being_built_is_heard(make_run: Callable) -> None:
    run = make_run(build_s=60.0)
    process = run.start()
    run.wait_until(lambda: "building" in run.log)
    run.signal(signal.SIGTERM)
    assert process.wait(20) == 130
    assert (run.outcome.outcome, run.outcome.step) == ("stopped", 0)


def test_a_changed_model_is_one_error_with_the_names(make_run: Callable) -> None:
    run = make_run(epochs=1)
    assert run.run() == 0
    run.edit_config(hidden=20, epochs=2)
    assert run.resume() == 3
    error = run.outcome.error
    assert error is not None
    assert "first.weight (float32 [16, 2] in the checkpoint, float32 [20, 2] now)" in error
    assert run.outcome.traceback is None


def test_a_model_with_other_layers_is_one_error_with_names_and_shapes_on_both_sides(
    make_run: Callable, spiral_file: Path
) -> None:
    run = make_run(epochs=1)
    assert run.run() == 0
    spiral_file.write_text(
        spiral_file.read_text().replace("self.first =", "self.extra = nn.Linear(3, 1); self.begin =")
    )
    spiral_file.write_text(spiral_file.read_text().replace("self.first(", "self.begin("))
    run.edit_config(epochs=2)
    assert run.resume() == 3
    error = str(run.outcome.error)
    assert "4 missing in the checkpoint: begin.bias (float32 [16]), begin.weight (float32 [16, 2]), extra.bias" in error
    assert "2 only in the checkpoint: first.bias (float32 [16]), first.weight (float32 [16, 2])" in error
    assert "\n" not in error
    assert run.outcome.traceback is None


def test_a_resume_with_changed_code_and_threads_says_why_it_may_not_be_bit_identical(
    make_run: Callable, spiral_file: Path
) -> None:
    run = make_run(epochs=1, threads=1)
    assert run.run() == 0
    assert summarize_run(run.layout).environment_changes == ()
    spiral_file.write_text(spiral_file.read_text() + "# a comment\n")
    run.edit_config(epochs=2, threads=2)
    assert run.resume() == 0
    summary = summarize_run(run.layout)
    assert [change.key for change in summary.environment_changes or ()] == ["threads", "code.digest"]
    caveat = (
        "The resume is correct but may not be bit-identical, because the number of threads was 1 and is 2, and the "
        "task's code has changed."
    )
    assert summary.notes == (caveat,)
    assert caveat in run.log


def test_changed_data_is_refused_because_the_order_would_be_another(make_run: Callable) -> None:
    run = make_run(epochs=1)
    assert run.run() == 0
    run.edit_config(samples=61, epochs=2)
    assert run.resume() == 3
    assert "has 61 samples now, but had 60" in str(run.outcome.error)


def test_a_finished_run_that_is_resumed_has_nothing_to_do(make_run: Callable) -> None:
    run = make_run(epochs=1)
    assert run.run() == 0
    digest = run.final_digest()
    assert run.resume() == 0
    assert run.final_digest() == digest


def test_saving_and_the_writer_are_on_record(make_run: Callable) -> None:
    run = make_run(checkpoint_every_s=0.0, checkpoint_every_steps=4, step_s=0.05)
    run.start()
    saving = run.layout.attempt(1).saving
    run.wait_until(lambda: saving.exists() and read_record(saving, SavingState).durable_step is not None)
    state = read_record(saving, SavingState)
    assert state.durable_step is not None
    assert state.durable_step % 4 == 0
    assert state.failure is None
    assert state.saves >= 1
    assert state.bytes_written > 0
    assert state.last_cost_s is not None
    assert read_record(run.layout.attempt(1).writer, ProcessIdentity).pid > 0
    run.kill()


def _read_saving(run: TrainedRun) -> SavingState:
    return read_record(run.layout.attempt(run.attempt).saving, SavingState)


def test_a_run_that_is_over_in_a_moment_has_its_best_and_its_final_checkpoint_by_default(make_run: Callable) -> None:
    run = make_run(checkpoint_every_s=None, epochs=2)
    assert run.run() == 0
    reasons = {one.reason for one in run.store.list().checkpoints}
    assert reasons >= {"final"} and reasons <= {"best", "final"}
    pace = _read_saving(run).pace
    assert pace is not None
    assert (pace.max_loss_s, pace.max_overhead, pace.reason == "fixed") == (300.0, 0.01, False)


def test_the_promise_about_loss_sets_the_pace_and_a_resume_starts_from_what_was_measured(make_run: Callable) -> None:
    run = make_run(checkpoint_every_s=None, max_loss_s=1.0, step_s=0.02, epochs=10_000)
    run.start()
    run.wait_until(lambda: run.step > 0 and _read_saving(run).saves >= 2)
    saved = _read_saving(run).pace
    assert saved is not None
    assert saved.reason == "loss"
    run.kill()
    run.start(reason="resume")
    run.wait_until(run.layout.attempt(2).saving.exists)
    resumed = _read_saving(run).pace
    assert resumed is not None
    assert resumed.durable_s is not None, "before the first checkpoint of this attempt"
    run.kill()


def test_a_config_that_has_an_interval_keeps_it(make_run: Callable) -> None:
    run = make_run(checkpoint_every_s=30.0, checkpoint_every_steps=0, epochs=1)
    assert run.run() == 0
    pace = _read_saving(run).pace
    assert pace is not None
    assert (pace.reason, pace.every_s, pace.interval_s) == ("fixed", 30.0, 30.0)
