"""The trainings of a drill: one undisturbed, one that is killed twice in an epoch, one that is killed in a validation.

The trainers kill themselves at steps that the drill has chosen, so even a script that is over in a tenth of a second is
killed in mid-training.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any

import msgspec

from relight.checkpoints.listing import newest_durable
from relight.drill.kill_places import StepsSeen, choose_first, choose_second, choose_validation, read_steps
from relight.drill.temporary_runs import read_trainer, send_signal
from relight.errors import RelightError
from relight.machine.gpu import GpuReader
from relight.runs.catalog import create_run
from relight.runs.decoders import prepare_decoders
from relight.runs.fingerprint import read_environment
from relight.runs.layout import RunLayout
from relight.runs.process_identity import is_alive
from relight.runs.progress import Progress, read_progress
from relight.runs.record_file import read_record_if_there, read_record_or_none, write_record
from relight.runs.records import (
    ENDED_BY_DRILL,
    AttemptExit,
    AttemptProcesses,
    DrillOrder,
    PreparedTask,
    TrainerOutcome,
)
from relight.supervision.launch import launch_run
from relight.supervision.resume import resume_run
from relight.wording import count

_CHECKPOINTS = 9
"""How many periodic checkpoints the longest training has, about."""
_WAIT_S = 0.02

Tell = Callable[[str], None]
Choose = Callable[["Kill | None"], DrillOrder]


class DrillFailed(RelightError):
    """The drill could not be completed: the training crashed, or was too slow. `traceback` is the trainer's."""

    exit_code = 3

    def __init__(self, message: str, *, traceback: str | None = None) -> None:
        super().__init__(message)
        self.traceback = traceback


@dataclass(frozen=True)
class DrillPlan:
    """What all trainings of a drill do. `task.config` is the config to launch them with."""

    task: PreparedTask
    end_step: int
    """A longer training is ended here."""
    end_after_s: float
    """A training that takes longer is ended then; 0 for never."""
    timeout_s: float
    """Bounds each training."""
    nproc: int
    """Number of ranks of each training."""
    tell: Tell
    """Receives a sentence at each stage, from one thread at a time."""
    cancelled: Event = field(default_factory=Event)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.reference.name

    @property
    def is_script(self) -> bool:
        """Whether a script is drilled, and not a task."""
        return self.task.reference.kind == "script"

    def limit(self, order: DrillOrder) -> DrillOrder:
        """Let the order's training end when it is long."""
        return msgspec.structs.replace(order, end_step=self.end_step, end_after_s=self.end_after_s)


@dataclass(frozen=True)
class Kill:
    """One kill, and the step from which the training was resumed."""

    step: int
    from_step: int
    in_validation: bool = False
    rank: int | None = None
    """Of several ranks, the one that was killed."""

    def __str__(self) -> str:
        which = "" if self.rank is None else f"rank {self.rank} "
        return f"{which}{'in the validation after' if self.in_validation else 'at'} step {self.step}"


@dataclass(frozen=True)
class KilledRun:
    """A run that was killed and resumed until it ended; `kills` are in order."""

    layout: RunLayout
    kills: tuple[Kill, ...]


@dataclass(frozen=True)
class WholeRun:
    """The run that was not killed; `cut_off` says that the drill ended it, because it is long."""

    layout: RunLayout
    steps: StepsSeen
    cut_off: bool

    def limit(self, order: DrillOrder) -> DrillOrder:
        """Let the order's training end where this run has ended."""
        return msgspec.structs.replace(order, end_step=self.steps.count if self.cut_off else 0)


@dataclass(frozen=True)
class Trainings:
    """All trainings of a drill, after their end; `killed` has no run that ended before it could be killed."""

    whole: WholeRun
    killed: tuple[KilledRun, ...]


def plan_drill(
    task: PreparedTask,
    *,
    steps: int,
    seconds: float = 0.0,
    timeout_s: float,
    nproc: int = 1,
    tell: Tell = lambda text: None,
) -> DrillPlan:
    """Plan trainings that end as they would without a drill, but after `steps` steps or `seconds` at the latest.

    Checkpoints are made at fixed steps, and all of them are kept.
    """
    settings = {
        "checkpoint_every_s": 0.0,
        "checkpoint_every_steps": max(1, steps // _CHECKPOINTS),
        "keep_latest": _CHECKPOINTS + 4,
    }
    config: dict[str, Any]
    if task.reference.kind == "script":
        # A script that does not seed its generators would never train twice alike.
        settings = {"seed": 0, **settings}
        config = {**{f"relight.{key}": value for key, value in settings.items()}, **task.config}
    else:
        config = {**task.config, **settings}
    lock = Lock()

    def tell_one(sentence: str) -> None:
        with lock:
            tell(sentence)

    return DrillPlan(msgspec.structs.replace(task, config=config), steps, seconds, timeout_s, nproc, tell_one)


def train_all(runs: Path, plan: DrillPlan) -> Trainings:
    """Train once without a kill, and twice with kills and resumes; two at a time, unless they may share a GPU."""
    ranks = f" with {count(plan.nproc, 'rank')}" if plan.nproc > 1 else ""
    plan.tell(f"Training {plan.name}{ranks} without a kill, and again with kills.")
    prepare_decoders()
    pool = ThreadPoolExecutor(1 if _has_gpu() else 2, thread_name_prefix="drill")
    try:
        whole = pool.submit(_train_undisturbed, runs, plan)
        last_rank = plan.nproc - 1  # the first and the last rank die in turn

        def kill_early(last: Kill | None) -> DrillOrder:
            return plan.limit(msgspec.structs.replace(choose_first(), rank=last_rank))

        def kill_again(last: Kill | None) -> DrillOrder:
            assert last is not None
            steps = whole.result().steps
            return whole.result().limit(choose_second(steps, killed_at=last.step, from_step=last.from_step))

        def kill_in_validation(last: Kill | None) -> DrillOrder:
            order = choose_validation(whole.result().steps)
            return whole.result().limit(msgspec.structs.replace(order, rank=last_rank))

        def train_on(last: Kill | None) -> DrillOrder:
            return whole.result().limit(DrillOrder())

        lanes = [
            pool.submit(_train_killed, runs, plan, "killed-twice", [kill_early, kill_again, train_on]),
            pool.submit(_train_killed, runs, plan, "killed-once", [kill_in_validation, train_on]),
        ]
        killed = [lane.result() for lane in lanes]
        return Trainings(whole.result(), tuple(run for run in killed if run.kills))
    finally:
        plan.cancelled.set()
        pool.shutdown(cancel_futures=True)


def is_on_cpu(layout: RunLayout) -> bool:
    """Return whether the first attempt of a run trained on the CPU."""
    return (read_environment(layout.attempt(1).environment) or {}).get("device") == "cpu"


def _has_gpu() -> bool:
    """Return whether a training may use a GPU, whose memory may be too small for two models."""
    reader = GpuReader()
    try:
        return reader.open() is None
    finally:
        reader.close()


def _train_undisturbed(runs: Path, plan: DrillPlan) -> WholeRun:
    layout = _launch(runs, plan, "uninterrupted", plan.limit(DrillOrder(attempt=1)))
    ended = _wait(layout, 1, plan)
    _require_end(plan, ended)
    progress = read_progress(layout.attempt(1).progress) or Progress()
    steps = read_steps(layout, count=ended.step, per_epoch=_count_steps_per_epoch(plan, progress))
    cut_off = ended.reason.startswith(ENDED_BY_DRILL)
    if cut_off:
        plan.tell(f"{plan.name} trains for long, so the drill ended it after step {steps.count}.")
    return WholeRun(layout, steps, cut_off)


def _train_killed(runs: Path, plan: DrillPlan, name: str, choices: Sequence[Choose]) -> KilledRun:
    """Train with one attempt for each of `choices`, which say, after the last kill, what the next attempt does."""
    kills: list[Kill] = []
    layout, last = None, None
    for attempt, choose in enumerate(choices, start=1):
        order = msgspec.structs.replace(choose(last), attempt=attempt)
        if layout is None:
            layout = _launch(runs, plan, name, order)
        else:
            write_record(layout.drill, order, durable=False)
            resume_run(layout)
        ended = _wait(layout, attempt, plan)
        if not _is_own_kill(order, ended):
            _require_end(plan, ended)
            break
        newest = newest_durable(layout.checkpoints)
        last = Kill(
            ended.step,
            0 if newest is None else newest[1],
            in_validation=order.in_validation,
            rank=order.rank if plan.nproc > 1 else None,
        )
        kills.append(last)
        plan.tell(f"Killed (kill -9) {last}. A new process resumes from step {last.from_step}.")
    assert layout is not None
    return KilledRun(layout, tuple(kills))


def _launch(runs: Path, plan: DrillPlan, name: str, order: DrillOrder) -> RunLayout:
    """Launch a run that finds the drill's order in its folder."""
    layout = create_run(runs, plan.task, name=name, token=name).layout
    write_record(layout.drill, order, durable=False)
    return launch_run(runs, plan.task, name=name, token=name, nproc=plan.nproc).layout


def _wait(layout: RunLayout, attempt: int, plan: DrillPlan) -> AttemptExit | TrainerOutcome:
    """Wait until the attempt has ended. Raise `DrillFailed` if its supervisor was killed or the time is up."""
    files = layout.attempt(attempt)
    outcomes = [layout.of_rank(rank).attempt(attempt).outcome for rank in range(plan.nproc)]
    deadline = time.monotonic() + plan.timeout_s
    while not plan.cancelled.is_set():
        processes = read_record_if_there(files.processes, AttemptProcesses)
        # Looked at before the exit record, which the supervisor writes last.
        lost = processes is not None and not is_alive(processes.supervisor)
        exited = read_record_if_there(files.exit, AttemptExit)
        if exited is not None:
            return exited
        ended = read_record_or_none(files.outcome, TrainerOutcome)
        if ended is not None and ended.outcome != "crashed" and all(path.exists() for path in outcomes):
            # All is saved. Unloading torch would take two seconds of a processor that the other trainings need.
            send_signal(read_trainer(layout, attempt), signal.SIGKILL)
            return ended
        if lost:
            raise DrillFailed(f"The supervisor of the drill's run {layout.run_id} was killed. Run the drill again.")
        if time.monotonic() > deadline:
            raise DrillFailed(
                f"{plan.name} took longer than {plan.timeout_s:.0f} s. Use fewer steps (--steps) or allow more time "
                "(--timeout)."
            )
        time.sleep(_WAIT_S)
    raise DrillFailed("The drill was cancelled.")


def _is_own_kill(order: DrillOrder, ended: AttemptExit | TrainerOutcome) -> bool:
    """Tell whether the attempt ended because it killed itself as ordered."""
    killed = isinstance(ended, AttemptExit) and ended.signal == "SIGKILL"
    # A validation that comes before run.step() belongs to the step that has not been counted yet.
    return killed and 0 < order.kill_step <= ended.step + order.in_validation


def _require_end(plan: DrillPlan, ended: AttemptExit | TrainerOutcome) -> None:
    """Raise `DrillFailed` unless the training ended in order, as finished or by the script's own choice."""
    if ended.outcome == "crashed":
        reason = ended.error or ended.reason or ended.outcome
        raise DrillFailed(
            f"{plan.name} crashed at step {ended.step}, so there is nothing to compare: {reason}",
            traceback=ended.traceback,
        )


def _count_steps_per_epoch(plan: DrillPlan, progress: Progress) -> int:
    """Return the steps in an epoch; 0 when unknown."""
    if plan.is_script and progress.epochs and progress.steps_total % progress.epochs == 0:
        return progress.steps_total // progress.epochs
    accumulate = 1 if plan.is_script else max(1, int(plan.task.config.get("accumulate") or 1))
    return -(-progress.batches // accumulate)
