"""What a run's charts cost with few and with many metrics: until the plan is there, and until the first chart is drawn.

A dashboard serves two runs of 1,000 steps, one with few metrics and one with many. Headless Chromium opens the page of
each in turn, in a tab that has seen the dashboard before. "plan" is the request that says which charts there are,
"read" the request for the values of the charts in sight, and "opened" the time from asking for the page until the first
chart is drawn. The yardstick of each number is the same number of the run with few metrics.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring.numbers import pair, spread
from measuring.report import Report, add_report_options, results_folder

GOAL_MS = 2_000
TOKEN = "token-for-the-benchmark"
_DRAWN = """() => {
  if (!document.querySelector('.relight-chart[data-points]')) return null
  const requests = performance.getEntriesByType('resource')
  const find = (path) => requests.find(({ name }) => name.includes(path))
  const [plan, read] = [find('/api/board'), find('/api/history')]
  return { plan: plan.duration, read: read.duration, bytes: plan.decodedBodySize, opened: performance.now() }
}"""


def main() -> None:
    """Measure and report."""
    options = _read_arguments()
    report = Report("chart_board", "What many metrics cost", (__doc__ or "").partition("\n\n")[2].rstrip())
    with tempfile.TemporaryDirectory(prefix="relight-board-") as folder:
        runs = {count: _make_run(Path(folder), count) for count in (options.few, options.many)}
        _measure(Path(folder), runs, options, report)
    report.finish(results_folder(options))


def _measure(folder: Path, runs: dict[int, str], options: argparse.Namespace, report: Report) -> None:
    from playwright.sync_api import sync_playwright

    found: dict[int, list[dict[str, Any]]] = {count: [] for count in runs}
    server, site = _serve(folder)
    try:
        with sync_playwright() as playwright:
            path = os.environ.get("RELIGHT_CHROMIUM") or shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            page.goto(f"{site}/?token={TOKEN}")
            for turn in range(options.repeats + 1):
                for count, run in runs.items():
                    page.goto("about:blank")
                    page.goto(f"{site}/run?id={run}", wait_until="commit")
                    drawn = page.wait_for_function(_DRAWN, timeout=60_000).json_value()
                    if turn:  # the first time, everything is loaded and compiled
                        found[count].append(drawn)
            browser.close()
    finally:
        server.terminate()
        server.wait(20)
    few = found[options.few]
    rows = []
    for what in ("plan", "read", "opened"):
        for count, times in found.items():
            ours, theirs = ([one[what] for one in some] for some in (times, few))
            rows.append([f"{what}, {count:,} metrics", spread(ours).show(0), pair(ours, theirs).show(1)])
    report.add_table("Opening the page of a run", ["what", "ms", "in units of the few"], rows)
    report.add_text(
        f"The plan has {found[options.many][0]['bytes']:,} bytes before compression. "
        f"Goal: {options.many:,} metrics open within {GOAL_MS:,} ms."
    )
    report.data = {str(count): times for count, times in found.items()}


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


def _make_run(folder: Path, count: int) -> str:
    from relight.metrics.writer import MetricWriter
    from relight.runs.catalog import create_run
    from relight.tasks.reference import resolve_task, validate_config

    layout = create_run(folder, validate_config(resolve_task("digits"), [])).layout
    names = [f"layer{number // 20}/norm{number % 20}" for number in range(count)]
    writer = MetricWriter(layout.metrics, stream="train", attempt=1)
    for step in range(1, 1001):
        writer.log(step, dict.fromkeys(names, 1 / step))
    writer.close()
    return layout.run_id


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--few", type=int, default=5, help="metrics of the one run (%(default)s)")
    parser.add_argument("--many", type=int, default=2_000, help="metrics of the other (%(default)s)")
    parser.add_argument("--repeats", type=int, default=10, help="how often each page is opened (%(default)s)")
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
