"""How much memory a run takes in addition to its trainer: for its supervisor and its checkpoint writer.

The script launches a real run of `stdlib-gpt` tiny and watches it. RSS is what `ps` and `top` show. PSS counts only a
share of the pages that several processes share (Python's own code, libraries). USS leaves them out, and so is what
would be free if this process ended. The yardsticks are a Python that does nothing, and a Python that has imported
torch, as a supervisor with torch would have.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import astuple, dataclass
from pathlib import Path

import psutil

from measuring.report import Report, add_report_options, results_folder

GOAL_MB = 40
FIRST_SAVE_WITHIN_S = 300


@dataclass(frozen=True)
class Memory:
    """The memory of one process at one moment, in MB."""

    rss: float
    pss: float
    uss: float


Samples = dict[str, list[Memory]]


def main() -> None:
    """Measure and report."""
    options = _read_arguments()
    method = (__doc__ or "").partition("\n\n")[2].rstrip()
    report = Report("supervisor_memory", "What a run takes in addition to its trainer", method)
    samples: Samples = defaultdict(list)
    yardsticks = {"Python that does nothing": _start_python("pass"), "Python with torch": _start_python("import torch")}
    try:
        with tempfile.TemporaryDirectory(prefix="relight-memory-") as folder:
            others: dict[str, int | None] = {name: process.pid for name, process in yardsticks.items()}
            _watch_run(Path(folder), others, samples, seconds=options.seconds)
    finally:
        for process in yardsticks.values():
            process.kill()
            process.wait()
    report.add_table(
        f"Memory in MB over {options.seconds:.0f} s, two samples a second",
        ["process", "RSS (median)", "RSS (most)", "PSS (median)", "USS (median)"],
        [_make_row(name, taken) for name, taken in samples.items()],
    )
    report.add_text(f"Goal: a supervisor below {GOAL_MB} MB.")
    report.data = {"mb": {name: [astuple(memory) for memory in taken] for name, taken in samples.items()}}
    report.finish(results_folder(options))


def _make_row(name: str, taken: list[Memory]) -> list[str]:
    values = [
        statistics.median(memory.rss for memory in taken),
        max(memory.rss for memory in taken),
        statistics.median(memory.pss for memory in taken),
        statistics.median(memory.uss for memory in taken),
    ]
    return [name, *(f"{value:.1f}" for value in values)]


def _watch_run(folder: Path, others: dict[str, int | None], samples: Samples, *, seconds: float) -> None:
    from relight.overview.summary import summarize_run
    from relight.supervision.launch import launch_run
    from relight.supervision.stop import stop_run
    from relight.tasks.reference import resolve_task, validate_config

    config = ["epochs=1000", "threads=1", "device=cpu", "checkpoint_every_s=2"]
    task = validate_config(resolve_task("stdlib-gpt"), config)
    layout = launch_run(folder, task).layout
    try:
        deadline = time.monotonic() + FIRST_SAVE_WITHIN_S
        while not (summary := summarize_run(layout)).durable_step:
            if time.monotonic() > deadline:
                raise SystemExit(f"The run has saved nothing in five minutes: {summary.status}, {summary.reason}")
            time.sleep(0.2)
        pids = {
            "supervisor": summary.pids.supervisor,
            "checkpoint writer": summary.pids.writer,
            "trainer": summary.pids.trainer,
            **others,
        }
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for name, pid in pids.items():
                if pid is not None:
                    samples[name].append(_measure(pid))
            time.sleep(0.5)
    finally:
        stop_run(layout, now=True, wait_s=60)


def _measure(pid: int) -> Memory:
    memory = psutil.Process(pid).memory_full_info()
    return Memory(memory.rss / 1e6, getattr(memory, "pss", float("nan")) / 1e6, memory.uss / 1e6)


def _start_python(statement: str) -> subprocess.Popen[bytes]:
    code = f"{statement}\nprint(flush=True)\nimport time\ntime.sleep(3600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20, help="how long the run is watched (%(default)s)")
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
