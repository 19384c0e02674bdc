"""What a comparison of runs costs: 20 runs of 20,000 steps with two metrics, as the Compare page asks for them.

A dashboard serves the runs; the client asks for the comparison over HTTP, as the browser does, and reads the whole
answer. "First" is the first answer of a new server with the files in the page cache, "changed" is after each run has
logged one more step, "again" with nothing new. The yardstick is the least that the data need: reading the same files
into numpy arrays, in one process.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from measuring.numbers import pair, spread
from measuring.report import Report, add_report_options, results_folder

GOAL_MS, GOAL_BYTES = 500, 300_000
NAMES = ("train/loss", "train/accuracy")
TOKEN = "token-for-the-benchmark"


def main() -> None:
    """Measure and report."""
    options = _read_arguments()
    report = Report("compare_runs", "What a comparison of runs costs", (__doc__ or "").partition("\n\n")[2].rstrip())
    with tempfile.TemporaryDirectory(prefix="relight-compare-") as folder:
        ids = [_make_run(Path(folder), number, steps=options.steps) for number in range(options.runs)]
        _measure(Path(folder), ids, options, report)
    report.finish(results_folder(options))


def _measure(folder: Path, ids: list[str], options: argparse.Namespace, report: Report) -> None:
    first, changed, again, plain = [], [], [], []
    size = 0
    query = {"ids": ",".join(ids), "name": list(NAMES), "smoothing": "0.8"}
    for turn in range(options.repeats):
        server, site = _serve(folder)
        try:
            with httpx.Client(base_url=site, timeout=60) as client:
                client.get("/", params={"token": TOKEN})
                client.get("/api/board", params={"run": ids[0]})  # so that nothing is imported while it is measured

                def ask(client: httpx.Client = client) -> tuple[float, int]:
                    begun = time.perf_counter()
                    answer = client.get("/api/compare", params=query)
                    answer.raise_for_status()
                    return time.perf_counter() - begun, len(answer.content)

                seconds, size = ask()
                first.append(seconds)
                again.append(ask()[0])
                for run in ids:
                    _log_more(folder / run, attempt=turn + 2, step=options.steps + turn + 1)
                changed.append(ask()[0])
        finally:
            server.terminate()
            server.wait(20)
        plain.append(_read_plainly(folder, ids))
    report.add_table(
        f"{options.runs} runs × {options.steps:,} steps × {len(NAMES)} metrics",
        ["what", "ms", "in units of the reading"],
        [
            ["reading the metric files into numpy", spread(plain).scaled(1e3).show(1), "1"],
            ["first", spread(first).scaled(1e3).show(0), pair(first, plain).show(1)],
            ["changed", spread(changed).scaled(1e3).show(0), pair(changed, plain).show(1)],
            ["again", spread(again).scaled(1e3).show(0), pair(again, plain).show(1)],
        ],
    )
    report.add_text(
        f"The answer has {size:,} bytes. Goals: {GOAL_MS} ms for the first, {GOAL_BYTES:,} bytes. For comparison, in "
        "another setting: Trackio 0.43 takes 2.9 to 3.8 s and 5.65 MB each time for as much, MLflow 3.17 2.7 s a chart."
    )
    report.data = {"first_s": first, "changed_s": changed, "again_s": again, "reading_s": plain, "bytes": size}


def _serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "relight_app", "--port", "0", "--no-browser", "--runs", str(folder), "--token", TOKEN],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    for line in server.stdout:
        found = re.search(r"http://[^/]+", line)
        if found:
            return server, found.group()
    raise RuntimeError("the dashboard did not start")


def _read_plainly(folder: Path, ids: list[str]) -> float:
    from relight.metrics.series import read_samples

    begun = time.perf_counter()
    for run in ids:
        read_samples(folder / run / "metrics", NAMES)
    return time.perf_counter() - begun


def _make_run(folder: Path, number: int, *, steps: int) -> str:
    from relight.metrics.writer import MetricWriter
    from relight.runs.catalog import create_run
    from relight.tasks.reference import resolve_task, validate_config

    layout = create_run(folder, validate_config(resolve_task("digits"), [f"seed={number}"])).layout
    writer = MetricWriter(layout.metrics, stream="train", attempt=1)
    for step in range(1, steps + 1):
        writer.log(step, {"loss": 1 / step + number % 7 / 10 + step * 7919 % 100 / 1000, "accuracy": 1 - 1 / step})
    writer.close()
    return layout.run_id


def _log_more(run: Path, *, attempt: int, step: int) -> None:
    from relight.metrics.writer import MetricWriter

    writer = MetricWriter(run / "metrics", stream="train", attempt=attempt)
    writer.log(step, {"loss": 0.5, "accuracy": 0.9})
    writer.close()


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="runs to compare (%(default)s)")
    parser.add_argument("--steps", type=int, default=20_000, help="steps of each run (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="how often a server is started and asked (%(default)s)")
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
