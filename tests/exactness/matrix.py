"""The exactness matrix: trainings killed with SIGKILL at named moments and resumed, against uninterrupted twins.

    python tests/exactness/matrix.py                       all 735 cells: every optimizer, model, loading and moment
    python tests/exactness/matrix.py --pairwise            49 cells that hold every pair of them
    python tests/exactness/matrix.py --pairwise --part 1/2 every second of those
    python tests/exactness/matrix.py --only muon --jobs 2  those with "muon" in their name, two at a time

`make soak` runs the first. Each training is a process that holds the run's lock, with a checkpoint writer of its own
and a checkpoint at every step. A cell passes when its last checkpoint has the digest of its twin's; and what it resumed
from must have been the last step before the kill, so that no cell passes by starting over.

Processes are forked from this one, which has imported torch and runs no operation itself, so that it has no threads.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from exactness.cells import KILLS, Cell, Kill, all_cells, pairwise_cells
from relight.checkpoints.recovery import find_newest_good
from relight.checkpoints.store import CheckpointStore
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock
from relight.runs.record_file import read_record_or_none, write_record
from relight.runs.records import AttemptStart, ResumeCheck, RunRecord, TaskReference

PATIENCE_S = 300.0


class Failure(Exception):
    """A cell that is not exact, or whose training went otherwise wrong."""


class CellRun:
    """One run folder, and the processes that train it one after the other."""

    def __init__(self, folder: Path, cell: Cell) -> None:
        self.layout = RunLayout(folder)
        self._cell = cell
        self._attempt = 0
        folder.mkdir(parents=True)
        reference = TaskReference(kind="file", name="cell", path="", class_name="")
        write_record(self.layout.record, RunRecord(
            run=folder.name, name=folder.name, created_s=0.0, task=reference, config={},
            best_metric="validation/loss", higher_is_better=False,
        ))  # fmt: skip

    def train(self, kill: Kill | None) -> None:
        """Run the next attempt, from the last step before the kill before it. Raises `Failure` if it ends otherwise."""
        self._attempt += 1
        start = AttemptStart(attempt=self._attempt, time_s=time.time(), reason="launch")
        if self._attempt > 1:
            start = self._find_start()
        attempt = self.layout.attempt(self._attempt)
        attempt.folder.mkdir(parents=True)
        write_record(attempt.start, start)
        pid = os.fork()
        if pid == 0:
            _become_training(self.layout, start, self._cell, kill)
        code = os.waitstatus_to_exitcode(_wait(pid))
        if code != (0 if kill is None else -signal.SIGKILL):
            raise Failure(f"attempt {self._attempt} ended with {code}: {attempt.log.read_text()[-2000:]}")
        self._killed = kill

    def digest(self) -> str:
        """Return the digest of the finished run's state."""
        with RunLock.acquire(self.layout, timeout_s=PATIENCE_S):
            store = CheckpointStore(self.layout.checkpoints)
            last = store.list().checkpoints[-1]
            if last.reason != "final":
                raise Failure(f"the last checkpoint is '{last.reason}', of step {last.step}")
            for number in self.layout.list_attempts():
                check = read_record_or_none(self.layout.attempt(number).resume_check, ResumeCheck)
                if check is not None and check.verdict == "different":
                    raise Failure(f"attempt {number} raised an alarm: {check.sentence}")
            return store.digest(last)

    def _find_start(self) -> AttemptStart:
        with RunLock.acquire(self.layout, timeout_s=PATIENCE_S):  # the writer has ended
            good, _ = find_newest_good(CheckpointStore(self.layout.checkpoints))
        assert self._killed is not None
        expected = self._killed.step(accumulate=self._cell.accumulate)
        if good is None or good.step != expected:
            raise Failure(f"step {expected} was to survive, and {good and good.step} did")
        return AttemptStart(
            attempt=self._attempt, time_s=time.time(), reason="resume", from_sequence=good.sequence, from_step=good.step
        )


def run_cells(cells: Sequence[Cell], folder: Path) -> Iterator[tuple[Cell, str | None]]:
    """Run the cells one after the other; give each with what was wrong, None when it is exact."""
    twins: dict[tuple[str, str], str] = {}
    for number, cell in enumerate(sorted(cells, key=lambda cell: cell.twin)):
        try:
            if cell.twin not in twins:
                twins.clear()  # they come in groups
                twins[cell.twin] = _run(folder / f"twin {number}", Cell(*cell.twin, "0", cell.moment), ())
            digest = _run(folder / f"cell {number}", cell, KILLS[cell.moment])
            yield cell, None if digest == twins[cell.twin] else f"{digest} is not the twin's {twins[cell.twin]}"
        except Failure as failure:
            yield cell, str(failure)


def main(arguments: list[str] | None = None) -> int:
    """Run the cells that are asked for; 1 if one of them is not exact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairwise", action="store_true", help="the subset that holds every pair")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="every N-th cell, from the I-th on")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cells with TEXT in their name")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time")
    options = parser.parse_args(arguments)
    first, parts = (int(number) for number in options.part.split("/"))
    cells = [cell for cell in (pairwise_cells() if options.pairwise else all_cells()) if options.only in str(cell)]
    cells = cells[first - 1 :: parts]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch._dynamo  # which every optimizer imports, for seconds

    import exactness.training  # noqa: F401  # once, for all that are forked

    if not hasattr(torch.optim, "Muon"):
        print(f"skipped: the cells of muon, which torch {torch.__version__} does not have")
        cells = [cell for cell in cells if cell.optimizer != "muon"]
    begun = time.monotonic()
    failures = 0
    counted = 0
    with tempfile.TemporaryDirectory(prefix="relight-exactness-") as folder:
        for cell, wrong in _run_in_jobs(cells, Path(folder), jobs=options.jobs):
            counted += 1
            failures += wrong is not None
            print(f"{'exact' if wrong is None else 'WRONG'}  {cell}{'' if wrong is None else f': {wrong}'}", flush=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{counted - failures} of {len(cells)} cells exact, {failures} wrong, in {time.monotonic() - begun:.0f} s "
        f"({used.ru_utime + used.ru_stime:.0f} s of processor in the trainings)."
    )
    return 0 if counted == len(cells) and not failures else 1


def _run_in_jobs(cells: Sequence[Cell], folder: Path, *, jobs: int) -> Iterator[tuple[Cell, str | None]]:
    """Share the cells among `jobs` processes by their twins, and give what these report."""
    twins = list(dict.fromkeys(cell.twin for cell in cells))
    reader, writer = os.pipe()
    pids = []
    for job in range(jobs):
        mine = [cell for cell in cells if twins.index(cell.twin) % jobs == job]
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _become_job(mine, folder / str(job), writer)
        pids.append(pid)
    os.close(writer)
    with os.fdopen(reader) as lines:
        for line in lines:
            values, wrong = json.loads(line)
            yield Cell(*values), wrong
    for pid in pids:
        os.waitpid(pid, 0)


def _become_job(cells: Sequence[Cell], folder: Path, writer: int) -> None:
    try:
        for cell, wrong in run_cells(cells, folder):
            values = [cell.optimizer, cell.model, cell.workers, cell.moment]
            os.write(writer, json.dumps([values, wrong]).encode() + b"\n")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _run(folder: Path, cell: Cell, kills: tuple[Kill, ...]) -> str:
    run = CellRun(folder, cell)
    for kill in (*kills, None):
        run.train(kill)
    digest = run.digest()
    shutil.rmtree(folder)
    return digest


def _become_training(layout: RunLayout, start: AttemptStart, cell: Cell, kill: Kill | None) -> None:
    code = 70
    try:
        os.setsid()
        log = os.open(layout.attempt(start.attempt).log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        from exactness.training import train

        train(layout, start, cell, kill)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise Failure(f"it took more than {PATIENCE_S:.0f} s")
        time.sleep(0.002)


if __name__ == "__main__":
    sys.exit(main())
