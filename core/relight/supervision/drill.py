"""The drill: train, kill -9 in mid-epoch, resume in a new process, and compare with a run that nobody killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from relight.checkpoints.digest import state_digest
from relight.checkpoints.file_names import StoreLayout
from relight.checkpoints.listing import CheckpointInfo, newest_durable
from relight.checkpoints.manifest import Manifest, decode_manifest
from relight.checkpoints.store import CheckpointStore
from relight.errors import RelightError
from relight.metrics.file_format import MetricFormatError, decode_header, parse_file_name
from relight.runs.layout import RunLayout
from relight.runs.lock import is_locked
from relight.runs.process_identity import is_alive
from relight.runs.progress import Progress, read_progress
from relight.runs.record_file import read_record, read_record_if_there
from relight.runs.records import AttemptExit, AttemptProcesses, AttemptStart, ProcessIdentity, TaskReference
from relight.supervision.drill_comparison import (
    StateDifference,
    explain_difference,
    find_differences,
    find_metric_difference,
)
from relight.supervision.launch import launch_run
from relight.supervision.resume import resume_run
from relight.supervision.stop import stop_run

DEFAULT_STEPS = 40
_SAVE_EVERY_STEPS = 11
"""A prime, so that it is rarely a whole number of epochs: the kill should come in the middle of one."""
_MORE_STEPS = 20
"""How many times longer the drill gets when the training was over before it could be killed."""
_TRIES = 3
_POLL_S = 0.002
_NUDGE_S = 0.01
_CLOSING_S = 60.0

Tell = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class FirstDifference:
    """What differs first between the resumed and the uninterrupted run, and what that usually means."""

    part: str
    """"tensor", "generator", "data position", "metric", …"""
    name: str
    step: int
    """Of the first checkpoint, or logged value, that differs."""
    detail: str
    cause: str
    others: int
    """How much else differs at that step."""


@dataclass(frozen=True)
class DrillReport:
    """What the drill found. `bit_exact` is its verdict: equal state digests, and equal metrics at every step."""

    bit_exact: bool
    task: str
    steps: int
    killed_at_step: int
    resumed_from_step: int
    mid_epoch: bool
    """False when every checkpoint of so short an epoch lies at its edge."""
    checkpoints_compared: int
    tensors_compared: int
    metric_steps_compared: int
    digest: str
    """State digest of the resumed run's last checkpoint."""
    uninterrupted_digest: str
    first_difference: FirstDifference | None
    duration_s: float
    folder: str | None
    """Where both runs are, when they were to be kept."""


class DrillFailed(RelightError):
    """The drill could not be held: the training itself crashed or never got as far. `traceback` is the trainer's."""

    exit_code = 3

    def __init__(self, message: str, *, traceback: str | None = None) -> None:
        super().__init__(message)
        self.traceback = traceback


def plan_config(config: Mapping[str, Any], *, steps: int = DEFAULT_STEPS) -> dict[str, Any]:
    """The config that both runs of a drill train with: a few steps of it, with checkpoints at fixed steps, all kept."""
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


def drill(
    task: TaskReference,
    *,
    config: Mapping[str, Any],
    best_metric: str | None,
    higher_is_better: bool,
    steps: int = DEFAULT_STEPS,
    folder: Path | None = None,
    keep: bool = False,
    timeout_s: float = 600.0,
    tell: Tell = lambda text: None,
) -> DrillReport:
    """Hold the drill with `task`, in a temporary runs folder inside `folder` (else the system's).

    `timeout_s` bounds the wait for each of: the first checkpoint, and the end of either run. Raises `DrillFailed` when
    the training itself does not get through.
    """
    begun = time.monotonic()
    for attempt in range(_TRIES):
        plan = plan_config(config, steps=steps * _MORE_STEPS**attempt)
        with _temporary_runs(folder, keep=keep) as runs:
            session = _Session(runs, task, plan, best_metric, higher_is_better, timeout_s, tell)
            resumed = session.train_kill_resume()
            if resumed is not None:
                twin = session.train_uninterrupted()
                tell("Comparing.")
                return session.compare(resumed, twin, begun=begun, kept=keep)
        if plan["max_steps"] < steps * _MORE_STEPS**attempt:
            break
        tell("It was over before it could be killed; once more, with more steps.")
    raise DrillFailed(
        f"{task.name} is over before it can be killed: give it more to do, with --set epochs=… or --steps."
    )


@dataclass(frozen=True)
class _Resumed:
    """The run that was killed and brought back."""

    layout: RunLayout
    killed_at_step: int
    from_step: int
    progress: Progress


@dataclass(frozen=True)
class _Session:
    """One drill under way: where its runs are, and what they train."""

    runs: Path
    task: TaskReference
    config: dict[str, Any]
    best_metric: str | None
    higher_is_better: bool
    timeout_s: float
    tell: Tell

    def train_kill_resume(self) -> _Resumed | None:
        """Train, kill -9 after a checkpoint, resume, train to the end; None when it ended before it could be killed."""
        self.tell(f"Training {self.task.name} for {self.config['max_steps']} steps, to be killed on the way.")
        layout = self._launch("killed")
        killed_at = self._kill_after_checkpoint(layout)
        if killed_at is None:
            return None
        self._wait_until_free(layout)
        launched = resume_run(layout)
        start = read_record(layout.attempt(launched.attempt).start, AttemptStart)
        self.tell(
            f"Killed -9 at step {killed_at}; a new process resumes from the checkpoint at step {start.from_step}."
        )
        progress = self._finish(layout, launched.attempt)
        return _Resumed(layout, killed_at, start.from_step, progress)

    def train_uninterrupted(self) -> RunLayout:
        """Train the same from the beginning to the end, and leave it in peace."""
        self.tell("Training the same once more, uninterrupted.")
        layout = self._launch("uninterrupted")
        self._finish(layout, 1)
        return layout

    def compare(self, resumed: _Resumed, twin: RunLayout, *, begun: float, kept: bool) -> DrillReport:
        """Compare what both runs left: every checkpoint that both have, and every logged value."""
        pairs = _pair_checkpoints(resumed.layout, twin)
        if not pairs:
            raise DrillFailed(f"{self.task.name} left no checkpoint to compare: see {self.runs}.")
        mine, other = _read_manifest(pairs[-1][0]), _read_manifest(pairs[-1][1])
        digest, twin_digest = state_digest(mine), state_digest(other)
        ours, theirs = _read_train_metrics(resumed.layout), _read_train_metrics(twin)
        difference = self._find_first_difference(resumed, pairs, ours, theirs)
        return DrillReport(
            bit_exact=difference is None and digest == twin_digest,
            task=self.task.name,
            steps=self.config["max_steps"],
            killed_at_step=resumed.killed_at_step,
            resumed_from_step=resumed.from_step,
            mid_epoch=_is_mid_epoch(resumed.from_step, _steps_per_epoch(resumed.progress, self.config)),
            checkpoints_compared=len(pairs),
            tensors_compared=len(mine.tensors),
            metric_steps_compared=len(ours.keys() & theirs.keys()),
            digest=digest,
            uninterrupted_digest=twin_digest,
            first_difference=difference,
            duration_s=time.monotonic() - begun,
            folder=str(self.runs) if kept else None,
        )

    def _find_first_difference(
        self,
        resumed: _Resumed,
        pairs: list[tuple[CheckpointInfo, CheckpointInfo]],
        ours: Mapping[int, Mapping[str, float]],
        theirs: Mapping[int, Mapping[str, float]],
    ) -> FirstDifference | None:
        logged = find_metric_difference(ours, theirs)
        found: list[StateDifference] = []
        step = 0
        for mine, other in pairs:
            manifest, twin_manifest = _read_manifest(mine), _read_manifest(other)
            if state_digest(manifest) != state_digest(twin_manifest):
                step = mine.step
                store, twin_store = CheckpointStore(_store_of(mine)), CheckpointStore(_store_of(other))
                found = find_differences(
                    manifest,
                    twin_manifest,
                    read_resumed=store.open(mine).read,
                    read_twin=twin_store.open(other).read,
                )
                break
        if not found:
            if logged is None:
                return None
            step, found = logged[0], [logged[1]]
        cause = explain_difference(
            found[0],
            step=step,
            resumed_from=resumed.from_step,
            metric_step=logged[0] if logged else None,
            steps_per_epoch=_steps_per_epoch(resumed.progress, self.config),
        )
        first = found[0]
        return FirstDifference(first.part, first.name, step, first.detail, cause, len(found) - 1)

    def _launch(self, name: str) -> RunLayout:
        return launch_run(
            self.runs,
            task=self.task,
            config=self.config,
            best_metric=self.best_metric,
            higher_is_better=self.higher_is_better,
            name=name,
        ).layout

    def _kill_after_checkpoint(self, layout: RunLayout) -> int | None:
        """Kill -9 the trainer once it has gone past a durable checkpoint; returns its last step, None when it ended.

        The trainer is halted (SIGSTOP) while its writer makes the checkpoint durable, so that however fast it is, the
        kill comes in the middle of the training.
        """
        attempt = layout.attempt(1)
        every = self.config["checkpoint_every_steps"]
        trainer = self._wait(layout, 1, lambda: _trainer_of(layout, 1))
        if trainer is None:
            return None
        self._wait(layout, 1, lambda: (read_progress(attempt.progress) or Progress()).step > every or None)
        deadline = time.monotonic() + self.timeout_s
        while is_alive(trainer) and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(trainer.pid, signal.SIGSTOP)
            progress = read_progress(attempt.progress) or Progress()
            newest = self._wait_for_checkpoint(layout, progress)
            if newest is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(trainer.pid, signal.SIGKILL)
                return progress.step if progress.phase != "finished" else None
            with contextlib.suppress(ProcessLookupError):
                os.kill(trainer.pid, signal.SIGCONT)
            time.sleep(_NUDGE_S)
        return None

    def _wait_for_checkpoint(self, layout: RunLayout, progress: Progress) -> int | None:
        """Step of a durable checkpoint that the halted trainer has gone past, in mid-epoch if it can be; waits 1 s."""
        per_epoch = _steps_per_epoch(progress, self.config)
        deadline = time.monotonic() + 1.0
        while True:
            newest = newest_durable(layout.checkpoints)
            if newest is not None and newest[1] < progress.step:
                # With one step an epoch no checkpoint is in the middle of one, and any will do.
                every_edge = per_epoch > 0 and self.config["checkpoint_every_steps"] % per_epoch == 0
                if every_edge or _is_mid_epoch(newest[1], per_epoch):
                    return newest[1]
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_S)

    def _finish(self, layout: RunLayout, attempt: int) -> Progress:
        """Wait until the attempt has finished, and say why when it has not."""
        exit_record = self._wait(
            layout, attempt, lambda: read_record_if_there(layout.attempt(attempt).exit, AttemptExit), ends=True
        )
        assert exit_record is not None
        if exit_record.outcome != "finished":
            raise _failed(self.task.name, exit_record)
        self._wait_until_free(layout)
        return read_progress(layout.attempt(attempt).progress) or Progress()

    def _wait(self, layout: RunLayout, attempt: int, look: Callable[[], T | None], *, ends: bool = False) -> T | None:
        """Poll `look` until it finds something. None when the attempt finished first; a crash raises.

        With `ends`, `look` itself looks for the end.
        """
        deadline = time.monotonic() + self.timeout_s
        while True:
            found = look()
            if found is not None:
                return found
            exit_record = None if ends else read_record_if_there(layout.attempt(attempt).exit, AttemptExit)
            if exit_record is not None:
                if exit_record.outcome == "finished":
                    return None
                raise _failed(self.task.name, exit_record)
            processes = read_record_if_there(layout.attempt(attempt).processes, AttemptProcesses)
            if processes is not None and not is_alive(processes.supervisor) and look() is None:
                raise DrillFailed(f"The supervisor of {layout.run_id} was killed in the middle of the drill.")
            if time.monotonic() > deadline:
                raise DrillFailed(
                    f"{self.task.name} did not get on within {self.timeout_s:.0f} s: take fewer steps with --steps, "
                    "or more time with --timeout."
                )
            time.sleep(_POLL_S)

    def _wait_until_free(self, layout: RunLayout) -> None:
        deadline = time.monotonic() + _CLOSING_S
        while is_locked(layout) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


@contextlib.contextmanager
def _temporary_runs(folder: Path | None, *, keep: bool) -> Iterator[Path]:
    """A hidden runs folder; whatever still runs in it is ended and it is removed, also after Ctrl-C."""
    runs = Path(tempfile.mkdtemp(prefix=".drill-", dir=folder))
    try:
        yield runs
    finally:
        for path in runs.iterdir():
            _end(RunLayout(path))
        if not keep:
            shutil.rmtree(runs, ignore_errors=True)


def _end(layout: RunLayout) -> None:
    """End whatever still runs, halted or not, and wait until it has."""
    if not is_locked(layout):
        return
    trainer = _trainer_of(layout, layout.latest_attempt())
    with contextlib.suppress(RelightError):
        stop_run(layout, now=True, wait_s=0)
    if trainer is not None and is_alive(trainer):
        with contextlib.suppress(ProcessLookupError):
            os.kill(trainer.pid, signal.SIGKILL)
    deadline = time.monotonic() + _CLOSING_S
    while is_locked(layout) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _trainer_of(layout: RunLayout, attempt: int) -> ProcessIdentity | None:
    processes = read_record_if_there(layout.attempt(attempt).processes, AttemptProcesses)
    return None if processes is None else processes.trainer


def _failed(task: str, exit_record: AttemptExit) -> DrillFailed:
    reason = exit_record.error or exit_record.reason or exit_record.outcome
    return DrillFailed(
        f"{task} {exit_record.outcome} at step {exit_record.step}, so there is nothing to compare: {reason}",
        traceback=exit_record.traceback,
    )


def _steps_per_epoch(progress: Progress, config: Mapping[str, Any]) -> int:
    """Optimizer steps in an epoch; 0 when not known."""
    accumulate = max(1, int(config.get("accumulate") or 1))
    return -(-progress.batches // accumulate)


def _is_mid_epoch(step: int, steps_per_epoch: int) -> bool:
    return steps_per_epoch <= 0 or step % steps_per_epoch != 0


def _pair_checkpoints(resumed: RunLayout, twin: RunLayout) -> list[tuple[CheckpointInfo, CheckpointInfo]]:
    """The newest checkpoint of each step that both runs have, by step."""
    ours = {info.step: info for info in CheckpointStore(resumed.checkpoints).list().checkpoints}
    theirs = {info.step: info for info in CheckpointStore(twin.checkpoints).list().checkpoints}
    return [(ours[step], theirs[step]) for step in sorted(ours.keys() & theirs.keys())]


def _store_of(info: CheckpointInfo) -> Path:
    folder = info.path.parent.parent
    assert info.path.parent == StoreLayout(folder).manifests
    return folder


def _read_manifest(info: CheckpointInfo) -> Manifest:
    return decode_manifest(info.path.read_bytes(), file_name=info.path.name)


def _read_train_metrics(layout: RunLayout) -> dict[int, dict[str, float]]:
    """Values by step and name, of the latest attempt that has the step; without rates, which are the clock's."""
    by_step: dict[int, dict[str, float]] = {}
    for path in sorted(layout.metrics.iterdir()):
        if parse_file_name(path.name) is None:
            continue
        data = path.read_bytes()
        try:
            header, begin = decode_header(data)
        except MetricFormatError:
            continue
        if header.stream not in ("train", "validation"):
            continue
        whole = begin + (len(data) - begin) // header.record_bytes * header.record_bytes
        for step, _, *values in header.record_struct().iter_unpack(data[begin:whole]):
            named = zip(header.names, values, strict=True)
            by_step.setdefault(step, {}).update({name: value for name, value in named if not _is_of_the_clock(name)})
    return by_step


def _is_of_the_clock(name: str) -> bool:
    return name.endswith("_s") or "per_s" in name or "seconds" in name
