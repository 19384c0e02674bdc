"""What saving a model costs that `fully_shard` has split over two ranks: Relight, next to PyTorch's own checkpoints.

Two ranks hold the parameters of a GPT and the two moments of AdamW, half of the rows each, scaled to the given size.
Every number changes between two saves. In each round every way saves once, in a new order. Before each save the
earlier one is removed or verified, and the disk settles (`sync`).

* *blocks*: how long the slower rank's training loop stands still.
* *durable*: from the moment when both ranks begin until the checkpoint would survive a power cut: with Relight, until
  its manifest is committed. `torch.distributed.checkpoint` calls fsync for what it writes, but not for the folder; the
  script does that for it and counts it.
* *of the disk*: the rate until durable, divided by what the disk takes from one process with O_DIRECT in the same
  round.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from measuring.disk import name_file_system, write_raw
from measuring.numbers import pair, spread
from measuring.report import Report, add_report_options, results_folder
from measuring.saving import sync_path
from measuring.scratch import DEFAULT_FOLDER, scratch_folder
from measuring.trainer_environment import adopt_trainer_environment

NPROC = 2
WAYS = {
    "raw": "the disk itself, O_DIRECT, one process",
    "raw-halves": "the disk itself, O_DIRECT, each rank half",
    "relight": "**Relight**",
    "dcp": "torch.distributed.checkpoint.save",
}
_SILENCE_S = 300.0


def main() -> None:
    """Measure and report; with --ranks-folder, be one of the two ranks."""
    options = _read_arguments()
    if options.ranks_folder is not None:
        _be_rank(options)
        return
    adopt_trainer_environment()
    title = "What saving a model costs that is split over two ranks"
    report = Report("sharded_save", title, (__doc__ or "").partition("\n\n")[2].rstrip())
    with scratch_folder("sharded", options.folder) as folder:
        found = _run_ranks(options, folder)
    size, seconds = found["bytes"], found["seconds"]
    durable = {way: [taken[1] for taken in seconds[way]] for way in WAYS}
    rows = [
        [
            title, "" if way.startswith("raw") else spread([taken[0] for taken in seconds[way]]).show(3),
            spread(durable[way]).show(3), spread([size / 1e6 / each for each in durable[way]]).show(0),
            "1" if way == "raw" else pair(durable["raw"], durable[way]).show(2),
        ]
        for way, title in WAYS.items()
    ]  # fmt: skip
    report.add_table(
        f"{size / 1e6:.0f} MB over {NPROC} ranks, {len(durable['raw'])} rounds, on {name_file_system(options.folder)}",
        ["way", "blocks (s)", "durable (s)", "MB/s", "of the disk"],
        rows,
    )
    report.data = found
    report.finish(results_folder(options))


def _run_ranks(options: argparse.Namespace, folder: Path) -> Any:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(NPROC)]
    rank = [__file__, "--ranks-folder", str(folder), "--size-mb", str(options.size_mb), "--rounds", str(options.rounds)]
    rank += ["--limit-s", str(options.limit_s)]
    log = folder / "log"
    with log.open("w") as out:
        done = subprocess.run(
            [sys.executable, *torchrun, *rank], stdout=out, stderr=out, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"The ranks ended before everything was measured:\n{log.read_text()[-4000:]}")
    return json.loads((folder / "found.json").read_text())


def _be_rank(options: argparse.Namespace) -> None:
    import torch.distributed as dist

    rank = Rank(options.ranks_folder, size_mb=options.size_mb)
    order = random.Random(0)
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    begun = time.monotonic()
    for number in range(1 + options.rounds):
        spent_s = rank.agree(time.monotonic() - begun)
        if number > 1 and spent_s * (number + 1) / number > options.limit_s:
            break  # the next round would take too long
        for way in order.sample(list(WAYS), len(WAYS)):
            taken = rank.save(way)
            if number:  # the first round warms up
                seconds[way].append(taken)
    if rank.number == 0:
        found = {"bytes": rank.bytes, "seconds": seconds}
        (options.ranks_folder / "found.json").write_text(json.dumps(found), encoding="utf-8")
    rank.close()
    dist.destroy_process_group()


class Rank:
    """One of the two ranks: its half of the state, and every way to save it."""

    def __init__(self, folder: Path, *, size_mb: int) -> None:
        import torch.distributed as dist

        from relight.checkpoints.store import CheckpointStore
        from relight.checkpoints.writer_client import WriterClient
        from relight.runs.layout import RunLayout
        from relight.training.checkpoint_cutter import CheckpointCutter, CutPolicy
        from relight.training.ranks.group import RankGroup
        from relight.training.ranks.place import find_place
        from relight.training.ranks.ranked_cutter import RankedCutter

        place = find_place()
        assert place is not None
        self.number = place.rank
        dist.init_process_group("gloo")
        self._folder = folder
        self._step = 0
        self._make_state(size_mb * 1_000_000)
        run = RunLayout(folder / "run")
        attempt = (run if not self.number else run.of_rank(self.number)).attempt(1)
        attempt.folder.mkdir(parents=True)
        dist.barrier()
        self._store = CheckpointStore(run.checkpoints)
        self._cutter = RankedCutter(
            RankGroup(place), self._store,
            lambda: CheckpointCutter(
                attempt, policy=CutPolicy(every_s=0.0), writer=WriterClient(run.checkpoints, rank=self.number)
            ),
        )  # fmt: skip

    def save(self, way: str) -> tuple[float, float]:
        """Save once; return how long this blocked the slower rank, and how long it took until durable."""
        import torch.distributed as dist

        for local in self._locals:
            local.add_(1.0)
        if self.number == 0:
            shutil.rmtree(self._folder / "dcp", ignore_errors=True)
        os.sync()
        dist.barrier()
        begun = time.monotonic()
        if way == "raw":
            blocked = durable = write_raw(self._folder / "raw", self.bytes) if self.number == 0 else 0.0
        elif way == "raw-halves":
            blocked = durable = write_raw(self._folder / f"raw-{self.number}", self.bytes // NPROC)
        else:
            (self._save_with_dcp if way == "dcp" else self._cut)()
            blocked = time.monotonic() - begun
            durable = self._wait_until_durable() - begun if way == "relight" else blocked
        return self.agree(blocked), self.agree(durable)

    def agree(self, seconds: float) -> float:
        """Return the largest number of any rank."""
        import torch
        import torch.distributed as dist

        largest = torch.tensor(seconds, dtype=torch.float64)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return float(largest)

    def close(self) -> None:
        """End the writers."""
        self._cutter.close()

    def _make_state(self, nbytes: int) -> None:
        import torch
        from torch import nn
        from torch.distributed.fsdp import fully_shard

        from measuring.states import list_shapes
        from relight.training.state.shards import local_part
        from relight.training.state.training_state import TrainingState

        model = nn.Module()
        for name, shape in list_shapes(nbytes // 4 // 3).items():
            block = nn.Module()
            block.register_parameter("weight", nn.Parameter(torch.randn(shape)))
            model.add_module(name.rpartition(".")[0].replace(".", "_"), block)
            fully_shard(block)
        fully_shard(model)
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        self._model, self._optimizer = model, optimizer
        moments = [one for state in optimizer.state.values() for key, one in state.items() if key != "step"]
        self._locals = [local_part(one.detach()) for one in (*model.parameters(), *moments)]
        self.bytes = sum(one.nbytes for one in (*model.parameters(), *moments))
        self._state = TrainingState()
        self._state.track("model", model)
        self._state.track("optimizer", optimizer)

    def _cut(self) -> None:
        from relight.checkpoints.snapshot_header import SnapshotHeader
        from relight.training.state.snapshot import describe_tensors

        self._step += 1
        self._state.record_edge({"step": self._step})
        captured = self._state.capture(at_edge=True)
        assert captured is not None
        header = SnapshotHeader(
            step=self._step, epoch=0, reason="periodic", time_s=time.time(), state=captured.tree,
            tensors=describe_tensors(captured.tensors, captured.slices),
        )  # fmt: skip
        self._cutter.check(header)
        self._cutter.cut(header, captured.tensors)

    def _wait_until_durable(self) -> float:
        """Return when rank 0's writer has committed the checkpoint, after it has been read back as well."""
        if self.number:
            return 0.0
        durable = 0.0
        deadline = time.monotonic() + _SILENCE_S
        while not durable or not self._store.find("latest").verified:
            time.sleep(0.001 if not durable else 0.1)
            self._cutter.poll()
            if not durable and self._cutter.durable_step == self._step:
                durable = time.monotonic()
            if self._cutter.failure or time.monotonic() > deadline:
                raise SystemExit(self._cutter.failure or "The checkpoint writers have not reported anything.")
        return durable

    def _save_with_dcp(self) -> None:
        import torch.distributed as dist
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optimizer = get_state_dict(self._model, self._optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save({"model": model, "optimizer": optimizer}, checkpoint_id=self._folder / "dcp")
        dist.barrier()
        if self.number == 0:
            sync_path(self._folder / "dcp")


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size-mb", type=int, default=1500, help="size of the training state (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each way saves (%(default)s)")
    parser.add_argument("--limit-s", type=float, default=math.inf, help="begin no round that would end after this time")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="on the disk to measure (%(default)s)")
    parser.add_argument("--ranks-folder", type=Path, help=argparse.SUPPRESS)
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
