"""What saving a training state costs: Relight's store and its writer process beside what people use today.

The state is a GPT's parameters and AdamW's two moments, scaled to the size given; every number changes from one save to
the next, so nothing can be shared between checkpoints. In each round each way saves once, in another order each time,
into a folder of its own; what was saved before is removed first and the disk given time to settle (`sync`).

* *blocks*: how long the training loop stands still.
* *durable*: until the state would survive a power cut. For ways that never call fsync, what they left to the operating
  system is synced right afterwards, and that time is included: without it their figure would be a promise.
* *MB/s*: size by the time until durable; *of the disk*: that, by what the disk takes with O_DIRECT in the same round.

Only the ways marked "verified" can tell later that a byte has changed: they have a digest of each tensor.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from measuring.numbers import pair, spread
from measuring.report import Report, add_report_options, results_folder
from measuring.states import State, flat_buffers, make_header, make_state

_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class Taken:
    """Seconds that one save took."""

    blocks_s: float
    durable_s: float


@dataclass(frozen=True)
class Way:
    """One way to save. `save` returns when it says that it is done; then what it did not sync is synced."""

    name: str
    save: Callable[[State, Path], None]
    syncs: bool


def main() -> None:
    """Measure and report."""
    options = _read_arguments()
    report = Report(
        "checkpoint_save", "What saving a training state costs", (__doc__ or "").partition("\n\n")[2].rstrip()
    )
    state = make_state(options.size_mb * 1_000_000)
    size = sum(tensor.nbytes for tensor in state.values())
    with tempfile.TemporaryDirectory(prefix="relight-save-", dir=options.folder) as folder:
        times = _measure(state, Path(folder), rounds=options.rounds)
    disk = [taken.durable_s for taken in times["O_DIRECT"]]
    rows = []
    for name, taken in times.items():
        blocks, durable = [t.blocks_s for t in taken], [t.durable_s for t in taken]
        rate = spread([size / 1e6 / seconds for seconds in durable])
        verified = "yes" if name in ("store", "writer") else ""
        rows.append(
            [
                NAMES.get(name, name), verified, "" if name == "O_DIRECT" else spread(blocks).show(3),
                spread(durable).show(3), rate.show(0), "1" if name == "O_DIRECT" else pair(disk, durable).show(2),
            ]
        )  # fmt: skip
    report.add_table(
        f"{size / 1e6:.0f} MB in {len(state)} tensors, {options.rounds} rounds, on {_name_file_system(options.folder)}",
        ["way", "verified", "blocks (s)", "durable (s)", "MB/s", "of the disk"],
        rows,
    )
    report.data = {
        "bytes": size,
        "tensors": len(state),
        "seconds": {name: [[t.blocks_s, t.durable_s] for t in taken] for name, taken in times.items()},
    }
    report.finish(results_folder(options))


def _measure(state: State, folder: Path, *, rounds: int) -> dict[str, list[Taken]]:
    writer = _Writer(folder / "writer", state)
    names = ["O_DIRECT", writer.name, *(way.name for way in WAYS)]
    ways = {way.name: way for way in WAYS}
    times: dict[str, list[Taken]] = {name: [] for name in names}
    order = random.Random(0)
    try:
        for number in range(-1, rounds):
            for name in order.sample(names, len(names)):
                for tensor in state.values():
                    tensor.add_(1.0)
                if name == "O_DIRECT":
                    taken = _write_raw(folder / "raw", sum(tensor.nbytes for tensor in state.values()))
                elif name == writer.name:
                    taken = writer.save(state)
                else:
                    taken = _save(ways[name], state, folder / "way")
                if number >= 0:  # the first round warms up
                    times[name].append(taken)
    finally:
        writer.close()
    return times


def _save(way: Way, state: State, folder: Path) -> Taken:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.sync()
    begun = time.perf_counter()
    way.save(state, folder)
    returned = time.perf_counter()
    if not way.syncs:
        for path in sorted(folder.rglob("*")):
            _sync(path)
        _sync(folder)
    durable = time.perf_counter()
    shutil.rmtree(folder)
    return Taken(returned - begun, durable - begun)


class _Writer:
    """Relight as a training uses it: the loop copies into shared memory, another process makes it durable."""

    name = "writer"

    def __init__(self, folder: Path, state: State) -> None:
        from relight.checkpoints.writer_client import WriterClient

        self._folder = folder
        self._client = WriterClient(folder)
        self._client.reserve_memory(sum(tensor.nbytes for tensor in state.values()))
        self._step = 0

    def save(self, state: State) -> Taken:
        """Save, and wait for the word that it is durable."""
        from relight.checkpoints.writer_channel import Durable, Verified
        from relight.training.state.snapshot import copy_tensors

        os.sync()
        self._step += 1
        begun = time.perf_counter()
        memory = self._client.stage(make_header(state, self._step))
        copy_tensors(state, memory, on_copied=self._client.note_copied)
        self._client.submit()
        returned = time.perf_counter()
        self._wait_for(Durable)
        durable = time.perf_counter()
        self._wait_for(Verified)  # it has read everything back, which is not to slow down who comes next
        return Taken(returned - begun, durable - begun)

    def _wait_for(self, kind: type[Any]) -> None:
        deadline = time.monotonic() + 120
        while not any(isinstance(event, kind) for event in self._client.poll()):
            if time.monotonic() > deadline:
                raise SystemExit("The writer process says nothing any more.")
            time.sleep(0.001)

    def close(self) -> None:
        """End the writer."""
        self._client.close()


def _save_store(state: State, folder: Path) -> None:
    from relight.checkpoints.store import CheckpointStore

    CheckpointStore(folder).commit(make_header(state, 1), flat_buffers(state))


def _save_torch(state: State, folder: Path) -> None:
    torch.save(state, folder / "state.pt")


def _save_torch_safely(state: State, folder: Path) -> None:
    torch.save(state, folder / "state.tmp")
    _commit(folder / "state.tmp", folder / "state.pt")


def _save_safetensors(state: State, folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(state, folder / "state.safetensors")


def _save_safetensors_safely(state: State, folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(state, folder / "state.tmp")
    _commit(folder / "state.tmp", folder / "state.safetensors")


def _save_dcp(state: State, folder: Path) -> None:
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group
        dcp.save(state, checkpoint_id=folder / "dcp")


WAYS = (
    Way("store", _save_store, syncs=True),
    Way("torch.save", _save_torch, syncs=False),
    Way("torch.save-safely", _save_torch_safely, syncs=True),
    Way("safetensors", _save_safetensors, syncs=False),
    Way("safetensors-safely", _save_safetensors_safely, syncs=True),
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


def _commit(temporary: Path, final: Path) -> None:
    _sync(temporary)
    temporary.replace(final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_raw(path: Path, nbytes: int) -> Taken:
    """Write as many bytes past the page cache, and sync."""
    path.unlink(missing_ok=True)
    os.sync()
    with mmap.mmap(-1, _CHUNK_BYTES) as chunk:  # page-aligned, as O_DIRECT wants it
        chunk.write(os.urandom(_CHUNK_BYTES))
        begun = time.perf_counter()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_DIRECT", 0), 0o600)
        try:
            for _ in range(-(-nbytes // _CHUNK_BYTES)):
                os.write(descriptor, chunk)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        taken = (time.perf_counter() - begun) * nbytes / (-(-nbytes // _CHUNK_BYTES) * _CHUNK_BYTES)
    path.unlink()
    return Taken(taken, taken)


def _name_file_system(folder: Path) -> str:
    import psutil

    whole = str(folder.resolve())
    mounts = [part for part in psutil.disk_partitions(all=True) if whole.startswith(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "an unknown file system"


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size-mb", type=int, default=500, help="size of the training state (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each way saves (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write; its disk is measured (here)")
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
