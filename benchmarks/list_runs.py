"""What a list of many runs costs: `list_runs`, which the Runs page and `relight list` use.

Relight's own writers make the folders: each run has its records, two metric streams of 1,000 steps, a progress record,
and a few checkpoints of small tensors. The files are in the page cache, as they are for a dashboard that reads them
every second. The yardstick is the least that any tool has to do that keeps a run in files: read each run's three JSON
records, and parse them with Python's `json`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring.numbers import pair, spread
from measuring.report import Report, add_report_options, results_folder

GOAL_MS = 100

_LIST = """
import json, sys, time
from pathlib import Path
folder, repeats = Path(sys.argv[1]), int(sys.argv[2])
begun = time.perf_counter()
from relight.overview.summary import list_runs
imported = time.perf_counter()
listing = list_runs(folder)
first = time.perf_counter()
assert len(listing.runs) == int(sys.argv[3]) and not listing.damaged, listing.damaged
print(imported - begun, first - imported, [m for m in ("torch", "numpy", "pydantic") if m in sys.modules])
for _ in range(repeats):
    begun = time.perf_counter()
    list_runs(folder)
    listed = time.perf_counter()
    for run in folder.iterdir():
        if run.is_dir() and not run.name.startswith("."):
            for name in ("run.json", "attempts/0001/start.json", "attempts/0001/exit.json"):
                json.loads((run / name).read_bytes())
    print(listed - begun, time.perf_counter() - listed)
"""


def main() -> None:
    """Measure and report."""
    options = _read_arguments()
    report = Report("list_runs", "What a list of runs costs", (__doc__ or "").partition("\n\n")[2].rstrip())
    with tempfile.TemporaryDirectory(prefix="relight-list-") as folder:
        for number in range(options.runs):
            make_run(Path(folder), number, checkpoints=options.checkpoints)
        _measure(Path(folder), options, report)
    report.finish(results_folder(options))


def _measure(folder: Path, options: argparse.Namespace, report: Report) -> None:
    command = [sys.executable, "-c", _LIST, str(folder), str(options.repeats), str(options.runs)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    head, *lines = result.stdout.splitlines()
    import_s, first_s, loaded = head.split(" ", 2)
    ours, plain = zip(*(map(float, line.split()) for line in lines), strict=True)
    listed_s, plain_s = spread(ours), spread(plain)
    program = spread([_time_program(folder) for _ in range(max(5, options.repeats // 4))])
    bare = spread([_time_python() for _ in range(max(5, options.repeats // 4))])
    report.add_table(
        f"{options.runs} runs with {options.checkpoints} checkpoints each",
        ["what", "ms", "in units of plain json"],
        [
            ["reading three JSON records a run with Python's json", plain_s.scaled(1e3).show(1), "1"],
            ["`list_runs`, repeatedly", listed_s.scaled(1e3).show(1), pair(ours, plain).show(2)],
            ["`list_runs`, the first time in a process", f"{float(first_s) * 1e3:.1f}", ""],
            ["importing what it needs", f"{float(import_s) * 1e3:.1f}", ""],
            ["`relight list --json`, the whole program", program.scaled(1e3).show(0), ""],
            ["`python -c pass`, for comparison", bare.scaled(1e3).show(0), ""],
        ],
    )
    heavy = loaded.strip("[]") or "none"
    report.add_text(f"Goal: less than {GOAL_MS} ms for 200 runs. Heavy packages that listing loaded: {heavy}.")
    report.data = {
        "runs": options.runs, "checkpoints": options.checkpoints, "list_s": ours, "json_s": plain,
        "first_s": float(first_s), "import_s": float(import_s),
    }  # fmt: skip


def _time_program(folder: Path) -> float:
    begun = time.perf_counter()
    command = [sys.executable, "-m", "relight.cli", "list", "--json", "--runs", str(folder)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def _time_python() -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - begun


def make_run(folder: Path, number: int, *, checkpoints: int) -> None:
    """Make a finished run, with every file that its entry in the list is read from."""
    from relight.checkpoints.snapshot_header import SnapshotHeader, TensorSpec
    from relight.checkpoints.store import CheckpointStore
    from relight.metrics.writer import MetricWriter
    from relight.runs.catalog import create_run
    from relight.runs.process_identity import current_process
    from relight.runs.progress import Progress, ProgressFile
    from relight.runs.record_file import write_record
    from relight.runs.records import AttemptExit, AttemptProcesses, AttemptStart, SavingState
    from relight.tasks.reference import resolve_task, validate_config

    task = validate_config(resolve_task("digits"), [f"seed={number}"])
    layout = create_run(folder, task).layout
    attempt, now = layout.attempt(1), time.time()
    attempt.folder.mkdir()
    write_record(attempt.start, AttemptStart(attempt=1, time_s=now, reason="launch"), durable=False)
    me = current_process()
    write_record(attempt.processes, AttemptProcesses(supervisor=me, trainer=me), durable=False)
    end = AttemptExit(attempt=1, time_s=now, outcome="finished", exit_code=0, step=1000, reason="The training is done.")
    write_record(attempt.exit, end, durable=False)
    write_record(attempt.saving, SavingState(time_s=now, durable_step=1000, saves=checkpoints), durable=False)
    progress = ProgressFile(attempt.progress)
    progress.write(Progress(step=1000, steps_total=1000, best_step=900, best_value=0.97, phase="finished", time_s=now))
    progress.close()
    for stream in ("train", "validation"):
        writer = MetricWriter(layout.metrics, stream=stream, attempt=1)
        for step in range(1, 1001):
            writer.log(step, {"loss": 1 / step, "accuracy": 1 - 1 / step}, time_s=now)
        writer.close()
    store = CheckpointStore(layout.checkpoints)
    for place in range(checkpoints):
        tensor = TensorSpec("model.weight", "F32", (8,), 32)
        header = SnapshotHeader(step=place + 1, epoch=0, reason="periodic", time_s=now, tensors=[tensor], score=0.9)
        store.commit(header, [memoryview(json.dumps([number, place]).encode().ljust(32))])


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200, help="runs in the folder (%(default)s)")
    parser.add_argument("--checkpoints", type=int, default=3, help="checkpoints of each run (%(default)s)")
    parser.add_argument("--repeats", type=int, default=40, help="how often the list is read (%(default)s)")
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
