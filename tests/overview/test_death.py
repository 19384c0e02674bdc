"""A dead run says what ended it, what that costs, and which one thing to do now."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relight.checkpoints.snapshot_header import SnapshotHeader, TensorRef, TensorSpec
from relight.checkpoints.store import CheckpointStore
from relight.overview.death import Death, GpuUser, explain_death
from relight.runs.process_identity import current_process
from relight.runs.record_file import write_record
from relight.runs.records import ResumeCheck
from tests.runs.run_builder import RunBuilder, dead_process

TRACEBACK = """Traceback (most recent call last):
  File "/home/me/train.py", line 12, in step
    loss = f(x)
ValueError: no
"""
OUT_OF_CARD = (
    "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.68 GiB of "
    "which 1.12 GiB is free. {others}Including non-PyTorch memory, this process has 10.50 GiB memory in use. Of the …"
)


def _commit(run: RunBuilder, step: int) -> RunBuilder:
    header = SnapshotHeader(
        step=step, epoch=0, reason="periodic", time_s=1.0, tensors=[TensorSpec("w", "F32", (1,), 4)],
        state={"w": TensorRef("w")},
    )  # fmt: skip
    store = CheckpointStore(run.layout.checkpoints)
    store.mark_verified(store.commit(header, [memoryview(step.to_bytes(4, "little"))]))
    return run


def _dead(folder: Path, *, step: int = 50, saved: int | None = 40, **start: Any) -> RunBuilder:
    run = RunBuilder.create(folder).start(**start).processes(dead_process(), dead_process())
    run.progress(step, time_s=1000.0, started_s=950.0)
    if saved is not None:
        _commit(run, saved).saving(time_s=1000.0, durable_step=saved, durable_time_s=990.0)
    return run


def _explain(run: RunBuilder) -> Death:
    death = explain_death(run.layout)
    assert death is not None
    return death


def test_an_error_names_the_users_own_line_and_says_to_fix_it_first(tmp_path: Path) -> None:
    run = _dead(tmp_path).exit(
        "crashed", step=50, exit_code=3, error="ValueError: no", reason="ValueError: no", traceback=TRACEBACK
    )
    death = _explain(run)
    assert (death.cause, death.title) == ("exception", "An error ended the training")
    assert death.sentence == "ValueError: no. It was raised at train.py:12, in step."
    assert death.frame is not None
    assert (death.frame.code, death.exit_code, death.signal) == ("loss = f(x)", 3, None)
    assert (death.lost_steps, death.lost_s, death.resume_step, death.resume_verified) == (10, 10.0, 40, True)
    assert (death.advice.action, death.advice.step) == ("fix_then_resume", 40)
    assert death.advice.sentence == (
        "Fix the code at train.py:12, in step. Resume it from step 40; 10 steps (10 s) must be trained again."
    )
    assert [other.action for other in death.alternatives] == ["resume", "branch"]


@pytest.mark.parametrize(
    ("fields", "action"),
    [
        ({"signal": "SIGKILL"}, "resume"),
        ({"signal": "SIGSEGV"}, "resume"),
        ({"signal": "SIGKILL", "out_of_memory": "group"}, "resume"),
        ({"error": "OSError: [Errno 28] No space left on device"}, "free_disk_then_resume"),
        ({"error": OUT_OF_CARD.format(others="")}, "branch"),
        ({"exit_code": 1}, "fix_then_resume"),
        ({}, "resume"),
    ],
)
def test_each_cause_has_one_right_thing_to_do(tmp_path: Path, fields: dict[str, Any], action: str) -> None:
    death = _explain(_dead(tmp_path).exit("crashed", step=50, **fields))
    assert death.advice.action == action
    assert len({(advice.action, advice.step) for advice in (death.advice, *death.alternatives)}) == 1 + len(
        death.alternatives
    )


def test_a_reboot_and_a_stop_are_resumed(tmp_path: Path) -> None:
    before = msgspec.structs.replace(dead_process(), boot_id="the boot before")
    reboot = _explain(_dead(tmp_path).processes(before, before))
    assert (reboot.title, reboot.advice.action, reboot.frame) == ("The machine was restarted", "resume", None)
    stopped = _explain(_dead(tmp_path, step=40).exit("stopped", step=40, reason="Stopped by request."))
    assert (stopped.title, stopped.sentence) == ("Stopped by you", "Stopped by request.")
    assert stopped.advice.sentence == "Resume it from step 40: nothing is lost."


def test_without_a_checkpoint_it_begins_again(tmp_path: Path) -> None:
    death = _explain(_dead(tmp_path, saved=None).exit("crashed", signal="SIGKILL", step=50))
    assert (death.resume_step, death.resume_verified, death.advice.step) == (None, False, None)
    assert "starts from the beginning" in death.advice.sentence
    assert death.alternatives == ()


def test_who_used_the_card_is_named_with_its_run(tmp_path: Path) -> None:
    rival = RunBuilder.create(tmp_path).start().processes(current_process(), current_process())
    others = f"Process {current_process().pid} has 12.00 GiB memory in use. Process 7 has 300.00 MiB memory in use. "
    run = _dead(tmp_path).exit("crashed", step=50, error=OUT_OF_CARD.format(others=others))
    death = _explain(run)
    assert death.gpu_users == (
        GpuUser(pid=current_process().pid, bytes=12 << 30, run=rival.layout.run_id),
        GpuUser(pid=None, bytes=int(10.5 * (1 << 30))),
        GpuUser(pid=7, bytes=300 << 20),
    )
    assert death.advice.action == "free_gpu_then_resume"
    assert f"run {rival.layout.run_id} used 12.9 GB" in death.advice.sentence
    small = OUT_OF_CARD.format(others="Process 7 has 300.00 MiB memory in use. ")
    assert _explain(_dead(tmp_path).exit("crashed", step=50, error=small)).advice.action == "branch"


def test_memory_that_ran_out_twice_needs_a_change(tmp_path: Path) -> None:
    run = _dead(tmp_path).exit("crashed", step=50, signal="SIGKILL", out_of_memory="machine")
    run.start(from_step=40).processes(dead_process(), dead_process()).progress(50, started_s=950.0, time_s=1000.0)
    run.exit("crashed", step=50, signal="SIGKILL", out_of_memory="machine")
    death = _explain(run)
    assert (death.advice.action, death.was_resumed) == ("branch", True)


def test_a_loss_that_became_nan_leads_back_to_the_last_healthy_checkpoint(tmp_path: Path) -> None:
    run = _dead(tmp_path, saved=None)
    for step in (10, 20, 40):
        _commit(run, step)
    run.log("train", {step: {"loss": 1.0 if step < 30 else math.nan} for step in range(1, 51)})
    death = _explain(run.exit("crashed", step=50, error="ValueError: NaN", traceback=TRACEBACK))
    assert death.non_finite is not None
    assert (death.non_finite.since_step, death.resume_step) == (30, 40)
    assert (death.advice.action, death.advice.step) == ("branch", 20)
    assert [(other.action, other.step) for other in death.alternatives] == [("resume", 40), ("branch", 40)]
    hopeless = _dead(tmp_path).log("train", {step: {"loss": math.nan} for step in range(1, 51)})
    assert _explain(hopeless.exit("crashed", step=50)).advice.action == "launch"


def test_what_the_last_resume_proved_is_part_of_it(tmp_path: Path) -> None:
    run = _dead(tmp_path).exit("crashed", step=50).start(from_step=40)
    run.processes(dead_process(), dead_process()).progress(45).exit("crashed", step=45, signal="SIGKILL")
    assert (_explain(run).was_resumed, _explain(run).resume_check) == (True, None)
    check = ResumeCheck(attempt=2, time_s=1.0, verdict="exact", against=1, equal_steps=5, sentence="Resume verified.")
    write_record(run.files.resume_check, check)
    assert _explain(run).resume_check == check


@pytest.mark.parametrize(
    "build",
    [
        lambda run: run.finished(),
        lambda run: run.start().processes(current_process(), current_process()),
        lambda run: run,
    ],
)
def test_a_live_or_finished_run_is_not_dead(tmp_path: Path, build: Callable[[RunBuilder], object]) -> None:
    run = RunBuilder.create(tmp_path)
    build(run)
    assert explain_death(run.layout) is None
