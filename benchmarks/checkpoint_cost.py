"""What a checkpoint costs the training: how much time the loop loses to it, from the save until the last of its work.

One process trains a GPT of 124M parameters with AdamW (1.5 GB to save) on random bytes, in cycles of a few steps. Clean
cycles and cycles that begin with a save take turns, and each save belongs to the next way. A cycle ends when everything
that the save started is done: also what a thread or another process does in the background. The saves of the warm-up do
not count: they allocate memory, and virtual machines are faster in their first seconds.

* *cost*: the time of the cycle, minus that of as many typical steps (median) of the clean cycles before and after it.
* *blocks*: the part of it in which the loop stands still, because it waits for the call that saves.
* *worst step*: the longest step of the cycle, divided by the typical clean one. The save belongs to the first step.
* *durable after*: until the state would survive a power cut. Lightning never calls fsync: its state does not survive.
* *writer*: the processor seconds of Relight's writer process, at its low priority. Other ways work in the training's
  own process.

The way "nothing" saves nothing: what it seems to cost is the noise of this measurement. The busy loop computes on all
cores. The half-idle one computes on one core, as a loop does whose work is on a GPU. Old checkpoints are deleted during
the cycle by Relight, and between the cycles for all other ways. Whatever a way has not written by the end of its cycle
is written then, outside of the measurement, so that no way pays for another one.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from measuring.numbers import spread
from measuring.report import Report, add_report_options, results_folder
from measuring.saving import DcpAsync, LightningAsync, Peer, RelightWriter, SafetensorsSafely, TorchSafely
from measuring.scratch import DEFAULT_FOLDER, scratch_folder
from measuring.states import State
from measuring.trainer_environment import adopt_trainer_environment

LOOPS = {"busy": "all cores compute", "half-idle": "one core computes"}
PEERS: dict[str, tuple[str, Callable[[], Peer]]] = {
    "torch.save": ("torch.save, fsync, rename, fsync folder", TorchSafely),
    "safetensors": ("safetensors.save_file, fsync, rename, fsync folder", SafetensorsSafely),
    "dcp": ("DCP async_save with a cached stager", DcpAsync),
    "lightning": ("Lightning AsyncCheckpointIO (no fsync)", LightningAsync),
}
WAYS = ("relight", "nothing", *PEERS)
COLUMNS = ("way", "cost (s)", "blocks (s)", "worst step / clean", "durable after (s)", "writer (processor s)")
_CONTEXT, _BATCH = 64, 1
_LONGEST_CYCLE = 60


@dataclass
class Cycle:
    """The seconds of each step of a cycle, and what the save at its beginning reported."""

    steps_s: list[float]
    blocks_s: float = 0.0
    durable_s: float = math.nan
    writer_s: float = math.nan
    clean_s: float = math.nan
    """A typical step of the clean cycles before and after this one."""


class Saving:
    """One way to save, at the beginning of a cycle. What a peer has saved is removed after it."""

    def __init__(self, name: str, folder: Path) -> None:
        self._folder = folder / name
        self._relight = RelightWriter(self._folder) if name == "relight" else None
        self._peer = PEERS[name][1]() if name in PEERS else None
        self._begun = 0.0

    def prepare(self) -> None:
        """Make a folder, before the cycle begins."""
        if self._peer is not None:
            self._folder.mkdir()

    def clean_up(self) -> None:
        """Leave nothing for the kernel to write or delete during the cycles that follow."""
        if self._peer is not None:
            shutil.rmtree(self._folder)
        os.sync()

    def begin(self, state: State) -> None:
        """Save."""
        self._begun = time.perf_counter()
        if self._relight is not None:
            self._relight.begin(state)
        elif self._peer is not None:
            self._peer.begin(state, self._folder)

    def is_finished(self) -> bool:
        """Tell whether nothing of the save is left to do."""
        return (self._relight is None or self._relight.is_finished()) and (
            self._peer is None or self._peer.is_finished()
        )

    def note(self, cycle: Cycle) -> None:
        """Add what is known after the cycle."""
        if self._relight is not None:
            cycle.durable_s, cycle.writer_s = self._relight.durable_s or math.nan, self._relight.spent_s()
        elif self._peer is not None and not isinstance(self._peer, LightningAsync):
            cycle.durable_s = (self._peer.finished_at() or math.nan) - self._begun

    def close(self) -> None:
        """End what is left."""
        if self._relight is not None:
            self._relight.close()


class Training:
    """The training, with the state that is saved."""

    def __init__(self, size: str) -> None:
        from relight.training.tasks.gpt import SHAPES, VOCABULARY, Gpt

        torch.manual_seed(0)
        self._model = Gpt(SHAPES[size], context=_CONTEXT)
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-4, fused=True)
        self._tokens = torch.randint(VOCABULARY, (_BATCH, _CONTEXT + 1))

    def step(self) -> None:
        """Train one step."""
        logits = self._model(self._tokens[:, :-1]).flatten(0, 1)
        F.cross_entropy(logits, self._tokens[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)  # else freeing and getting memory is most of the noise

    @property
    def state(self) -> State:
        """The parameters and the moments of the optimizer, as they are in memory."""
        state = {f"model.{name}": parameter.detach() for name, parameter in self._model.named_parameters()}
        for name, parameter in self._model.named_parameters():
            for key in ("exp_avg", "exp_avg_sq"):
                state[f"optimizer.{name}.{key}"] = self._optimizer.state[parameter][key]
        return state

    def run_cycle(self, steps: int, saving: Saving | None = None) -> Cycle:
        """Train that many steps, and more until the save is finished."""
        cycle = Cycle([])
        if saving is not None:
            saving.prepare()
        while len(cycle.steps_s) < steps or not (saving is None or saving.is_finished()):
            if len(cycle.steps_s) >= max(steps, _LONGEST_CYCLE):
                raise SystemExit(f"A save was not finished after {len(cycle.steps_s)} steps.")
            begun = time.perf_counter()
            if saving is not None:
                if cycle.steps_s:
                    saving.is_finished()
                else:
                    saving.begin(self.state)
                    cycle.blocks_s = time.perf_counter() - begun
            self.step()
            cycle.steps_s.append(time.perf_counter() - begun)
        if saving is not None:
            saving.note(cycle)
            saving.clean_up()
        return cycle


def main() -> None:
    """Measure and report."""
    options = _read_arguments()
    adopt_trainer_environment()
    if options.peers:
        sys.path.append(str(options.peers))
    loops = options.loop or list(LOOPS)
    name = "checkpoint_cost" if len(loops) > 1 else f"checkpoint_cost-{loops[0]}"
    report = Report(name, "What a checkpoint costs the training", (__doc__ or "").partition("\n\n")[2])
    training = Training(options.size)
    cores = torch.get_num_threads()
    training.step()
    size = sum(tensor.nbytes for tensor in training.state.values())
    for loop in loops:
        torch.set_num_threads(cores if loop == "busy" else 1)
        with scratch_folder("cost", options.folder) as folder:
            cycles = _measure(training, options.way or WAYS, folder, options)
        rows = [_make_row(name, cycles) for name in options.way or WAYS]
        clean = spread([step for cycle in cycles["clean"] for step in cycle.steps_s])
        rounds = max(len(cycles[name]) for name in cycles if name != "clean")
        title = f"{LOOPS[loop]}: {size / 1e6:.0f} MB, {rounds} saves by each way, a clean step takes "
        report.add_table(f"{loop}, {title}{clean.show(3)} s", COLUMNS, rows)
        report.data[loop] = {
            name: [[cycle.steps_s, cycle.blocks_s, cycle.durable_s, cycle.writer_s] for cycle in taken if taken]
            for name, taken in cycles.items()
        }
    report.data["bytes"] = size
    report.finish(results_folder(options))


def _measure(
    training: Training, names: Sequence[str], folder: Path, options: argparse.Namespace
) -> dict[str, list[Cycle]]:
    savings = {name: saving for name in names if (saving := _open(name, folder)) is not None}
    cycles: dict[str, list[Cycle]] = {"clean": [], **{name: [] for name in savings}}
    try:
        for _, saving in itertools.product(range(options.warm_up), savings.values()):
            training.run_cycle(1, saving)
        cycles["clean"].append(training.run_cycle(options.steps))
        begun = time.monotonic()
        for round_ in range(options.rounds):
            if round_ and (time.monotonic() - begun) * (round_ + 1) / round_ > options.limit_s:
                break  # the next round would take too long
            shift = round_ % len(savings)
            for name in [*savings][shift:] + [*savings][:shift]:
                cycles[name].append(training.run_cycle(options.steps, savings[name]))
                cycles["clean"].append(training.run_cycle(options.steps))
                before, after = cycles["clean"][-2:]
                cycles[name][-1].clean_s = statistics.median(before.steps_s + after.steps_s)
    finally:
        for saving in savings.values():
            saving.close()
    return cycles


def _open(name: str, folder: Path) -> Saving | None:
    try:
        return Saving(name, folder)
    except ImportError:
        return None


def _make_row(name: str, cycles: dict[str, list[Cycle]]) -> list[str]:
    shown = {"relight": "**Relight**, durable and verified", "nothing": "nothing"}.get(name) or PEERS[name][0]
    if name not in cycles:
        return [shown, "not installed", *[""] * (len(COLUMNS) - 2)]
    taken = cycles[name]
    return [
        shown,
        _show([sum(cycle.steps_s) - len(cycle.steps_s) * cycle.clean_s for cycle in taken]),
        "" if name == "nothing" else _show([cycle.blocks_s for cycle in taken]),
        _show([max(cycle.steps_s) / cycle.clean_s for cycle in taken]),
        _show([cycle.durable_s for cycle in taken]),
        _show([cycle.writer_s for cycle in taken]),
    ]


def _show(values: Sequence[float]) -> str:
    return "" if any(map(math.isnan, values)) else spread(values).show(2)


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each way saves (%(default)s)")
    parser.add_argument("--steps", type=int, default=6, help="steps of a cycle, at least (%(default)s)")
    parser.add_argument("--warm-up", type=int, default=2, help="how often each way saves before that (%(default)s)")
    parser.add_argument("--limit-s", type=float, default=math.inf, help="begin no round that would end after this time")
    parser.add_argument("--size", default="base", help="size of the GPT, as in stdlib-gpt (%(default)s)")
    parser.add_argument("--loop", action="append", choices=LOOPS, help="measure this loop only")
    parser.add_argument("--way", action="append", choices=WAYS, help="measure this way only; repeat for several")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="on the disk to measure (%(default)s)")
    parser.add_argument("--peers", type=Path, help="folder with packages of benchmarks/requirements.txt")
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
