"""Every loop shape, killed with SIGKILL at every kind of place, twice, with 0 and with 2 data workers.

    python -m tests.exactness.loop_matrix                    all cells once, at the middle steps
    python -m tests.exactness.loop_matrix --seed 3           the same cells, killed at other steps
    python -m tests.exactness.loop_matrix --part 2/5         every fifth cell, from the second on
    python -m tests.exactness.loop_matrix --leaky            scripts that depend on the clock: each resume must say so

`make soak` runs the first and the last. Each attempt is a process that runs the script as `relight run` does, with a
writer of its own. It is forked from one that has imported torch, because the import takes longer than the training.

A cell passes when the final checkpoint has the digest of its uninterrupted twin's, the curves are the same bit for bit,
and no resume has raised an alarm. With --leaky it passes when each resume that trained a step again has raised one.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from relight.metrics.series import read_series
from relight.runs.records import TaskReference
from tests.training.conftest import Nursery, TrainedRun
from tests.training.script.loop_shapes import BEGIN, BLOCKS, COARSE, EXACT, PIECES, WARNING

PATIENCE_S = 200.0
PLACES = ("before the update", "after the update", "after the edge", "in the validation", "in the last batch")
LEAK = ("return nn.functional", "import time; return (1 + time.time_ns() % 1000 / 1e6) * nn.functional")
SHAPES = {
    **EXACT,
    **{f"{name} (between epochs)": source for name, (source, _) in COARSE.items()},
    **{f"loop {number} of the guide": PIECES + block for number, block in enumerate(BLOCKS, start=1)},
}


class Wrong(Exception):
    """A cell that is not exact, or whose training went otherwise wrong."""


@dataclass(frozen=True)
class Cell:
    """One training that is killed twice and resumed."""

    shape: str
    place: str
    workers: str

    def __str__(self) -> str:
        return f"{self.shape} | {self.place} | {self.workers} workers"


Twin = tuple[str, dict[str, tuple[list[int], bytes]]]
"""The digest of an uninterrupted training, and the steps and values of its curves."""


@dataclass
class Tally:
    """What came of the resumes of one cell: "exact", "different", "changed", or "nothing to compare"."""

    verdicts: Counter[str] = field(default_factory=Counter)
    resumes: int = 0

    def __str__(self) -> str:
        verdicts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(self.verdicts.items()) if number)
        return f"{self.resumes} resumes: {verdicts}"


class Matrix:
    """Runs cells in one folder, several at a time."""

    def __init__(self, folder: Path, *, seed: int, leaky: bool) -> None:
        self._folder = folder
        self._seed = seed
        self._leaky = leaky
        self._own = threading.local()
        self._nurseries: list[Nursery] = []
        self._guard = threading.Lock()
        self._twins: dict[str, Twin] = {}
        self._twin_guards = {shape: threading.Lock() for shape in SHAPES}

    def run(self, cell: Cell) -> tuple[Tally, str]:
        """Run a cell; return what came of its resumes, and what was wrong, "" for nothing."""
        tally = Tally()
        try:
            self._run(cell, tally)
        except (Wrong, AssertionError) as wrong:
            return tally, str(wrong)
        return tally, ""

    def close(self) -> None:
        """End the processes that fork the trainings."""
        for nursery in self._nurseries:
            nursery.close()

    def _run(self, cell: Cell, tally: Tally) -> None:
        run = self._make(cell.shape, f"{cell}".replace("/", "-"), cell.place, cell.workers, *self._choose_deaths(cell))
        reason = "launch"
        while (code := run.run(reason=reason, timeout_s=PATIENCE_S)) == -signal.SIGKILL:
            tally.resumes += 1
            reason = "resume"
        if code:
            raise Wrong(f"attempt {run.attempt} ended with {code}: {run.log[-2000:]}")
        if cell.shape in EXACT and WARNING in run.layout.attempt(1).log.read_text():
            raise Wrong("a warning says that a resume cannot enter this loop")
        verdicts = [check.verdict for check in run.resume_checks()]
        tally.verdicts.update(verdicts, **{"nothing to compare": tally.resumes - len(verdicts)})
        if self._leaky:
            if any(verdict != "different" for verdict in verdicts):
                raise Wrong(f"a resume did not notice that the script depends on the clock: {verdicts}")
        else:
            self._compare(cell, run)
        shutil.rmtree(run.layout.folder)

    def _compare(self, cell: Cell, run: TrainedRun) -> None:
        digest, curves = self._twin(cell.shape)
        if run.final_digest() != digest:
            raise Wrong("the final state is not the twin's")
        for name, (steps, values) in curves.items():
            ours = read_series(run.layout.metrics, name)
            if (ours.steps.tolist(), ours.values.tobytes()) != (steps, values):
                raise Wrong(f"the curve of {name} is not the twin's")

    def _choose_deaths(self, cell: Cell) -> list[str]:
        """Choose two steps, the second in the same epoch: a training of 12 to 20 steps has epochs of 4 or 5."""
        if cell.place == "in the validation":
            return next(list(pair) for key, pair in VALIDATED.items() if key in SHAPES[cell.shape])
        if cell.place == "in the last batch":
            return ["4", "9"]
        if not self._seed:
            return ["7", "8"]
        draw = random.Random(f"{self._seed} {cell}")
        first = draw.randint(2, 8)
        return [str(first), str(first + draw.randint(0, 3))]

    def _train_twin(self, shape: str) -> Twin:
        run = self._make(shape, f"{shape} twin", "", "0")
        if run.run(timeout_s=PATIENCE_S):
            raise Wrong(f"the twin: {run.log[-2000:]}")
        read = {name: read_series(run.layout.metrics, name) for name in ("train/loss", "validation/accuracy")}
        return run.final_digest(), {
            name: (series.steps.tolist(), series.values.tobytes()) for name, series in read.items()
        }

    def _twin(self, shape: str) -> Twin:
        with self._twin_guards[shape]:
            if shape not in self._twins:
                self._twins[shape] = self._train_twin(shape)
            return self._twins[shape]

    def _make(self, shape: str, name: str, place: str, *arguments: str) -> TrainedRun:
        path = self._folder / f"{name}.py"
        source = BEGIN + SHAPES[shape]
        path.write_text(source.replace(*LEAK) if self._leaky else source)
        inside = "before the update" if place == "in the last batch" else place
        task = TaskReference(kind="script", name=path.name, path=str(path), arguments=(inside, *arguments))
        return TrainedRun(self._folder / "runs" / name, task, {}, self._nursery())

    def _nursery(self) -> Nursery:
        """Return this thread's own nursery."""
        if not hasattr(self._own, "nursery"):
            self._own.nursery = Nursery()
            with self._guard:
                self._nurseries.append(self._own.nursery)
        nursery: Nursery = self._own.nursery
        return nursery


NEEDED = {"in the validation": "    validate()", "after the edge": "train("}
"""What the source of a shape contains if it has that place."""
VALIDATED = {
    "if i == 3": ("4", "8"), "step % 4": ("3", "7"), "move(loss)": ("3", "6"), "part in range": ("10",),
    "epoch == 1": ("5", "8"), "if i % 2": ("6", "8"), "tuner": ("10", "15"), "": ("5", "10"),
}  # fmt: skip
"""Steps after which a shape validates, by a part of its source."""


def all_cells() -> list[Cell]:
    """Return the whole matrix, without the places that a shape does not have."""
    cells = itertools.starmap(Cell, itertools.product(SHAPES, PLACES, "02"))
    return [cell for cell in cells if NEEDED.get(cell.place, "") in SHAPES[cell.shape]]


def run_cells(cells: list[Cell], matrix: Matrix, *, jobs: int) -> Iterator[tuple[Cell, Tally, str]]:
    """Run the cells, `jobs` at a time, and give each with what came of it."""
    with ThreadPoolExecutor(jobs) as pool:
        for cell, (tally, wrong) in zip(cells, pool.map(matrix.run, cells), strict=True):
            yield cell, tally, wrong


def main(arguments: list[str] | None = None) -> int:
    """Run the cells that are asked for; 1 if one of them is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="choose other steps to kill at")
    parser.add_argument("--part", default="1/1", metavar="I/N", help="every N-th cell, from the I-th on")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cells with TEXT in their name")
    parser.add_argument("--leaky", action="store_true", help="let the loss depend on the clock")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="cells at a time")
    options = parser.parse_args(arguments)
    first, parts = map(int, options.part.split("/"))
    cells = [cell for cell in all_cells() if options.only in str(cell)][first - 1 :: parts]
    begun, total, failures = time.monotonic(), Tally(), 0
    with tempfile.TemporaryDirectory(prefix="relight-loops-") as folder:
        matrix = Matrix(Path(folder), seed=options.seed, leaky=options.leaky)
        try:
            for cell, tally, wrong in run_cells(cells, matrix, jobs=options.jobs):
                total.resumes += tally.resumes
                total.verdicts += tally.verdicts
                failures += bool(wrong)
                said = f"{'WRONG' if wrong else 'right'}  {cell} ({tally})"
                print(f"{said}: {wrong}" if wrong else said, flush=True)
        finally:
            matrix.close()
    print(
        f"{len(cells) - failures} of {len(cells)} cells right, {failures} wrong; {total}; in "
        f"{time.monotonic() - begun:.0f} s."
    )
    return 1 if failures or not cells else 0


if __name__ == "__main__":
    sys.exit(main())
