"""The trainings of a drill: one that is killed -9 in mid-epoch and resumed, and one that is left in peace."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from relight.checkpoints.listing import newest_durable
from relight.errors import DamagedFile, RelightError
from relight.runs.layout import RunLayout
from relight.runs.lock import is_locked
from relight.runs.process_identity import current_process, is_alive
from relight.runs.progress import Progress, read_progress
from relight.runs.record_file import read_record, read_record_if_there, write_record
from relight.runs.records import AttemptExit, AttemptProcesses, AttemptStart, ProcessIdentity, TaskReference
from relight.supervision.launch import launch_run
from relight.supervision.orphans import Leftovers
from relight.supervision.resume import resume_run
from relight.supervision.stop import stop_run

_SAVE_EVERY_STEPS = 11
"""A prime, so that it is rarely a whole number of epochs: the kill should come in the middle of one."""
_POLL_S = 0.002
"""While the trainer is watched for the moment to kill it."""
_LEISURE_S = 0.02
"""While there is nothing to hurry for."""
_NUDGE_S = 0.01
_CLOSING_S = 60.0
_TEMPORARY = ".drill-"
_OWNER = ".owner.json"
"""Names the process that holds the drill, in its folder, so that another one can tell what a dead one left."""

Tell = Callable[[str], None]
T = TypeVar("T")


class DrillFailed(RelightError):
    """The drill could not be held: the training itself crashed or never got as far. `traceback` is the trainer's."""

    exit_code = 3

    def __init__(self, message: str, *, traceback: str | None = None) -> None:
        super().__init__(message)
        self.traceback = traceback


@dataclass(frozen=True)
class DrillTask:
    """What a drill trains, and how long each of its trainings may take.

    Of a script `config` is what the drill wants of `relight.init`, and `sets` what a person sets beside that.
    """

    reference: TaskReference
    config: Mapping[str, Any]
    best_metric: str | None
    higher_is_better: bool
    timeout_s: float
    sets: Mapping[str, Any] = field(default_factory=dict)

    @property
    def launch_config(self) -> dict[str, Any]:
        """The config to launch it with. A script that does not seed its generators would never train alike twice."""
        if self.reference.kind != "script":
            return dict(self.config)
        wanted = {f"relight.{key}": value for key, value in {"seed": 0, **self.config}.items()}
        return {**wanted, **self.sets}


@dataclass(frozen=True)
class KilledRun:
    """The run that was killed. `on_cpu` when no accelerator's memory is at stake."""

    layout: RunLayout
    killed_at_step: int
    on_cpu: bool


@dataclass(frozen=True)
class ResumedRun:
    """The run that was killed and brought back."""

    layout: RunLayout
    killed_at_step: int
    from_step: int
    steps_per_epoch: int
    """0 when not known."""

    @property
    def mid_epoch(self) -> bool:
        """Whether it was resumed in the middle of an epoch."""
        return _is_mid_epoch(self.from_step, self.steps_per_epoch)


def plan_config(config: Mapping[str, Any], *, steps: int) -> dict[str, Any]:
    """The config of both trainings: `steps` steps at most, with checkpoints at fixed steps, all of them kept."""
    limit = config.get("max_steps") or 0
    steps = min(steps, limit) if limit > 0 else steps
    every = max(1, min(_SAVE_EVERY_STEPS, steps // 3))
    return {
        **config,
        "max_steps": steps,
        "checkpoint_every_s": 0.0,
        "checkpoint_every_steps": every,
        "keep_latest": max(2, steps // every + 2),
    }


@contextlib.contextmanager
def make_temporary_runs(folder: Path | None, *, keep: bool = False) -> Iterator[Path]:
    """A hidden runs folder in `folder` (else the system's); at the end what runs in it is ended, and it is removed."""
    runs = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=folder))
    owner = runs / _OWNER
    try:
        write_record(owner, current_process(), durable=False)
        yield runs
    finally:
        _end_all(runs)
        owner.unlink(missing_ok=True)
        if not keep:
            shutil.rmtree(runs, ignore_errors=True)


def sweep_leftovers(folder: Path) -> None:
    """Remove what drills left in a runs folder whose own process was killed, and end what still runs there."""
    for runs in folder.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(DamagedFile, OSError):
            owner = read_record_if_there(runs / _OWNER, ProcessIdentity)
            if owner is not None and not is_alive(owner):
                _end_all(runs)
                shutil.rmtree(runs, ignore_errors=True)


def _end_all(runs: Path) -> None:
    for path in runs.iterdir():
        if path.is_dir():
            _end(RunLayout(path))


def train_and_kill(runs: Path, task: DrillTask) -> KilledRun | None:
    """Train, and kill -9 after a checkpoint; None when it was over before it could be killed."""
    layout = _launch(runs, task, "killed")
    killed_at = _kill_after_checkpoint(layout, task)
    return None if killed_at is None else KilledRun(layout, killed_at, _is_on_cpu(layout))


def resume_killed(killed: KilledRun, task: DrillTask, *, tell: Tell) -> ResumedRun:
    """Bring the run back in a new process, and train it to the end."""
    layout = killed.layout
    launched = resume_run(layout)
    start = read_record(layout.attempt(launched.attempt).start, AttemptStart)
    tell(
        f"Killed -9 at step {killed.killed_at_step}; "
        f"a new process resumes from the checkpoint at step {start.from_step}."
    )
    progress = finish(layout, launched.attempt, task)
    return ResumedRun(layout, killed.killed_at_step, start.from_step, _steps_per_epoch(progress, task.config))


def launch_uninterrupted(runs: Path, task: DrillTask) -> RunLayout:
    """Start the same training once more, to be left in peace."""
    return _launch(runs, task, "uninterrupted")


def finish(layout: RunLayout, attempt: int, task: DrillTask) -> Progress:
    """Wait until the attempt has finished, and say why when it has not."""
    files = layout.attempt(attempt)
    ended = _wait(layout, attempt, task, lambda: read_record_if_there(files.exit, AttemptExit), until_end=True)
    assert ended is not None
    if ended.outcome != "finished":
        raise _failed(task, ended)
    return read_progress(files.progress) or Progress()


def _launch(runs: Path, task: DrillTask, name: str) -> RunLayout:
    return launch_run(
        runs,
        task=task.reference,
        config=task.launch_config,
        best_metric=task.best_metric,
        higher_is_better=task.higher_is_better,
        name=name,
    ).layout


def _kill_after_checkpoint(layout: RunLayout, task: DrillTask) -> int | None:
    """Kill -9 the trainer once it has gone past a durable checkpoint; returns its last step, None when it ended first.

    The trainer is halted (SIGSTOP) while its writer makes the checkpoint durable, so that however fast it is, the kill
    comes in the middle of the training.
    """
    attempt = layout.attempt(1)
    trainer = _wait(layout, 1, task, lambda: _trainer_of(layout, 1))
    if trainer is None:
        return None
    every = task.config["checkpoint_every_steps"]
    _wait(layout, 1, task, lambda: (read_progress(attempt.progress) or Progress()).step > every or None)
    deadline = time.monotonic() + task.timeout_s
    while is_alive(trainer) and time.monotonic() < deadline:
        _send(trainer, signal.SIGSTOP)
        progress = read_progress(attempt.progress) or Progress()
        if progress.phase == "finished":
            _send(trainer, signal.SIGCONT)
            return None
        if _wait_for_checkpoint(layout, progress, task):
            _send(trainer, signal.SIGKILL)
            _wait(layout, 1, task, lambda: read_record_if_there(attempt.exit, AttemptExit), until_end=True)
            return progress.step
        _send(trainer, signal.SIGCONT)
        time.sleep(_NUDGE_S)
    return None


def _wait_for_checkpoint(layout: RunLayout, progress: Progress, task: DrillTask) -> bool:
    """Whether the halted trainer has gone past a checkpoint that is durable within 1 s, in mid-epoch if any can be."""
    per_epoch = _steps_per_epoch(progress, task.config)
    any_will_do = per_epoch > 0 and task.config["checkpoint_every_steps"] % per_epoch == 0
    deadline = time.monotonic() + 1.0
    while True:
        newest = newest_durable(layout.checkpoints)
        if newest is not None and newest[1] < progress.step and (any_will_do or _is_mid_epoch(newest[1], per_epoch)):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)


def _wait(
    layout: RunLayout, attempt: int, task: DrillTask, look: Callable[[], T | None], *, until_end: bool = False
) -> T | None:
    """Poll `look` until it finds something; None when the attempt finished first, and a crash raises.

    With `until_end` it is the end that `look` looks for.
    """
    files = layout.attempt(attempt)
    deadline = time.monotonic() + task.timeout_s
    while True:
        processes = read_record_if_there(files.processes, AttemptProcesses)
        lost = processes is not None and not is_alive(processes.supervisor)
        found = look()
        if found is not None:
            return found
        ended = None if until_end else read_record_if_there(files.exit, AttemptExit)
        if ended is not None:
            if ended.outcome == "finished":
                return None
            raise _failed(task, ended)
        if lost:
            raise DrillFailed(f"The supervisor of the drill's run {layout.run_id} was killed. Hold the drill again.")
        if time.monotonic() > deadline:
            raise DrillFailed(
                f"{task.reference.name} did not get on within {task.timeout_s:.0f} s: take fewer steps with --steps, "
                "or more time with --timeout."
            )
        time.sleep(_LEISURE_S if until_end else _POLL_S)


def _end(layout: RunLayout) -> None:
    """End whatever still runs, halted or not, and wait until it has."""
    number = layout.latest_attempt()
    trainer = _trainer_of(layout, number)
    if is_locked(layout):
        with contextlib.suppress(RelightError):
            stop_run(layout, now=True)
        if trainer is not None:
            _send(trainer, signal.SIGKILL)
    leftovers = Leftovers(layout, number)
    deadline = time.monotonic() + _CLOSING_S
    while is_locked(layout) and time.monotonic() < deadline:
        leftovers.end_orphans()
        time.sleep(_LEISURE_S)


def _send(trainer: ProcessIdentity, number: signal.Signals) -> None:
    if is_alive(trainer):
        with contextlib.suppress(ProcessLookupError):
            os.kill(trainer.pid, number)


def _is_on_cpu(layout: RunLayout) -> bool:
    try:
        environment = msgspec.json.decode(layout.attempt(1).environment.read_bytes())
    except (OSError, msgspec.MsgspecError):
        return False
    return isinstance(environment, dict) and environment.get("device") == "cpu"


def _trainer_of(layout: RunLayout, attempt: int) -> ProcessIdentity | None:
    processes = read_record_if_there(layout.attempt(attempt).processes, AttemptProcesses)
    return None if processes is None else processes.trainer


def _failed(task: DrillTask, ended: AttemptExit) -> DrillFailed:
    reason = ended.error or ended.reason or ended.outcome
    return DrillFailed(
        f"{task.reference.name} {ended.outcome} at step {ended.step}, so there is nothing to compare: {reason}",
        traceback=ended.traceback,
    )


def _steps_per_epoch(progress: Progress, config: Mapping[str, Any]) -> int:
    """Optimizer steps in an epoch; 0 when not known."""
    accumulate = max(1, int(config.get("accumulate") or 1))
    return -(-progress.batches // accumulate)


def _is_mid_epoch(step: int, steps_per_epoch: int) -> bool:
    return steps_per_epoch <= 0 or step % steps_per_epoch != 0
