"""What saving a training state costs: Relight's store and its writer process, next to what people use today.

The state is the parameters of a GPT and the two moments of AdamW, scaled to the given size. Every number changes
between two saves, so checkpoints can share nothing. In each round every way saves once, in a new order, into its own
folder. Before each save the script removes the previous one and lets the disk settle (`sync`).

* *blocks*: how long the training loop stands still.
* *durable*: how long until the state would survive a power cut. Some ways never call fsync; the script then syncs what
  they left to the operating system and counts that time too. Without it their figure would be a promise.
* *MB/s*: the size divided by the time until durable; *of the disk*: that rate, divided by what the disk takes with
  O_DIRECT in the same round.

Only the ways marked "verified" keep a digest of each tensor, and so can detect later that a byte has changed.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from measuring.disk import name_file_system, write_raw
from measuring.numbers import pair, spread
from measuring.report import Report, add_report_options, results_folder
from measuring.saving import RelightWriter, save_safetensors_safely, save_torch_safely, sync_path
from measuring.scratch import DEFAULT_FOLDER, scratch_folder
from measuring.states import State, flat_buffers, make_header, make_state
from measuring.trainer_environment import adopt_trainer_environment


@dataclass(frozen=True)
class Taken:
    """Seconds that one save took."""

    blocks_s: float
    durable_s: float


@dataclass(frozen=True)
class Way:
    """One way to save. `syncs` tells whether `save` returns only when the state is durable."""

    name: str
    save: Callable[[State, Path], None]
    syncs: bool


def main() -> None:
    """Measure and report."""
    options = _read_arguments()
    adopt_trainer_environment()
    name = "checkpoint_save" if options.device == "cpu" else f"checkpoint_save-{options.device}"
    report = Report(name, "What saving a training state costs", (__doc__ or "").partition("\n\n")[2].rstrip())
    names = options.way or [name for name in NAMES if options.device == "cpu" or name != "store"]
    needed_bytes = 3 * options.size_mb * 1_000_000
    if (free_bytes := shutil.disk_usage(options.folder).free) < needed_bytes:
        raise SystemExit(
            f"The saves need {needed_bytes / 1e9:.0f} GB of disk, and {options.folder.resolve()} has "
            f"{free_bytes / 1e9:.0f} GB free: choose a folder on another disk with --folder, or a smaller --size-mb."
        )
    state = make_state(options.size_mb * 1_000_000, device=options.device)
    size = sum(tensor.nbytes for tensor in state.values())
    with scratch_folder("save", options.folder) as folder:
        times = _measure(state, folder, names=names, rounds=options.rounds, limit_s=options.limit_s)
    rows = []
    for name, taken in times.items():
        blocks, durable = [t.blocks_s for t in taken], [t.durable_s for t in taken]
        rate = spread([size / 1e6 / seconds for seconds in durable])
        disk = [t.durable_s for t in times["O_DIRECT"]] if "O_DIRECT" in times else None
        rows.append(
            [
                NAMES[name], "yes" if name in ("store", "writer") else "",
                "" if name == "O_DIRECT" else spread(blocks).show(3), spread(durable).show(3), rate.show(0),
                "" if disk is None else "1" if name == "O_DIRECT" else pair(disk, durable).show(2),
            ]
        )  # fmt: skip
    rounds = len(next(iter(times.values())))
    report.add_table(
        f"{size / 1e6:.0f} MB in {len(state)} tensors on {options.device}, {rounds} rounds, "
        f"on {name_file_system(options.folder)}",
        ["way", "verified", "blocks (s)", "durable (s)", "MB/s", "of the disk"],
        rows,
    )
    report.data = {
        "bytes": size,
        "tensors": len(state),
        "device": options.device,
        "seconds": {name: [[t.blocks_s, t.durable_s] for t in taken] for name, taken in times.items()},
    }
    report.finish(results_folder(options))


def _measure(
    state: State, folder: Path, *, names: Sequence[str], rounds: int, limit_s: float
) -> dict[str, list[Taken]]:
    writer = RelightWriter(folder / "writer") if "writer" in names else None
    ways = {way.name: way for way in WAYS}
    times: dict[str, list[Taken]] = {name: [] for name in names}
    order = random.Random(0)
    begun = time.monotonic()
    try:
        for number in range(1 + rounds):
            if number and (time.monotonic() - begun) * (number + 1) / number > limit_s:
                break  # the next round would take too long
            for name in order.sample(names, len(names)):
                for tensor in state.values():
                    tensor.add_(1.0)
                if name == "O_DIRECT":
                    seconds = write_raw(folder / "raw", sum(tensor.nbytes for tensor in state.values()))
                    taken = Taken(seconds, seconds)
                elif name == "writer":
                    assert writer is not None
                    taken = _save_with_writer(writer, state)
                else:
                    taken = _save(ways[name], state, folder / "way")
                times[name].append(taken)
    finally:
        if writer is not None:
            writer.close()
    # The first round warms up. It counts only if there was no time for another one.
    return {name: taken[1:] or taken for name, taken in times.items()}


def _save(way: Way, state: State, folder: Path) -> Taken:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _settle()
    begun = time.perf_counter()
    way.save(state, folder)
    returned = time.perf_counter()
    if not way.syncs:
        for path in sorted(folder.rglob("*")):
            sync_path(path)
        sync_path(folder)
    durable = time.perf_counter()
    shutil.rmtree(folder)
    return Taken(returned - begun, durable - begun)


def _save_with_writer(writer: RelightWriter, state: State) -> Taken:
    """Save, and wait for the read-back too, which must not slow down the next way."""
    _settle()
    begun = time.perf_counter()
    writer.begin(state)
    returned = time.perf_counter()
    return Taken(returned - begun, writer.wait() - begun)


def _save_store(state: State, folder: Path) -> None:
    from relight.checkpoints.store import CheckpointStore

    CheckpointStore(folder).commit(make_header(state, 1), flat_buffers(state))


def _save_torch(state: State, folder: Path) -> None:
    torch.save(state, folder / "state.pt")


def _save_safetensors(state: State, folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(state, folder / "state.safetensors")


def _save_dcp(state: State, folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that there is no process group
        dcp.save(state, checkpoint_id=folder / "dcp")


WAYS = (
    Way("store", _save_store, syncs=True),
    Way("torch.save", _save_torch, syncs=False),
    Way("torch.save-safely", save_torch_safely, syncs=True),
    Way("safetensors", _save_safetensors, syncs=False),
    Way("safetensors-safely", save_safetensors_safely, syncs=True),
    Way("dcp", _save_dcp, syncs=False),
)
NAMES = {
    "O_DIRECT": "the disk itself, O_DIRECT",
    "writer": "Relight: writer process",
    "store": "Relight: store, called directly",
    "torch.save": "torch.save",
    "torch.save-safely": "torch.save, fsync, rename, fsync folder",
    "safetensors": "safetensors.save_file",
    "safetensors-safely": "safetensors.save_file, fsync, rename, fsync folder",
    "dcp": "torch.distributed.checkpoint.save",
}


def _settle() -> None:
    """Let the card and the disk finish what they were asked to do before."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    os.sync()


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size-mb", type=int, default=500, help="size of the training state (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each way saves (%(default)s)")
    parser.add_argument("--limit-s", type=float, default=math.inf, help="begin no round that would end after this time")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the state is (%(default)s)")
    parser.add_argument("--way", action="append", choices=NAMES, help="measure this way only; repeat for several")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="on the disk to measure (%(default)s)")
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
