"""The two trainings of a drill: one is killed with `kill -9` in mid-epoch and resumed, the other runs undisturbed."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from relight.checkpoints.listing import newest_durable
from relight.drill.temporary_runs import read_trainer, send_signal
from relight.errors import RelightError
from relight.runs.fingerprint import read_environment
from relight.runs.layout import RunLayout
from relight.runs.process_identity import is_alive
from relight.runs.progress import Progress, read_progress
from relight.runs.record_file import read_record, read_record_if_there
from relight.runs.records import AttemptExit, AttemptProcesses, AttemptStart, PreparedTask
from relight.supervision.launch import launch_run
from relight.supervision.resume import resume_run

_SAVE_EVERY_STEPS = 11
"""A prime, so rarely a whole number of epochs: the kill should come in the middle of one."""
_WATCH_S = 0.002
"""Between two looks at the trainer while waiting for the moment to kill it."""
_WAIT_S = 0.02
"""Between two looks when nothing is urgent."""
_NUDGE_S = 0.01
"""How long the trainer runs on before the next attempt to kill it."""

Tell = Callable[[str], None]


class DrillFailed(RelightError):
    """The drill could not be completed: the training crashed, or was too slow. `traceback` is the trainer's."""

    exit_code = 3

    def __init__(self, message: str, *, traceback: str | None = None) -> None:
        super().__init__(message)
        self.traceback = traceback


@dataclass(frozen=True)
class DrillPlan:
    """What both trainings do. `task.config` is the config to launch them with; `timeout_s` bounds each training."""

    task: PreparedTask
    max_steps: int
    checkpoint_every_steps: int
    timeout_s: float

    def count_steps_per_epoch(self, progress: Progress) -> int:
        """Return the optimizer steps in an epoch; 0 when unknown."""
        accumulate = max(1, int(self.task.config.get("accumulate") or 1)) if not _is_script(self.task) else 1
        return -(-progress.batches // accumulate)


@dataclass(frozen=True)
class ResumedRun:
    """The run that was killed and resumed, after it finished."""

    layout: RunLayout
    killed_at_step: int
    from_step: int
    steps_per_epoch: int
    """0 when unknown."""

    @property
    def mid_epoch(self) -> bool:
        """Whether it was resumed in the middle of an epoch."""
        return _is_mid_epoch(self.from_step, self.steps_per_epoch)


def plan_drill(task: PreparedTask, *, steps: int, timeout_s: float) -> DrillPlan:
    """Plan trainings of at most `steps` steps, with checkpoints at fixed steps, and keep all of these checkpoints."""
    limit = 0 if _is_script(task) else task.config.get("max_steps") or 0
    steps = min(steps, limit) if limit > 0 else steps
    every = max(1, min(_SAVE_EVERY_STEPS, steps // 3))
    settings = {
        "max_steps": steps,
        "checkpoint_every_s": 0.0,
        "checkpoint_every_steps": every,
        "keep_latest": max(2, steps // every + 2),
    }
    config: dict[str, Any]
    if _is_script(task):
        # A script that does not seed its generators would never train twice alike.
        settings = {"seed": 0, **settings}
        config = {**{f"relight.{key}": value for key, value in settings.items()}, **task.config}
    else:
        config = {**task.config, **settings}
    return DrillPlan(msgspec.structs.replace(task, config=config), steps, every, timeout_s)


def train_both(runs: Path, plan: DrillPlan, *, tell: Tell) -> tuple[ResumedRun, RunLayout] | None:
    """Train once with a kill and a resume, and once without; None when the first ended before it could be killed."""
    tell(f"Training {plan.task.reference.name} for {plan.max_steps} steps; it will be killed on the way.")
    killed = _launch(runs, plan, "killed")
    killed_at_step = _kill_after_checkpoint(killed, plan)
    if killed_at_step is None:
        return None
    uninterrupted = None
    if is_on_cpu(killed):  # on a GPU, two models at once may not fit in memory
        tell("Training the same without a kill, at the same time.")
        uninterrupted = _launch(runs, plan, "uninterrupted")
    resumed = _resume(killed, killed_at_step, plan, tell=tell)
    if uninterrupted is None:
        tell("Training the same without a kill.")
        uninterrupted = _launch(runs, plan, "uninterrupted")
    _finish(uninterrupted, 1, plan)
    return resumed, uninterrupted


def is_on_cpu(layout: RunLayout) -> bool:
    """Return whether the first attempt of a run trained on the CPU."""
    return (read_environment(layout.attempt(1).environment) or {}).get("device") == "cpu"


def _launch(runs: Path, plan: DrillPlan, name: str) -> RunLayout:
    return launch_run(runs, plan.task, name=name).layout


def _resume(layout: RunLayout, killed_at_step: int, plan: DrillPlan, *, tell: Tell) -> ResumedRun:
    """Resume the killed run in a new process and train it to the end."""
    attempt = resume_run(layout).attempt
    from_step = read_record(layout.attempt(attempt).start, AttemptStart).from_step
    tell(f"Killed (kill -9) at step {killed_at_step}. A new process resumes from the checkpoint at step {from_step}.")
    progress = _finish(layout, attempt, plan)
    return ResumedRun(layout, killed_at_step, from_step, plan.count_steps_per_epoch(progress))


def _finish(layout: RunLayout, attempt: int, plan: DrillPlan) -> Progress:
    """Wait until the attempt has finished; raise `DrillFailed` when it ends in any other way."""
    ended = _wait(layout, attempt, plan, lambda: False, every_s=_WAIT_S)
    _require_finished(plan, ended)
    return read_progress(layout.attempt(attempt).progress) or Progress()


def _kill_after_checkpoint(layout: RunLayout, plan: DrillPlan) -> int | None:
    """Kill the trainer after a durable checkpoint; return its last step, or None when it ended first.

    The trainer is halted (SIGSTOP) while its writer makes the checkpoint durable, so the kill comes in the middle of
    the training, no matter how fast it is.
    """
    attempt = layout.attempt(1)

    def is_past_checkpoint() -> bool:
        progress = read_progress(attempt.progress)
        return progress is not None and progress.step > plan.checkpoint_every_steps

    ended = _wait(layout, 1, plan, is_past_checkpoint, every_s=_WATCH_S)
    trainer = read_trainer(layout, 1)
    if ended is not None or trainer is None:
        _require_finished(plan, ended)
        return None
    deadline = time.monotonic() + plan.timeout_s
    while is_alive(trainer) and time.monotonic() < deadline:
        send_signal(trainer, signal.SIGSTOP)
        progress = read_progress(attempt.progress) or Progress()
        if progress.phase == "finished":
            send_signal(trainer, signal.SIGCONT)
            return None
        if _wait_for_checkpoint(layout, progress, plan):
            send_signal(trainer, signal.SIGKILL)
            _wait(layout, 1, plan, lambda: False, every_s=_WAIT_S)
            return progress.step
        send_signal(trainer, signal.SIGCONT)
        time.sleep(_NUDGE_S)
    return None


def _wait_for_checkpoint(layout: RunLayout, progress: Progress, plan: DrillPlan) -> bool:
    """Return whether a checkpoint before the halted step becomes durable within 1 s, in mid-epoch where possible."""
    per_epoch = plan.count_steps_per_epoch(progress)
    any_will_do = per_epoch > 0 and plan.checkpoint_every_steps % per_epoch == 0
    deadline = time.monotonic() + 1.0
    while True:
        newest = newest_durable(layout.checkpoints)
        if newest is not None and newest[1] < progress.step and (any_will_do or _is_mid_epoch(newest[1], per_epoch)):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_WATCH_S)


def _wait(
    layout: RunLayout, attempt: int, plan: DrillPlan, holds: Callable[[], bool], *, every_s: float
) -> AttemptExit | None:
    """Wait until `holds` is true or the attempt has ended; return its exit record then.

    Raise `DrillFailed` when the supervisor was killed or the time is up.
    """
    files = layout.attempt(attempt)
    deadline = time.monotonic() + plan.timeout_s
    while True:
        processes = read_record_if_there(files.processes, AttemptProcesses)
        lost = processes is not None and not is_alive(
            processes.supervisor
        )  # checked before the exit record, which it writes last
        if holds():
            return None
        ended = read_record_if_there(files.exit, AttemptExit)
        if ended is not None:
            return ended
        if lost:
            raise DrillFailed(f"The supervisor of the drill's run {layout.run_id} was killed. Run the drill again.")
        if time.monotonic() > deadline:
            raise DrillFailed(
                f"{plan.task.reference.name} took longer than {plan.timeout_s:.0f} s. Use fewer steps (--steps) or "
                "allow more time (--timeout)."
            )
        time.sleep(every_s)


def _require_finished(plan: DrillPlan, ended: AttemptExit | None) -> None:
    if ended is not None and ended.outcome != "finished":
        reason = ended.error or ended.reason or ended.outcome
        raise DrillFailed(
            f"{plan.task.reference.name} {ended.outcome} at step {ended.step}, so there is nothing to compare: "
            f"{reason}",
            traceback=ended.traceback,
        )


def _is_script(task: PreparedTask) -> bool:
    return task.reference.kind == "script"


def _is_mid_epoch(step: int, steps_per_epoch: int) -> bool:
    return steps_per_epoch <= 0 or step % steps_per_epoch != 0
