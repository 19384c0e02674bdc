"""What `run.step` costs a training script that logs two scalars, compared with logging them by hand.

The loop of the script contains nothing else, so nothing hides the cost of the step edge: `for step in run.steps(n)`,
in one case `next` of a `run.loader`, and `run.step(loss=…, accuracy=…)`. *Nothing tracked* is the edge alone: it
writes metrics to their file, records generators and progress, and checks for a stop request. *A model tracked* adds a
linear layer with BatchNorm, SGD and a schedule, which the script tracks but does not train. The yardstick is a line of
JSON written to a file and flushed, which is the least that survives a kill. Periodic checkpoints are off:
checkpoint_save.py measures those.

*Wall* is the wall-clock time of a block, *processor* its processor time, *typical* the median of single calls. All are
in µs per step.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from measuring.numbers import spread
from measuring.report import Report, add_report_options, results_folder

BLOCK = 500
CASES = {
    "a line of JSON, flushed": "json",
    "run.step, nothing tracked, two floats": "floats",
    "run.step, nothing tracked, two 0-d tensors": "tensors",
    "run.step, a model tracked, two floats": "model",
    "run.step and run.loader, a model tracked, two floats": "loader",
}


def main() -> None:
    """Measure and report; with --case, run one of the scripts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help=f"blocks of {BLOCK} steps (%(default)s)")
    parser.add_argument("--case", choices=CASES.values(), help=argparse.SUPPRESS)
    add_report_options(parser)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(_measure(options.case, options.rounds)))
        return
    report = Report("script_step", "What run.step costs a script", (__doc__ or "").partition("\n\n")[2].rstrip())
    rows = []
    for title, case in CASES.items():
        figures = _ask(case, options.rounds)
        rows.append([title, *(spread(figures[kind]).show(1) for kind in ("wall", "processor", "typical"))])
        report.data[case] = figures
    report.add_table(f"{options.rounds} blocks of {BLOCK} steps each", ["what", "wall", "processor", "typical"], rows)
    report.finish(results_folder(options))


def _ask(case: str, rounds: int) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory(prefix="relight-step-", ignore_cleanup_errors=True) as folder:
        asked = subprocess.run(
            [sys.executable, __file__, "--case", case, "--rounds", str(rounds)],
            env={**os.environ, "RELIGHT_RUNS": folder, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    figures: dict[str, list[float]] = json.loads(asked.stdout.splitlines()[-1])
    return figures


def _measure(case: str, rounds: int) -> dict[str, list[float]]:
    if case == "json":
        with tempfile.TemporaryFile("w") as file:

            def log(step: int) -> None:
                file.write(json.dumps({"step": step, "time": time.time(), "loss": 0.5, "accuracy": 0.25}) + "\n")
                file.flush()

            return _time_blocks(iter(range(BLOCK * (rounds + 1))), log, rounds)
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    import relight

    run = relight.init(seed=0, checkpoint_every_s=0)
    steps: Any = run.steps(BLOCK * (rounds + 1))
    values = (torch.tensor(0.5), torch.tensor(0.25)) if case == "tensors" else (0.5, 0.25)
    if case in ("model", "loader"):
        model = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30)
        run.track(model=model, optimizer=optimizer, scheduler=scheduler)
    if case == "loader":
        loader = run.loader(TensorDataset(torch.zeros(BLOCK * (rounds + 1), 1)), batch_size=1, shuffle=True)
        batches = iter(loader)
    else:
        batches = itertools.repeat(None)

    def act(_: int) -> None:
        next(batches)
        run.step(loss=values[0], accuracy=values[1])

    return _time_blocks(steps, act, rounds)


def _time_blocks(steps: Any, act: Callable[[int], None], rounds: int) -> dict[str, list[float]]:
    """Return wall time, processor time and the median call of each block, in µs per step. The first block warms up."""
    figures: dict[str, list[float]] = {"wall": [], "processor": [], "typical": []}
    clock = time.perf_counter_ns
    calls: list[int] = []
    begun, used = clock(), time.process_time_ns()
    for number, _ in enumerate(steps, start=1):
        before = clock()
        act(number)
        calls.append(clock() - before)
        if number % BLOCK == 0:
            now, now_used = clock(), time.process_time_ns()
            if number > BLOCK:
                figures["wall"].append((now - begun) / 1e3 / BLOCK)
                figures["processor"].append((now_used - used) / 1e3 / BLOCK)
                figures["typical"].append(statistics.median(calls) / 1e3)
            calls.clear()
            begun, used = clock(), time.process_time_ns()
    assert len(figures["wall"]) == rounds
    return figures


if __name__ == "__main__":
    main()
