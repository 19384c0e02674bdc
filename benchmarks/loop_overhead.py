"""What Relight's training loop costs on top of a bare PyTorch loop, and what Lightning's costs, in the same minutes.

Each loop runs in its own process, and they take turns, block by block (`measuring/turns.py`). All train the same model
on the same kind of batches with the same optimizer, schedule and clipping, and call the same `step`. The bare loop is
the fastest that we can write by hand: no log, no data loader, batches cut out of memory. Relight's loop logs every
metric of every step to its file, records the state at every step edge, and shuffles with its own sampler. Lightning
gets its fastest settings: whole batches as its data set, no logger, no progress bar, no checkpoints. Periodic
checkpoints are off everywhere: checkpoint_save.py measures those.

*All* is the wall-clock time of a block divided by its steps, and includes everything. *Typical step* is the median of
the steps in a block: what other programs take does not show in it. *Processor* is the processor time of a block.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from measuring.numbers import pair, spread
from measuring.report import Report, add_report_options, results_folder
from measuring.turns import Block, Racer, Turns, race

LOOPS = ("bare", "relight", "lightning")
WARM_UP = 3
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}  # as `python -m relight.training` sets it
COLUMNS = ("µs a step", "µs over bare", "times bare")
KINDS = {"all": "wall_s", "typical step": "typical_s", "processor": "processor_s"}


@dataclass(frozen=True)
class Workload:
    """A training: its class in workloads.py, its config, and how many steps make a block."""

    class_name: str
    title: str
    config: dict[str, Any]
    block: int
    batch_size: int


WORKLOADS = {
    "one-layer": Workload("OneLayer", "one linear layer, 32 samples of 32 numbers", {"optimizer": "sgd"}, 400, 32),
    "stdlib-gpt": Workload("TinyGpt", "stdlib-gpt tiny, its default config", {}, 8, 32),
}


def main() -> None:
    """Measure and report; with --loop, run one of the loops."""
    options = _read_arguments()
    if options.loop:
        _be_loop(options)
        return
    report = Report("loop_overhead", "What the training loop costs", (__doc__ or "").partition("\n\n")[2])
    for name in options.workload or WORKLOADS:
        _measure(name, options, report)
    report.finish(results_folder(options))


def _measure(name: str, options: argparse.Namespace, report: Report) -> None:
    workload = WORKLOADS[name]
    loops = [loop for loop in LOOPS if loop != "lightning" or _has_lightning(options)]
    with tempfile.TemporaryDirectory(prefix="relight-loop-") as folder:
        racers = {loop: _start(loop, name, options, Path(folder)) for loop in loops}
        try:
            times = race(racers, rounds=options.rounds, warm_up=WARM_UP)
        finally:
            for racer in racers.values():
                racer.close()
    rows = [_make_row(loop, times, workload) for loop in LOOPS]
    threads = {0: "as many threads as PyTorch chooses", 1: "1 thread"}
    counted = threads.get(options.threads, f"{options.threads} threads")
    report.add_table(
        f"{workload.title}: {options.rounds} rounds of {workload.block} steps, {counted}",
        ["loop", *(f"{kind}: {column}" for kind in KINDS for column in COLUMNS)],
        rows,
    )
    report.data[name] = {
        "block": workload.block,
        "threads": options.threads,
        "seconds": {loop: [astuple(block) for block in blocks] for loop, blocks in times.items()},
    }


def _make_row(loop: str, times: dict[str, list[Block]], workload: Workload) -> list[str]:
    """Return medians with quartiles, for each kind of time. Differences and ratios compare neighbors in time."""
    if loop not in times:
        return [loop, "not installed"] + [""] * (len(KINDS) * len(COLUMNS) - 1)
    row = [loop]
    for kind in KINDS.values():
        steps = 1 if kind == "typical_s" else workload.block
        own, bare = ([getattr(block, kind) * 1e6 / steps for block in times[name]] for name in (loop, "bare"))
        row.append(spread(own).show(1))
        row += ["", "1"] if loop == "bare" else [pair(own, bare, difference=True).show(1), pair(own, bare).show(3)]
    return row


def _start(loop: str, name: str, options: argparse.Namespace, folder: Path) -> Racer:
    command = [sys.executable, __file__, "--loop", loop, "--workload", name]
    command += ["--rounds", str(options.rounds), "--threads", str(options.threads), "--folder", str(folder)]
    environment = dict(os.environ)
    if loop == "relight":
        environment |= WAITING
    if options.peers:
        environment["PYTHONPATH"] = f"{options.peers}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    return Racer(command, environment=environment, log=folder / f"{loop}.log")


def _has_lightning(options: argparse.Namespace) -> bool:
    import importlib.util

    if options.peers:
        sys.path.append(str(options.peers))
    return importlib.util.find_spec("lightning") is not None


def _be_loop(options: argparse.Namespace) -> None:
    import torch

    from measuring import workloads

    (name,) = options.workload
    workload = WORKLOADS[name]
    if options.threads:
        torch.set_num_threads(options.threads)
    steps = workload.block * (options.rounds + WARM_UP) + 1
    config = {
        **workload.config, "batch_size": workload.batch_size, "threads": options.threads, "device": "cpu",
        "epochs": 1_000_000, "max_steps": steps, "checkpoint_every_s": 0,
    }  # fmt: skip
    workloads.turns.append(Turns(workload.block))
    if options.loop == "relight":
        _run_relight(workload.class_name, config, options.folder)
        return
    task_class = getattr(workloads, workload.class_name)
    task = task_class(task_class.Config(**config))
    torch.manual_seed(0)
    (_run_bare if options.loop == "bare" else _run_lightning)(task, steps)


def _run_relight(class_name: str, config: dict[str, Any], folder: Path) -> None:
    from relight.runs.catalog import create_run
    from relight.runs.record_file import read_record
    from relight.runs.records import AttemptStart, Objective, PreparedTask, RunRecord
    from relight.supervision.attempt_start import begin_attempt
    from relight.tasks.reference import resolve_task
    from relight.training.assembly import build_trainer
    from relight.training.stopping import Stopping

    reference = resolve_task(f"{Path(__file__).parent / 'measuring' / 'workloads.py'}:{class_name}")
    layout = create_run(folder, PreparedTask(reference, config, Objective("validation/loss"))).layout
    start = AttemptStart(attempt=1, time_s=time.time(), reason="launch")
    begin_attempt(layout, start)
    stopping = Stopping(layout, 1)
    stopping.install()
    trainer, session = build_trainer(layout, read_record(layout.record, RunRecord), start, stopping=stopping)
    trainer.run()
    session.close()


def _batches(task: Any) -> Iterator[Any]:
    """Yield whole random batches, cut out of memory."""
    import numpy as np
    import torch

    data, batch_size = task.build_data().train, task.config.batch_size
    if hasattr(data, "tensors"):
        while True:
            order = torch.randperm(len(data))
            for begin in range(0, len(order), batch_size):
                rows = order[begin : begin + batch_size]
                yield [tensor[rows] for tensor in data.tensors]
    text, length = data.text, data.length
    while True:
        starts = torch.randint(len(text) - length + 1, (batch_size,)).tolist()
        yield torch.from_numpy(np.stack([text[begin : begin + length] for begin in starts]))


def _run_bare(task: Any, steps: int) -> None:
    from torch import nn

    model = task.build_model()
    optimizer = task.build_optimizer(model)
    scheduler = task.build_scheduler(optimizer, steps_total=steps)
    parameters, clip_norm = list(model.parameters()), task.config.clip_norm
    for _, batch in zip(range(steps), _batches(task), strict=False):
        loss = task.step(model, batch)["loss"]
        loss.backward()
        if clip_norm:
            nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)


def _run_lightning(task: Any, steps: int) -> None:
    import logging

    import lightning
    from torch.utils.data import DataLoader, IterableDataset

    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Batches(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return _batches(task)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = task.build_model()

        def training_step(self, batch: Any, index: int) -> Any:
            loss = task.step(self.model, batch)["loss"]
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = task.build_optimizer(self.model)
            scheduler = task.build_scheduler(optimizer, steps_total=steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=task.config.clip_norm or None,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(Batches(), batch_size=None))


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="rounds in which each loop runs one block (%(default)s)")
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads of PyTorch; 0: as many as it chooses (%(default)s)"
    )
    parser.add_argument(
        "--workload", action="append", choices=list(WORKLOADS), help="measure this one only; repeat for several"
    )
    parser.add_argument("--peers", type=Path, help="folder with packages of benchmarks/requirements.txt")
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
