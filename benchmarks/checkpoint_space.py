"""How much disk ten checkpoints take when 90 % of the weights are frozen, and how long a small commit takes.

*Space.* Only a model's last layers are trained, up to a tenth of its numbers. The script makes ten checkpoints, one
step apart, and keeps all: once of the weights alone (SGD), once with AdamW's two moments of the trained weights. *Bytes
that differ* are those of the first state, and of what changed in each of the other nine: nothing that keeps ten
different states can take less. A file counts with the blocks that it takes.

*Commit.* If a checkpoint shares every tensor with the one before, committing it means writing its manifest: write,
sync, rename, and sync the folder. In turns with that, the script writes the same bytes to a new file, syncs it, and
does nothing else.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from measuring.numbers import pair, spread
from measuring.report import Report, add_report_options, results_folder
from measuring.scratch import DEFAULT_FOLDER, scratch_folder
from measuring.states import State, flat_buffers, make_frozen_state, make_header
from relight.checkpoints.store import CheckpointStore

_CHECKPOINTS = 10
_TRAINED = 0.1
MOMENTS: dict[str, tuple[str, ...]] = {"SGD": (), "AdamW": ("exp_avg", "exp_avg_sq")}


def main() -> None:
    """Measure and report."""
    options = _read_arguments()
    report = Report(
        "checkpoint_space",
        "How much disk ten checkpoints with 90 % frozen weights take",
        (__doc__ or "").partition("\n\n")[2].rstrip(),
    )
    with scratch_folder("space", options.folder) as folder:
        for optimizer in MOMENTS:
            _report_space(report, folder / optimizer, options.size_mb * 1_000_000, optimizer)
        _report_commit(report, folder / "commits", options.rounds)
    report.finish(results_folder(options))


def _report_space(report: Report, folder: Path, nbytes: int, optimizer: str) -> None:
    folder.mkdir()
    state, changing = make_frozen_state(nbytes, trained=_TRAINED, moments=MOMENTS[optimizer])
    whole = sum(tensor.nbytes for tensor in state.values())
    moved = sum(state[name].nbytes for name in changing)
    differ = whole + (_CHECKPOINTS - 1) * moved
    taken = {name: _save_all(save, folder / name, nbytes, MOMENTS[optimizer]) for name, save in WAYS.items()}
    rows = [["bytes that differ", f"{differ / 1e6:.1f}", "1", f"{differ / taken['torch.save']:.3f}"]]
    rows += [
        [NAMES[name], f"{used / 1e6:.1f}", f"{used / differ:.3f}", f"{used / taken['torch.save']:.3f}"]
        for name, used in taken.items()
    ]
    sizes = f"{whole / 1e6:.0f} MB, of which {moved / 1e6:.0f} MB change each time"
    report.add_table(
        f"{optimizer}: {_CHECKPOINTS} checkpoints of {sizes}",
        ["way", "MB on the disk", "of the bytes that differ", "of torch.save"],
        rows,
    )
    report.data[optimizer] = {
        "state_bytes": whole, "changing_bytes": moved, "differing_bytes": differ, "disk_bytes": taken,
    }  # fmt: skip


def _save_all(save: Callable[[State, Path, int], None], folder: Path, nbytes: int, moments: tuple[str, ...]) -> int:
    """Save ten checkpoints with new numbers in what is trained, and return the bytes they take on the disk."""
    state, changing = make_frozen_state(nbytes, trained=_TRAINED, moments=moments)
    folder.mkdir()
    for step in range(1, _CHECKPOINTS + 1):
        for name in changing:
            state[name].add_(1.0)
        save(state, folder, step)
    os.sync()
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def _save_relight(state: State, folder: Path, step: int) -> None:
    store = CheckpointStore(folder / "checkpoints")
    info = store.commit(make_header(state, step), flat_buffers(state))
    assert not store.check(info)


def _save_torch(state: State, folder: Path, step: int) -> None:
    torch.save(state, folder / f"{step}.pt")


def _save_safetensors(state: State, folder: Path, step: int) -> None:
    from safetensors.torch import save_file

    save_file(state, folder / f"{step}.safetensors")


def _save_dcp(state: State, folder: Path, step: int) -> None:
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that there is no process group
        dcp.save(state, checkpoint_id=folder / str(step))


WAYS = {"relight": _save_relight, "torch.save": _save_torch, "safetensors": _save_safetensors, "dcp": _save_dcp}
NAMES = {
    "relight": "Relight",
    "torch.save": "torch.save",
    "safetensors": "safetensors.save_file",
    "dcp": "torch.distributed.checkpoint.save",
}


def _report_commit(report: Report, folder: Path, rounds: int) -> None:
    folder.mkdir()
    store = CheckpointStore(folder / "checkpoints")
    state = {f"model.layer.{number}.weight": torch.full((64,), float(number)) for number in range(150)}
    buffers = flat_buffers(state)
    store.commit(make_header(state, 0), buffers)
    manifest = 0
    commits: list[float] = []
    writes: list[float] = []
    for step in range(1, rounds + 1):
        header = make_header(state, step)
        begun = time.perf_counter()
        info = store.commit(header, buffers)
        commits.append(time.perf_counter() - begun)
        data = info.path.read_bytes()
        manifest = len(data)
        writes.append(_write(folder / f"bare-{step}", data))
    report.add_table(
        f"A commit of a manifest of {manifest / 1000:.1f} kB, {rounds} rounds",
        ["way", "ms", "of the bare write"],
        [
            ["written and synced, nothing else", spread(writes).scaled(1000).show(2), "1"],
            ["Relight: commit", spread(commits).scaled(1000).show(2), pair(commits, writes).show(2)],
        ],
    )
    report.data |= {"manifest_bytes": manifest, "commit_s": commits, "write_s": writes}


def _write(path: Path, data: bytes) -> float:
    begun = time.perf_counter()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return time.perf_counter() - begun


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size-mb", type=int, default=200, help="size of the weights (%(default)s)")
    parser.add_argument("--rounds", type=int, default=100, help="how often a manifest is committed (%(default)s)")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="on the disk to measure (%(default)s)")
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
