"""What a watched run's folder turns into: each fact once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from relight.cli.ending import choose_exit_code, word_ending
from relight.metrics.writer import MetricWriter
from relight.overview.story import RunStory
from relight.overview.summary import summarize_run
from relight.runs.process_identity import current_process
from relight.runs.progress import Phase, Progress, ProgressFile
from relight.runs.record_file import read_record, write_record
from relight.runs.records import AttemptProcesses, AttemptStart, SavingState
from relight.runs.status import RunStatus

if TYPE_CHECKING:
    from tests.cli.conftest import RunMaker


def test_each_validation_and_each_new_checkpoint_is_told_once(make_run: RunMaker) -> None:
    layout = make_run(outcome=None, step=23)
    story = RunStory(layout, attempt=1)
    told = [line.text for line in story.poll()]
    assert [text.split("  ")[0] for text in told] == ["epoch 1/2", "epoch 2/2"]
    # The loss of that step, although rows of the next epoch have been read by then.
    assert "train/loss 1.1 " in told[0] and "validation/accuracy 0.9" in told[0]
    assert "train/loss 1.05 " in told[1]
    assert story.poll() == []
    make_run.commit(layout, step=30, score=0.8)
    (line,) = story.poll()
    assert (line.kind, line.text.split(" (")[0]) == ("checkpoint", "checkpoint at step 30")
    assert story.poll() == []


def test_what_earlier_attempts_logged_is_no_news(make_run: RunMaker) -> None:
    layout = make_run(outcome=None, step=23)
    layout.attempt(2).folder.mkdir()
    write_record(layout.attempt(2).start, AttemptStart(attempt=2, time_s=1.0, reason="resume", from_step=20))
    assert RunStory(layout, attempt=2).poll() == []


def test_failing_saves_are_told_when_they_begin_and_when_they_end(make_run: RunMaker) -> None:
    layout = make_run(outcome=None, step=23)
    story = RunStory(layout, attempt=1)
    story.poll()
    path = layout.attempt(1).saving
    good = read_record(path, SavingState)
    write_record(path, msgspec.structs.replace(good, failure="The disk is full."))
    (line,) = story.poll()
    assert line.kind == "trouble"
    assert line.text.startswith("Checkpoints fail, training continues: The disk is full. At risk: 3 steps, ")
    assert story.poll() == []
    write_record(path, good)
    assert [line.text for line in story.poll()] == ["Checkpoints are being saved again."]


def test_a_loss_that_becomes_nan_is_told_once(make_run: RunMaker) -> None:
    layout = make_run(outcome=None, step=9)
    writer = MetricWriter(layout.metrics, stream="train", attempt=1)
    story = RunStory(layout, attempt=1)
    story.poll()
    (layout.metrics / "0001-train.rlm").unlink()
    writer.log(9, {"loss": 1.0, "lr": 0.1})
    writer.log(10, {"loss": math.nan, "lr": 0.1})
    (line,) = story.poll()
    assert (line.kind, line.text) == (
        "trouble",
        "train/loss is NaN since step 10, and no checkpoint is from before that.",
    )
    writer.log(11, {"loss": math.nan, "lr": 0.1})
    writer.close()
    assert story.poll() == []


def test_what_may_keep_a_resume_from_being_bit_identical_is_told_once(make_run: RunMaker) -> None:
    layout = make_run(outcome=None, step=23)
    story = RunStory(layout, attempt=1)
    story.poll()
    layout.attempt(1).environment.write_text('{"changes": [{"key": "threads", "before": 2, "now": 4}]}')
    (line,) = story.poll()
    assert line.kind == "trouble"
    assert line.text.endswith("may not be bit-identical, because the number of threads was 2 and is 4.")
    assert story.poll() == []


def test_a_restart_is_told_with_its_reason(make_run: RunMaker) -> None:
    layout = make_run(outcome=None, step=23)
    story = RunStory(layout, attempt=1)
    story.poll()
    start = AttemptStart(attempt=2, time_s=1.0, reason="restart", from_step=20, notes=("Restarted automatically.",))
    layout.attempt(2).folder.mkdir()
    write_record(layout.attempt(2).start, start)
    (line,) = story.poll()
    assert (line.kind, line.text) == ("trouble", "Attempt 2 starts. Restarted automatically.")


def test_the_end_says_what_to_do_next(make_run: RunMaker) -> None:
    finished = summarize_run(make_run("a"))
    assert word_ending(finished, suffix=" --runs X") == [
        f"{finished.run} finished at step 20 of 20.",
        "Best validation/accuracy 0.95 at step 20.",
        f"Best weights: relight export {finished.run} --runs X",
    ]
    unscored = msgspec.structs.replace(finished, best=None, best_missing="No checkpoint is the best one.")
    assert word_ending(unscored)[1:] == [
        "No checkpoint is the best one.",
        f"Weights: relight export {finished.run} --which latest",
    ]
    crashed = summarize_run(make_run("b", outcome="crashed", step=23, reason="Killed by SIGKILL."))
    assert word_ending(crashed)[0] == f"{crashed.run} crashed at step 23 of 20: Killed by SIGKILL."
    assert word_ending(crashed)[2].startswith("The last checkpoint is at step 20: 3 steps (")
    assert word_ending(crashed)[-1] == f"Resume: relight resume {crashed.run}"
    unsaved = summarize_run(make_run("c", outcome="crashed", step=5))
    assert "There is no checkpoint, so a resume starts from the beginning." in word_ending(unsaved)


def test_exit_codes_are_those_of_the_contract(make_run: RunMaker) -> None:
    codes = {
        outcome: choose_exit_code(summarize_run(make_run(outcome, outcome=outcome)))
        for outcome in ("finished", "stopped", "crashed")
    }
    assert codes == {"finished": 0, "stopped": 130, "crashed": 3}
    interrupted = make_run("interrupted", outcome=None)
    me = current_process()
    gone = msgspec.structs.replace(me, start_ticks=me.start_ticks - 1)
    write_record(interrupted.attempt(1).processes, AttemptProcesses(supervisor=gone, trainer=gone))
    assert summarize_run(interrupted).status is RunStatus.INTERRUPTED
    assert choose_exit_code(summarize_run(interrupted)) == 3


_STEPS: list[tuple[int, int, Phase]] = [
    (3, 0, "training"),
    (10, 1, "training"),
    (12, 1, "training"),
    (13, 1, "training"),
    (20, 1, "finished"),
]


def test_a_run_without_validation_tells_each_epoch_from_its_progress(make_run: RunMaker) -> None:
    layout = make_run(outcome=None, step=5)
    file = ProgressFile(layout.attempt(1).progress)
    story = RunStory(layout, attempt=1)
    told = []
    for step, epoch, phase in _STEPS:
        file.write(Progress(step=step, steps_total=20, epoch=epoch, epochs=2, batches=10, phase=phase))
        told.append([line.text.split("  ")[:2] for line in story.poll()])
    file.close()
    assert told == [[], [], [["epoch 1/2", "step 10/20"]], [], [["epoch 2/2", "step 20/20"]]]
