"""What `run.step` costs a training script that logs two scalars, compared with logging them by hand.

The loop of the script contains nothing else, so nothing hides the cost of the step edge: `for step in run.steps(n)`,
in one case `next` of a `run.loader`, and `run.step(loss=…, accuracy=…)`. *Nothing tracked* is the edge alone: it
writes metrics to their file, records generators and progress, leaves a witness, and checks for a stop request. *A model
tracked* adds a linear layer with BatchNorm, SGD and a schedule, which the script tracks but does not train. The
yardsticks are a line of JSON written to a file and flushed, which is the least that survives a kill, and `next` of
PyTorch's own `DataLoader` over the same data. Periodic checkpoints are off: checkpoint_save.py measures those. *The
witness alone* samples the weights, digests a step whose generators have not moved, and compares it with that of an
earlier attempt; records are written and compared in groups of 16, about as many as short steps share.

Each case runs in its own process, and they take turns, block by block. *Wall* is the wall-clock time of a block,
*processor* its processor time, *typical* the median of single steps. All are in µs per step.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import astuple
from pathlib import Path
from typing import Any

from measuring.numbers import pair, spread
from measuring.report import Report, add_report_options, results_folder
from measuring.turns import Racer, Turns, race

BLOCK = 500
WARM_UP = 2
CASES = {
    "json": "a line of JSON, flushed",
    "next": "next of PyTorch's DataLoader",
    "floats": "run.step, nothing tracked, two floats",
    "tensors": "run.step, nothing tracked, two 0-d tensors",
    "model": "run.step, a model tracked, two floats",
    "loader": "run.step and run.loader, a model tracked, two floats",
    "witness": "the witness alone, a model tracked, written and compared",
}
SHARED_BY = 16
KINDS = {"wall": "wall_s", "processor": "processor_s", "typical": "typical_s"}


def main() -> None:
    """Measure and report; with --case, be one of the scripts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help=f"blocks of {BLOCK} steps (%(default)s)")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    add_report_options(parser)
    options = parser.parse_args()
    if options.case:
        _be_script(options.case, BLOCK * (options.rounds + WARM_UP) + 1)
        return
    report = Report("script_step", "What run.step costs a script", (__doc__ or "").partition("\n\n")[2].rstrip())
    with tempfile.TemporaryDirectory(prefix="relight-step-", ignore_cleanup_errors=True) as folder:
        racers = {case: _start(case, options.rounds, Path(folder)) for case in CASES}
        try:
            times = race(racers, rounds=options.rounds, warm_up=WARM_UP)
        finally:
            for racer in racers.values():
                racer.close()
    rows = []
    for case, title in CASES.items():
        steps = {"wall": BLOCK, "processor": BLOCK, "typical": 1}
        figures = [
            [getattr(block, field) * 1e6 / steps[kind] for block in times[case]] for kind, field in KINDS.items()
        ]
        typical, by_hand = ([block.typical_s for block in times[name]] for name in (case, "json"))
        rows.append([title, *(spread(each).show(1) for each in figures), pair(typical, by_hand).show(1)])
        report.data[case] = [astuple(block) for block in times[case]]
    report.add_table(
        f"{options.rounds} blocks of {BLOCK} steps each", ["what", *KINDS, "typical: times the line of JSON"], rows
    )
    report.finish(results_folder(options))


def _start(case: str, rounds: int, folder: Path) -> Racer:
    return Racer(
        [sys.executable, __file__, "--case", case, "--rounds", str(rounds)],
        environment={**os.environ, "RELIGHT_RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1"},
        log=folder / f"{case}.log",
    )


def _be_script(case: str, count: int) -> None:
    turns = Turns(BLOCK)
    makers = {"json": _log_by_hand, "witness": _leave_witnesses}
    steps, act = makers[case](count) if case in makers else _make_script(case, count)
    for step in steps:
        turns.edge()
        act(step)


def _log_by_hand(count: int) -> tuple[Iterable[int], Callable[[int], None]]:
    file = tempfile.TemporaryFile("w")  # noqa: SIM115  open as long as this process

    def log(step: int) -> None:
        file.write(json.dumps({"step": step, "time": time.time(), "loss": 0.5, "accuracy": 0.25}) + "\n")
        file.flush()

    return range(count), log


def _leave_witnesses(count: int) -> tuple[Iterable[int], Callable[[int], None]]:
    import torch
    from torch import nn

    from relight.runs.layout import RunLayout
    from relight.runs.records import AttemptStart
    from relight.training.retraced_steps import RetracedSteps
    from relight.training.state.rng import RngRecorder
    from relight.training.state.weights_watch import WeightsWatch
    from relight.training.step_witness import StepWitness

    layout = RunLayout(Path(os.environ["RELIGHT_RUNS"]) / "witnessed")
    model = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32))
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1)]
    generators, watch = RngRecorder().capture(), WeightsWatch(dict(model.named_parameters()))

    def open_witness(attempt: int) -> StepWitness:
        layout.attempt(attempt).folder.mkdir(parents=True)
        return StepWitness(layout.attempt(attempt).witness)

    def note(witness: StepWitness, step: int) -> None:
        witness.note(step, batch=step + 1, generators=generators, optimizers=optimizers, weights=watch.record())

    before, now = open_witness(1), open_witness(2)
    for step in range(count):
        note(before, step)
    before.flush()
    retraced = RetracedSteps(layout, AttemptStart(attempt=2, time_s=0.0, reason="resume"), [1], caveat="")

    def act(step: int) -> None:
        note(now, step)
        if step % SHARED_BY == 0:
            for noted, *digests in now.flush():
                retraced.compare(noted, digests)

    return range(count), act


def _make_script(case: str, count: int) -> tuple[Iterable[int], Callable[[int], None]]:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    import relight

    data = TensorDataset(torch.zeros(count, 1))
    batches: Any = itertools.repeat(None)
    if case == "next":
        batches = iter(DataLoader(data, batch_size=1, shuffle=True))
        return range(count), lambda _: next(batches)
    run = relight.init(seed=0, checkpoint_every_s=0)
    values = (torch.tensor(0.5), torch.tensor(0.25)) if case == "tensors" else (0.5, 0.25)
    if case in ("model", "loader"):
        model = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run.track(model=model, optimizer=optimizer, scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 30))
    if case == "loader":
        batches = iter(run.loader(data, batch_size=1, shuffle=True))

    def act(_: int) -> None:
        next(batches)
        run.step(loss=values[0], accuracy=values[1])

    return run.steps(count), act


if __name__ == "__main__":
    main()
