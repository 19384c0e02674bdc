"""How much memory a save takes in addition to the snapshot: trainer and writer process, sampled during the save.

Snapshots are in memory that both processes share, two of them at most. It is reserved, and used once, before anything
is measured. Then the trainer copies its state into it, and the writer hashes, writes, syncs, reads back and verifies
it. Every 2 ms the script reads how much both processes hold (`smaps_rollup`: anonymous and file pages, counting each
process's share of a page, without the shared snapshot). *Beyond* is the highest sum during a save, minus what both held
before it.
"""

from __future__ import annotations

import argparse
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

from measuring.numbers import spread
from measuring.report import Report, add_report_options, results_folder
from measuring.scratch import DEFAULT_FOLDER, scratch_folder
from measuring.states import State, make_header, make_state

_EVERY_S = 0.002


def main() -> None:
    """Measure and report."""
    options = _read_arguments()
    report = Report(
        "checkpoint_memory", "How much memory a save takes in addition to the snapshot",
        (__doc__ or "").partition("\n\n")[2].rstrip(),
    )  # fmt: skip
    state = make_state(options.size_mb * 1_000_000)
    size = sum(tensor.nbytes for tensor in state.values())
    with scratch_folder("memory", options.folder) as folder:
        peaks, settled, samples = _measure(state, folder, rounds=options.rounds)
    rows = [
        ["beyond, at its highest", spread([peak / 1e6 for peak in peaks]).show(1)],
        ["the writer process when nothing is saved", f"{settled / 1e6:.1f}"],
    ]
    report.add_table(f"{size / 1e6:.0f} MB of state, {options.rounds} saves, {samples} samples", ["what", "MB"], rows)
    report.data = {"bytes": size, "beyond_bytes": peaks, "writer_bytes": settled, "samples": samples}
    report.finish(results_folder(options))


def _measure(state: State, folder: Path, *, rounds: int) -> tuple[list[int], int, int]:
    from relight.checkpoints.writer_client import WriterClient

    client = WriterClient(folder / "checkpoints")
    peaks: list[int] = []
    samples = 0
    try:
        for step in range(1, 3):  # uses both slots, and loads everything that is loaded late
            _save(client, state, step)
        settled = _held(client.pid)
        for step in range(3, 3 + rounds):
            for tensor in state.values():
                tensor.add_(1.0)
            time.sleep(0.2)
            before = _held(os.getpid()) + _held(client.pid)
            watch = _Watch([os.getpid(), client.pid])
            _save(client, state, step)
            watch.end()
            peaks.append(max(0, watch.peak - before))
            samples += watch.samples
    finally:
        client.close(timeout_s=60.0)
    return peaks, settled, samples


def _save(client: Any, state: State, step: int) -> None:
    from relight.checkpoints.writer_channel import Verified
    from relight.training.state.snapshot import copy_tensors

    copy_tensors(state, client.stage(make_header(state, step)), on_copied=client.note_copied)
    client.submit()
    deadline = time.monotonic() + 300
    while not any(isinstance(event, Verified) for event in client.poll()):
        if time.monotonic() > deadline:
            raise SystemExit("The checkpoint writer has not reported anything for 300 s.")
        time.sleep(0.001)


class _Watch:
    """A thread that samples the memory of some processes, and keeps the highest sum."""

    def __init__(self, pids: list[int]) -> None:
        self.peak = self.samples = 0
        self._pids = pids
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        """Stop sampling."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_EVERY_S):
            self.peak = max(self.peak, sum(map(_held, self._pids)))
            self.samples += 1


def _held(pid: int) -> int:
    """Return the bytes of a process's anonymous and file pages, counting its share of each."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        raise SystemExit(
            "This benchmark needs Linux: it reads a process's memory from /proc/PID/smaps_rollup."
        ) from None
    return sum(int(kilobytes) * 1024 for kilobytes in re.findall(r"^Pss_(?:Anon|File):\s+(\d+) kB", text, re.MULTILINE))


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size-mb", type=int, default=500, help="size of the training state (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="how many saves are watched (%(default)s)")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="where to write (%(default)s)")
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
