"""Kills trainings at random moments, many times, and checks that nothing is lost, repeated or different.

    python -m tests.integration.soak --kills 25                    every victim, and a table of figures
    python -m tests.integration.soak --kills 5 --victims writer --seed 3
    python -m tests.integration.soak --kills 100 --every-step      a checkpoint at every step

`make soak` runs the first; the tests in `test_soak.py` kill each victim a few times. After each kill the soak reads
every byte of every checkpoint, and every checkpoint that was reported as durable must still exist.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from relight.checkpoints.recovery import verify_store
from relight.checkpoints.store import CheckpointStore
from relight.metrics.series import read_series
from relight.overview.summary import RunSummary, summarize_run
from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout
from relight.runs.lock import is_locked
from relight.runs.process_identity import is_alive
from relight.runs.record_file import read_record, read_record_if_there, read_record_or_none
from relight.runs.records import AttemptProcesses, AttemptStart, ProcessIdentity, ResumeCheck
from relight.runs.status import RunStatus
from relight.supervision.launch import launch_run
from relight.supervision.resume import resume_run
from relight.tasks.reference import resolve_task, validate_config
from tests.patience import stretch

TASK = f"{Path(__file__).with_name('tiny_task.py')}:Tiny"
CONFIG = {
    "epochs": 20,
    "batch_size": 8,
    "threads": 1,
    "checkpoint_every_s": 0.3,
    "samples": 320,
    "nap_s": 0.006,
    "device": "cpu",
}
EVERY_STEP = {"checkpoint_every_s": 0.0, "checkpoint_every_steps": 1}
VICTIMS = ("trainer", "supervisor", "both", "group", "writer", "trainer+writer", "everything")
"""`both` is supervisor and trainer; `group` the trainer's process group; `everything` supervisor, trainer, writer."""
STATUS_WITHIN_S = 2.0
"""On an idle machine."""
PATIENCE_S = 120.0

Say = Callable[[str], None]


@dataclass
class Figures:
    """Measurements of the kills of one victim. Times are in seconds."""

    victim: str
    kills: int = 0
    runs: int = 0
    status_s: list[float] = field(default_factory=list)
    exit_record_s: list[float] = field(default_factory=list)
    resume_s: list[float] = field(default_factory=list)
    lost_steps: list[int] = field(default_factory=list)
    checkpoints: int = 0
    """Number of checkpoints that were read completely after kills."""

    def row(self) -> str:
        """Return the line of the table."""
        return (
            f"{self.victim:<15}{self.kills:>6}{self.runs:>6}  "
            f"{_spread(self.status_s):>16}{_spread(self.exit_record_s):>16}{_spread(self.resume_s):>16}"
            f"{max(self.lost_steps, default=0):>12}{self.checkpoints:>13}"
        )


HEADER = (
    f"{'victim':<15}{'kills':>6}{'runs':>6}  {'right status s':>16}{'exit record s':>16}{'resume s':>16}"
    f"{'steps lost':>12}{'checkpoints':>13}\n"
    f"{'':<29}{'median / max':>16}{'median / max':>16}{'median / max':>16}{'max':>12}{'read':>13}"
)


class Reference:
    """The uninterrupted run: its digest and curves, which every killed run must match bit for bit."""

    def __init__(self, folder: Path, config: dict[str, Any], **more: Any) -> None:
        layout = launch(folder, config, name="uninterrupted", **more)
        wait_for(lambda: not summarize_run(layout).status.is_live, why="the uninterrupted run to end")
        summary = summarize_run(layout)
        assert summary.status is RunStatus.FINISHED, (summary.reason, summary.traceback)
        self.steps = summary.step
        self.digest = digest(layout)
        self.loss = read_series(layout.metrics, "train/loss")
        self.accuracy = read_series(layout.metrics, "validation/accuracy")
        self.best = summary.best

    def compare(self, layout: RunLayout) -> None:
        """Assert that the run ended in the same state with the same curves, and shows no step twice."""
        assert digest(layout) == self.digest, f"{layout.folder}: the final state differs"
        for name, expected in (("train/loss", self.loss), ("validation/accuracy", self.accuracy)):
            series = read_series(layout.metrics, name)
            assert np.array_equal(series.steps, expected.steps), f"{layout.folder}: {name} has other steps"
            assert np.array_equal(series.values, expected.values), f"{layout.folder}: {name} has other values"
        assert len(self.loss.steps) == self.steps == len(set(self.loss.steps.tolist()))
        for number in layout.list_attempts():
            check = read_record_or_none(layout.attempt(number).resume_check, ResumeCheck)
            assert check is None or check.verdict == "exact", f"{layout.folder}: {check.sentence}"
        assert summarize_run(layout).best == self.best


def launch(folder: Path, config: dict[str, Any], *, name: str, **more: Any) -> RunLayout:
    """Start a run of the tiny task."""
    prepared = validate_config(resolve_task(TASK), config)
    return launch_run(folder, prepared, name=name, **more).layout


def soak(
    folder: Path, reference: Reference, config: dict[str, Any], *, victim: str, kills: int, seed: int, say: Say
) -> Figures:
    """Kill `victim` `kills` times at random moments, resume each time, and compare each finished run."""
    chance = random.Random(f"{victim} {seed}")
    figures = Figures(victim)
    layout: RunLayout | None = None
    while figures.kills < kills:
        if layout is None:
            layout = launch(folder, config, name=f"{victim} {figures.runs + 1}")
            figures.runs += 1
        if _live_and_kill(layout, victim, chance, figures):
            figures.kills += 1
            now = summarize_run(layout)
            say(f"{victim}: {figures.kills} of {kills}, attempt {now.attempt}, step {now.step}, {now.status}")
        summary = summarize_run(layout)
        if summary.status is RunStatus.FINISHED:
            reference.compare(layout)
            layout = None
        elif not summary.status.is_live:
            _resume(layout, figures)
    if layout is not None:
        _wait_for_the_end(layout)
        reference.compare(layout)
    return figures


def _wait_for_the_end(layout: RunLayout) -> None:
    wait_for(lambda: not summarize_run(layout).status.is_live, why="the run to end")
    summary = summarize_run(layout)
    assert summary.status is RunStatus.FINISHED, summary.reason


def _live_and_kill(layout: RunLayout, victim: str, chance: random.Random, figures: Figures) -> bool:
    """Kill after a random time and check the shown status. Return False when the run ended before the kill."""
    number = layout.latest_attempt()
    processes = wait_for(lambda: _processes(layout, number), why="processes on record")
    # A third of the kills come during the start, the others during the training.
    if chance.random() < 0.67:
        wait_for(lambda: summarize_run(layout).phase == "training" or not _alive(processes), why="training")
    until = time.monotonic() + chance.uniform(0.0, 1.5)
    while time.monotonic() < until and _alive(processes):
        time.sleep(0.005)
    before = summarize_run(layout)
    if not _alive(processes) or not before.status.is_live:
        wait_for(lambda: not summarize_run(layout).status.is_live, why="the run to end")
        return False
    killed_at = time.monotonic()
    if not _kill(layout, victim, processes, before):
        return False
    if victim == "writer":
        figures.status_s.append(_watch_writer_come_back(layout, before, killed_at))
        _read_all(layout, figures, acknowledged=before.durable_step or 0)
        return True
    expected = RunStatus.CRASHED if victim in ("trainer", "group", "trainer+writer") else RunStatus.INTERRUPTED
    report: RunSummary | None = None
    while report is None or report.status not in (expected, RunStatus.FINISHED):
        report = summarize_run(layout)
        waited_s = time.monotonic() - killed_at
        assert waited_s < stretch(STATUS_WITHIN_S), (
            f"{report.status} ({report.reason}) {waited_s:.2f} s after {victim} was killed"
        )
        time.sleep(0.005)
    figures.status_s.append(time.monotonic() - killed_at)
    if report.status is RunStatus.FINISHED:
        return True
    if expected is RunStatus.CRASHED:
        wait_for(layout.attempt(number).exit.exists, timeout_s=stretch(STATUS_WITHIN_S), why="the exit record")
        figures.exit_record_s.append(time.monotonic() - killed_at)
        report = summarize_run(layout)
        assert "SIGKILL" in report.reason, report.reason
    _read_all(layout, figures, acknowledged=before.durable_step or 0)
    return True


def _read_all(layout: RunLayout, figures: Figures, *, acknowledged: int) -> None:
    """Assert that every byte of every checkpoint is right, and that no durable checkpoint was lost."""
    store = CheckpointStore(layout.checkpoints)
    found = verify_store(store)
    assert not found.damaged, found.damaged
    figures.checkpoints += found.checked
    newest = max((info.step for info in store.list().checkpoints), default=0)
    assert newest >= acknowledged, f"{layout.folder}: step {acknowledged} was durable, the newest is {newest}"


def _kill(layout: RunLayout, victim: str, processes: AttemptProcesses, before: RunSummary) -> bool:
    assert processes.trainer is not None
    targets = {
        "trainer": [processes.trainer.pid],
        "supervisor": [processes.supervisor.pid],
        "both": [processes.supervisor.pid, processes.trainer.pid],
        "group": [-processes.trainer.pid],
        "writer": [before.pids.writer],
        "trainer+writer": [processes.trainer.pid, before.pids.writer],
        "everything": [processes.supervisor.pid, processes.trainer.pid, before.pids.writer],
    }[victim]
    if None in targets:
        return False
    try:
        for target in targets:
            assert target is not None
            os.kill(target, signal.SIGKILL) if target > 0 else os.killpg(-target, signal.SIGKILL)
    except ProcessLookupError:  # it ended just before the kill
        return False
    return True


def _watch_writer_come_back(layout: RunLayout, before: RunSummary, killed_at: float) -> float:
    """Assert that the training continues and gets a new writer. Return the seconds that took."""
    number = layout.latest_attempt()

    def back() -> bool:
        now = summarize_run(layout)
        assert now.status in (RunStatus.RUNNING, RunStatus.FINISHED), (now.status, now.reason)
        return now.status is RunStatus.FINISHED or now.pids.writer not in (None, before.pids.writer)

    wait_for(back, timeout_s=60.0, why="another writer")
    assert layout.latest_attempt() == number
    return time.monotonic() - killed_at


def _resume(layout: RunLayout, figures: Figures) -> None:
    before = summarize_run(layout)
    number = layout.latest_attempt()
    begun = time.monotonic()
    launched = resume_run(layout)
    figures.resume_s.append(time.monotonic() - begun)
    assert launched.attempt == number + 1
    assert launched.created
    assert not launched.notes, launched.notes
    start = read_record(layout.attempt(launched.attempt).start, AttemptStart)
    assert start.from_step >= (before.durable_step or 0), (start, before)
    figures.lost_steps.append(max(0, before.step - start.from_step))


def _processes(layout: RunLayout, number: int) -> AttemptProcesses | None:
    """Return the processes once both are on record."""
    found = read_record_if_there(layout.attempt(number).processes, AttemptProcesses)
    return found if found is not None and found.trainer is not None else None


def _alive(processes: AttemptProcesses) -> bool:
    return is_alive(processes.supervisor) and is_alive(processes.trainer)


def digest(layout: RunLayout) -> str:
    """Return the state digest of the run's last checkpoint."""
    store = CheckpointStore(layout.checkpoints)
    return store.digest(store.find("latest"))


def wait_for(what: Callable[[], Any], *, timeout_s: float = PATIENCE_S, why: str) -> Any:
    """Poll until `what` returns something true, and return it."""
    deadline = time.monotonic() + timeout_s
    while not (answer := what()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {why}"
        time.sleep(0.01)
    return answer


def end_everything(folder: Path) -> None:
    """Kill all live processes of the folder's runs."""
    for layout in list_layouts(folder) if folder.exists() else []:
        for number in layout.list_attempts():
            attempt = layout.attempt(number)
            identities: list[ProcessIdentity | None] = []
            with contextlib.suppress(Exception):
                processes = read_record(attempt.processes, AttemptProcesses)
                identities += [processes.supervisor, processes.trainer]
            with contextlib.suppress(Exception):
                identities.append(read_record(attempt.writer, ProcessIdentity))
            for identity in identities:
                if identity is not None and is_alive(identity):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(os.getpgid(identity.pid), signal.SIGKILL)
        deadline = time.monotonic() + 10.0
        while is_locked(layout) and time.monotonic() < deadline:
            time.sleep(0.02)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} / {max(values):.3f}" if values else "-"


def main() -> None:
    """Soak from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="kills of each victim")
    parser.add_argument("--victims", nargs="+", choices=VICTIMS, default=VICTIMS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every-step", action="store_true", help="a checkpoint at every step")
    given = parser.parse_args()
    config = CONFIG | EVERY_STEP if given.every_step else CONFIG
    folder = Path(tempfile.mkdtemp(prefix="relight-soak-"))
    begun = time.monotonic()
    try:
        reference = Reference(folder, config)
        print(f"Uninterrupted: {reference.steps} steps, digest {reference.digest}. Runs are in {folder}.", flush=True)
        rows = []
        for victim in given.victims:
            figures = soak(folder, reference, config, victim=victim, kills=given.kills, seed=given.seed, say=_report)
            rows.append(figures.row())
            print("\r\033[K" + rows[-1], flush=True)
    finally:
        end_everything(folder)
    print(f"\n{HEADER}\n" + "\n".join(rows))
    print("Every status right in time, every resume worked, every final digest is the same.")
    print(f"{time.monotonic() - begun:.0f} s in all.")


def _report(line: str) -> None:
    print(f"\r\033[K{line}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)


if __name__ == "__main__":
    main()
