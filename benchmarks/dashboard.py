"""What the dashboard costs, and how soon it shows something.

Relight's own writers make the folders; a real Chromium opens the pages, each time in a fresh profile. "First" is the
first page of a server that has just started, "again" a page of the same server. The yardstick is a Streamlit page with
nothing but a title, served and opened in the same way: no page of the dashboard can be shown sooner. All take turns.

The browsers on one live run are connections that ask as the page's JavaScript does: one event stream each, and the
parts in sight whenever the stream says that one of their topics has changed. The run logs 10 rows a second and makes a
checkpoint every 15 s. What counts is the server's processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from playwright.sync_api import Browser, sync_playwright

from list_runs import make_run
from measuring.numbers import Spread, pair, spread
from measuring.report import Report, add_report_options, results_folder

_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/\?token=\S+")
_ROW = "[data-part=runs] a[href*='run?id=']"
_CHART = ".relight-chart[data-points]"
_TITLE = "h1"
_IN_SIGHT = {
    "run-header": {"life", "files", "jobs"},
    "run-notices": {"life", "files", "jobs"},
    "run-exports": {"files", "jobs"},
    "run-figures": {"life"},
}
"""The parts at the top of a run's page and their topics, as in `relight_app.parts.registry`."""
_SETTLE_S = 5.0
_CHECKPOINT_S = 15.0
_ROWS_PER_S = 10

_ONLY_A_TITLE = """
import sys
from pathlib import Path
import relight_app.server.asgi_app as application
application.serve.__kwdefaults__["script"] = Path(sys.argv.pop(1))
from relight_app.__main__ import main
sys.exit(main())
"""


@dataclass(frozen=True)
class _Server:
    """A dashboard that has just started."""

    process: subprocess.Popen[str]
    link: str
    started_s: float
    """`time.perf_counter()` when its process was started."""


@contextlib.contextmanager
def _serve(runs: Path, *, script: Path | None = None) -> Iterator[_Server]:
    program = ["-m", "relight_app"] if script is None else ["-c", _ONLY_A_TITLE, str(script)]
    command = [
        sys.executable,
        *program,
        "--port",
        "0",
        "--no-browser",
        "--runs",
        str(runs),
        "--token",
        "of-a-benchmark",
    ]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = _ADDRESS.search(process.stdout.readline())
        assert found is not None, "the dashboard did not start"
        yield _Server(process, found[0], started)
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    """Measure and report."""
    options = _read_arguments()
    report = Report("dashboard", "What the dashboard costs", (__doc__ or "").partition("\n\n")[2].rstrip())
    with tempfile.TemporaryDirectory(prefix="relight-dashboard-") as name:
        folder = Path(name)
        _measure_browsers(folder / "live", options, report)
        _measure_pages(folder, options, report)
    report.finish(results_folder(options))


# --- pages -----------------------------------------------------------------------------------------------------------


def _measure_pages(folder: Path, options: argparse.Namespace, report: Report) -> None:
    many, long, title = folder / "many", folder / "long", folder / "title.py"
    for number in range(options.runs):
        make_run(many, number, checkpoints=1)
    run = _make_long_run(long, options.steps)
    title.write_text("import streamlit as st\nst.title('A title')\n")
    ways = {
        "a title": (long, title, "", _TITLE),
        f"the list of {options.runs:,} runs": (many, None, "", _ROW),
        f"a run of {options.steps:,} steps": (long, None, f"run?id={run}&", _CHART),
    }
    shown: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_find_chromium(), args=["--no-sandbox"])
        for _ in range(options.repeats):
            for way, (runs, script, page, selector) in ways.items():
                with _serve(runs, script=script) as server:
                    address = server.link.replace("/?", f"/{page or '?'}".replace("??", "?"), 1)
                    first = _open(browser, address, selector)
                    since_start = time.perf_counter() - server.started_s
                    again = min(_open(browser, address, selector) for _ in range(2))
                    shown[way].append((since_start, first, again))
        browser.close()
    rows = []
    for way, times in shown.items():
        columns = list(zip(*times, strict=True))
        yardsticks = list(zip(*shown["a title"], strict=True))
        rows.append([way, *(spread(column).show(2) for column in columns),
                     *(pair(columns[place], yardsticks[place]).show(2) for place in (1, 2))])  # fmt: skip
    report.add_table(
        "Until it is shown, seconds",
        ["page", "from the start of the process", "first", "again", "first / a title", "again / a title"],
        rows,
    )
    report.add_text(
        "Goals: the list of 1,000 runs in 2.5 s after the server's start and 0.7 s again; "
        "a run of 1,000,000 steps in 3 s and 0.7 s again."
    )
    report.data["pages_s"] = shown


def _open(browser: Browser, address: str, selector: str) -> float:
    """Return the seconds until `selector` is visible at this address."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.locator(selector).first.wait_for(timeout=120_000)
    took = time.perf_counter() - began
    context.close()
    return took


def _find_chromium() -> str:
    names = (os.environ.get("RELIGHT_CHROMIUM", ""), "chromium", "google-chrome", "chromium-browser")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit("There is no Chromium. Name one with RELIGHT_CHROMIUM.")
    return found


def _make_long_run(folder: Path, steps: int) -> str:
    """Make a run with one long stream of five metrics; return its id."""
    import numpy as np

    from relight.metrics.file_format import MetricHeader, encode_header, metric_file_name
    from relight.runs.catalog import create_run
    from relight.tasks.reference import resolve_task, validate_config

    layout = create_run(folder, validate_config(resolve_task("digits"), [])).layout
    header = MetricHeader("train", 1, ("loss", "lr", "accuracy", "grad_norm", "samples_per_s"))
    records = np.random.default_rng(1).normal(size=(steps, 2 + len(header.columns))).cumsum(axis=0)
    records.view(np.int64)[:, 0] = np.arange(1, steps + 1)
    records[:, 1] = time.time() - steps + np.arange(steps)
    layout.metrics.mkdir(exist_ok=True)
    path = layout.metrics / metric_file_name("train", attempt=1)
    path.write_bytes(encode_header(header) + records.tobytes())
    return layout.run_id


# --- browsers on one live run ----------------------------------------------------------------------------------------


def _measure_browsers(folder: Path, options: argparse.Namespace, report: Report) -> None:
    counts = (0, 1, options.browsers)
    shares: dict[int, list[float]] = {count: [] for count in counts}
    answers = 0
    with _train(folder) as run, _serve(folder) as server:
        process = psutil.Process(server.process.pid)
        for _ in range(options.repeats):
            for count in counts:
                share, asked = asyncio.run(_watch(server, process, run, count, seconds=options.seconds))
                shares[count].append(share)
                answers = max(answers, asked)
    rows = [[count, _percent(spread(shares[count]))] for count in counts]
    report.add_table("Browsers on one live run", ["browsers", "% of one core"], rows)
    report.add_text(f"Goal: at most 3 % of a core for 50 browsers. They asked for up to {answers} parts in a turn.")
    report.data["browsers"] = {"share_of_core": shares, "parts_asked": answers}


def _percent(share: Spread) -> str:
    return share.scaled(100).show(2)


@contextlib.contextmanager
def _train(folder: Path) -> Iterator[str]:
    """Write what a training writes, from a thread; yield the run's id."""
    from relight.checkpoints.snapshot_header import SnapshotHeader, TensorSpec
    from relight.checkpoints.store import CheckpointStore
    from relight.metrics.writer import MetricWriter
    from relight.runs.catalog import create_run
    from relight.runs.process_identity import current_process
    from relight.runs.progress import Progress, ProgressFile
    from relight.runs.record_file import write_record
    from relight.runs.records import AttemptProcesses, AttemptStart, SavingState
    from relight.tasks.reference import resolve_task, validate_config

    layout = create_run(folder, validate_config(resolve_task("digits"), [])).layout
    attempt, me = layout.attempt(1), current_process()
    attempt.folder.mkdir()
    write_record(attempt.start, AttemptStart(attempt=1, time_s=time.time(), reason="launch"))
    write_record(attempt.processes, AttemptProcesses(supervisor=me, trainer=me))
    ended = threading.Event()

    def train() -> None:
        store, progress = CheckpointStore(layout.checkpoints), ProgressFile(attempt.progress)
        writer, step, saved_s = MetricWriter(layout.metrics, stream="train", attempt=1), 0, 0.0
        while not ended.wait(1 / _ROWS_PER_S):
            step += 1
            writer.log(step, {"loss": 1 / step, "lr": 0.1, "samples_per_s": 1000.0})
            progress.write(Progress(step=step, steps_total=100_000, phase="training", time_s=time.time()))
            if step % _ROWS_PER_S == 0:
                with attempt.log.open("a") as log:
                    log.write(f"step {step}: loss {1 / step:.4f}\n")
            if time.monotonic() - saved_s >= _CHECKPOINT_S:
                saved_s = time.monotonic()
                tensor = TensorSpec("model.weight", "F32", (8,), 32)
                now = time.time()
                header = SnapshotHeader(step=step, epoch=0, reason="periodic", time_s=now, tensors=[tensor])
                store.commit(header, [memoryview(json.dumps(step).encode().ljust(32))])
                write_record(attempt.saving, SavingState(time_s=now, durable_step=step, saves=1))
        writer.close()
        progress.close()

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        yield layout.run_id
    finally:
        ended.set()
        trainer.join()


async def _watch(
    server: _Server, process: psutil.Process, run: str, count: int, *, seconds: float
) -> tuple[float, int]:
    """Let browsers look at the run; return the server's share of a core, and how often they asked for a part."""
    site, _, token = server.link.partition("/?token=")
    headers = {"Authorization": f"Bearer {token}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=site, headers=headers, limits=limits, timeout=None) as client:
        asked = [0]
        browsers = [asyncio.create_task(_browse(client, run, asked)) for _ in range(count)]
        await asyncio.sleep(_SETTLE_S)
        asked[0], before, began = 0, _cpu_s(process), time.monotonic()
        await asyncio.sleep(seconds)
        share = (_cpu_s(process) - before) / (time.monotonic() - began)
        assert not any(browser.done() for browser in browsers), "a browser has lost its stream"
        for browser in browsers:
            browser.cancel()
        await asyncio.gather(*browsers, return_exceptions=True)
    return share, asked[0]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def _browse(client: httpx.AsyncClient, run: str, asked: list[int]) -> None:
    """Follow the stream, and ask for the parts in sight whose topics change, as `parts.js` does."""
    topics: dict[str, str] = {}
    tags: dict[str, str] = {}
    async with client.stream("GET", "/api/stream", params={"watch": f"{run}/system,train,validation"}) as stream:
        event = ""
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event == "changed":
                told = json.loads(line.removeprefix("data: "))["topics"]
                changed = {name for name, token in told.items() if topics.get(name) != token}
                topics.update(told)
                for part in [part for part, of in _IN_SIGHT.items() if of & changed]:
                    headers = {"If-None-Match": tags[part]} if part in tags else {}
                    answer = await client.get(f"/parts/{part}", params={"id": run}, headers=headers)
                    assert answer.status_code in {200, 304}, answer.text
                    tags[part] = answer.headers["ETag"]
                    asked[0] += 1


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000, help="runs in the list (%(default)s)")
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps of the long run (%(default)s)")
    parser.add_argument("--browsers", type=int, default=50, help="browsers on the live run (%(default)s)")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a turn with browsers (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way (%(default)s)")
    add_report_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
