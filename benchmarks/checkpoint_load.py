"""What loading a training state costs from a cold cache: verified by Relight, compared with torch.load and safetensors.

Each way loads in its own process, into tensors that exist before it begins, as a resume does. Before each load the
script asks the kernel to drop the file from its cache (`posix_fadvise`). In each round every way loads once, in a new
order.

* *seconds*: how long until every number is in its live tensor.
* *of the raw read*: how fast that is, compared with reading Relight's own file from front to end into one buffer.
* *memory*: the most that the process held in addition to the live tensors.

Only Relight compares each tensor with its digest while it reads. The others load a flipped bit without noticing.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from measuring.numbers import pair, spread
from measuring.report import Report, add_report_options, results_folder
from measuring.scratch import DEFAULT_FOLDER, scratch_folder
from measuring.states import State, flat_buffers, make_header, make_state

_CHUNK_BYTES = 1 << 20  # fits into the processor's caches; larger chunks read more slowly
NAMES = {
    "raw": "the file itself, read() into one buffer",
    "relight": "Relight: every digest compared",
    "torch.load": "torch.load",
    "torch.load-mmap": "torch.load, mmap=True",
    "safetensors": "safetensors.load_file",
}


@dataclass(frozen=True)
class Taken:
    """The seconds of one load, and the most memory that it took in addition to the live tensors."""

    seconds: float
    extra_bytes: int


def main() -> None:
    """Measure and report."""
    options = _read_arguments()
    if options.way:
        _load_in_here(options.way, options.folder, options.size_mb)
        return
    report = Report(
        "checkpoint_load", "What loading a training state costs", (__doc__ or "").partition("\n\n")[2].rstrip()
    )
    with scratch_folder("load", options.folder) as folder:
        size = _write_all(folder, options.size_mb)
        times = _measure(folder, options.size_mb, rounds=options.rounds)
    raw = [taken.seconds for taken in times["raw"]]
    rows = []
    for name, taken in times.items():
        seconds = [t.seconds for t in taken]
        memory = spread([t.extra_bytes / 1e6 for t in taken]).show(0)
        rate = spread([size / 1e6 / s for s in seconds]).show(0)
        share = "1" if name == "raw" else pair(raw, seconds).show(2)
        rows.append([NAMES[name], spread(seconds).show(3), rate, share, memory])
    report.add_table(
        f"{size / 1e6:.0f} MB, {options.rounds} rounds, cold cache",
        ["way", "seconds", "MB/s", "of the raw read", "memory besides the live tensors (MB)"],
        rows,
    )
    report.data = {
        "bytes": size,
        "loads": {name: [[t.seconds, t.extra_bytes] for t in taken] for name, taken in times.items()},
    }
    report.finish(results_folder(options))


def _write_all(folder: Path, size_mb: int) -> int:
    from safetensors.torch import save_file

    from relight.checkpoints.store import CheckpointStore

    state = make_state(size_mb * 1_000_000)
    CheckpointStore(folder / "checkpoints").commit(make_header(state, 1), flat_buffers(state))
    torch.save(state, folder / "state.pt")
    save_file(state, folder / "state.safetensors")
    os.sync()
    return sum(tensor.nbytes for tensor in state.values())


def _measure(folder: Path, size_mb: int, *, rounds: int) -> dict[str, list[Taken]]:
    times: dict[str, list[Taken]] = {name: [] for name in NAMES}
    order = random.Random(0)
    for number in range(-1 if rounds > 1 else 0, rounds):
        for name in order.sample(list(NAMES), len(NAMES)):
            for path in folder.rglob("*"):
                if path.is_file():
                    _forget(path)
            answer = subprocess.run(
                [sys.executable, __file__, "--way", name, "--folder", str(folder), "--size-mb", str(size_mb)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if answer.returncode:
                raise SystemExit(f"{name} failed:\n{answer.stderr}")
            seconds, extra = answer.stdout.split()[-2:]
            if number >= 0:  # the first round warms up
                times[name].append(Taken(float(seconds), int(extra)))
    return times


def _forget(path: Path) -> None:
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _load_in_here(way: str, folder: Path, size_mb: int) -> None:
    """Load, and print the seconds and the bytes. `_measure` starts this in a process of its own."""
    live = make_state(size_mb * 1_000_000)
    checksum = float(live["embedding.weight" if "embedding.weight" in live else next(iter(live))].sum())
    for tensor in live.values():
        tensor.zero_()
    if way == "safetensors":
        import safetensors.torch  # noqa: F401  so that the import is not timed
    elif way == "relight":
        import relight.checkpoints.store  # noqa: F401
    before = _reset_peak()
    begun = time.perf_counter()
    _WAYS[way](folder, live)
    seconds = time.perf_counter() - begun
    peak = _read_status("VmHWM")
    if way != "raw":
        assert float(live["embedding.weight" if "embedding.weight" in live else next(iter(live))].sum()) == checksum
    print(seconds, max(0, peak - before))


def _load_raw(folder: Path, live: State) -> None:
    buffer = bytearray(_CHUNK_BYTES)
    (pack,) = (folder / "checkpoints" / "packs").iterdir()
    with pack.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def _load_relight(folder: Path, live: State) -> None:
    from relight.checkpoints.store import CheckpointStore

    store = CheckpointStore(folder / "checkpoints")
    with store.open(store.find("latest")) as reader:
        for name, buffer in zip(live, flat_buffers(live), strict=True):
            reader.read_into(name, buffer)


def _load_torch(folder: Path, live: State) -> None:
    _copy(torch.load(folder / "state.pt", weights_only=True), live)


def _load_torch_mapped(folder: Path, live: State) -> None:
    _copy(torch.load(folder / "state.pt", weights_only=True, mmap=True), live)


def _load_safetensors(folder: Path, live: State) -> None:
    from safetensors.torch import load_file

    _copy(load_file(folder / "state.safetensors"), live)


def _copy(loaded: State, live: State) -> None:
    for name, tensor in live.items():
        tensor.copy_(loaded[name])


_WAYS = {
    "raw": _load_raw,
    "relight": _load_relight,
    "torch.load": _load_torch,
    "torch.load-mmap": _load_torch_mapped,
    "safetensors": _load_safetensors,
}


def _reset_peak() -> int:
    """Make the kernel forget the peak so far. Return the resident memory now, in bytes; 0 where it is unknown."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _read_status("VmRSS")


def _read_status(key: str) -> int:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(rf"^{key}:\s+(\d+) kB", text, flags=re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size-mb", type=int, default=500, help="size of the training state (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each way loads (%(default)s)")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="on the disk to measure (%(default)s)")
    parser.add_argument("--way", choices=sorted(NAMES), help=argparse.SUPPRESS)
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
