"""How soon the dashboard shows something, and what it costs.

Relight's own writers make the folders; a real Chromium opens the pages. "Shown" is the first run of the list, or the
first drawn chart of a run. Streamlit starts behind what is shown; "Streamlit" is when it has taken the page over, which
changes nothing that can be seen or pressed. The yardstick is a Streamlit page with nothing but a title.

"Cold" is the first page of a server that has just started, in a browser that has never seen the dashboard. "New
browser" is another such browser, at the same server. "Warm" is a browser that has seen the page before, so its caches
have the scripts, at a server that has just been asked for another page or the same one.

From log call to pixels: a thread logs a row at random moments and notes the time of the call; the page notes the time
of the frame after the one in which the chart has drawn that step. Both read the clock of this machine.

The browsers on one live run are connections that ask as the page's JavaScript does: one event stream each, and the
parts in sight whenever the stream says that one of their topics has changed. The run logs 10 rows a second and makes a
checkpoint every 15 s. What counts is the server's processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from playwright.sync_api import BrowserType, Page, sync_playwright

from list_runs import make_run
from measuring.numbers import spread
from measuring.report import Report, add_report_options, results_folder

_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/\?token=\S+")
_TOKEN = "of-a-benchmark"
_ROW = "[data-part=runs] a[href*='run?id=']"
_CHART = ".relight-chart[data-points]"
_TITLE = "h1"
_PARTS = ("pages", "latency", "browsers")
_IN_SIGHT = {
    "run-header": {"life", "files", "jobs"},
    "run-notices": {"life", "files", "jobs"},
    "run-exports": {"files", "jobs"},
    "run-figures": {"life"},
}
"""The parts at the top of a run's page and their topics, as in `relight_app.parts.registry`."""
_SETTLE_S = 4.0
_JOINED_S = 10.0
"""By then all browsers, which this one process plays, have asked for everything once."""
_CACHED_S = 1.2
"""The browser stores compiled scripts a moment after a page was opened."""
_CHECKPOINT_S = 15.0
_ROWS_PER_S = 10
_TEMPLATES = 20
"""Runs that Relight's writers make; the others are copies of these."""

_ONLY_A_TITLE = """
import sys
from pathlib import Path
import relight_app.server.asgi_app as application
application.serve.__kwdefaults__["script"] = Path(sys.argv.pop(1))
from relight_app.__main__ import main
sys.exit(main())
"""
_NOTE_WHEN_SHOWN = """([selector]) => {
  if (window.looking) return
  window.looking = true
  // Between two frames: what is found then has been painted, or is in the next frame.
  const hosts = '[data-mount] > div, [data-testid="stBidiComponentIsolated"], [data-testid="stBidiComponentIsolated"] *'
  const find = () =>
    document.querySelector(selector) ??
    [...document.querySelectorAll(hosts)].find((host) => host.shadowRoot?.querySelector(selector))
  const look = () => {
    if (document.body && find()) window.shownMs = performance.now()
    else setTimeout(look, 5)
  }
  look()
}"""
_WATCH_STEPS = """() => {
  const chart = document.querySelector('.relight-chart[data-last]')
  window.seen = []
  new MutationObserver(() => {
    const step = Number(chart.dataset.last.split(' ')[0])
    requestAnimationFrame(() => setTimeout(() => window.seen.push([step, Date.now() / 1000])))
  }).observe(chart, { attributes: true, attributeFilter: ['data-last'] })
}"""


@dataclass(frozen=True)
class _Server:
    """A dashboard that has just started."""

    process: subprocess.Popen[str]
    link: str
    started_s: float
    """`time.perf_counter()` when its process was started."""


@dataclass
class _Figure:
    """One figure that was asked for, and what was measured."""

    name: str
    asked: float
    unit: str
    values: list[float] = field(default_factory=list)


@contextlib.contextmanager
def _serve(runs: Path, *, script: Path | None = None, port: int = 0) -> Iterator[_Server]:
    program = ["-m", "relight_app"] if script is None else ["-c", _ONLY_A_TITLE, str(script)]
    options = ["--port", str(port), "--no-browser", "--runs", str(runs), "--token", _TOKEN]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *program, *options], stdout=subprocess.PIPE, text=True)
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
    figures: list[_Figure] = []
    with tempfile.TemporaryDirectory(prefix="relight-dashboard-") as name:
        folder = Path(name)
        if "browsers" in options.parts:  # before Playwright, which keeps an event loop running
            figures += _measure_browsers(folder / "live", options, report)
        with sync_playwright() as playwright:
            if "latency" in options.parts:
                figures += _measure_latency(folder / "logged", options, report, playwright.chromium)
            if "pages" in options.parts:
                figures += _measure_pages(folder, options, report, playwright.chromium)
    rows = [
        [figure.name, f"{figure.asked:g} {figure.unit}", f"{spread(figure.values).show(2)} {figure.unit}"]
        for figure in figures
    ]
    report.add_table("Asked and measured", ["what", "at most", "measured"], rows)
    report.finish(results_folder(options))


# --- pages -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Way:
    """One page that is opened."""

    name: str
    runs: Path
    page: str
    shown: str
    port: int
    profile: Path
    script: Path | None = None


def _measure_pages(folder: Path, options: argparse.Namespace, report: Report, chromium: BrowserType) -> list[_Figure]:
    many, long, wide, title = folder / "many", folder / "long", folder / "wide", folder / "title.py"
    _make_many_runs(many, options.runs)
    title.write_text("import streamlit as st\nst.title('A title')\n")
    ways = [
        _Way(name, runs, page, shown, _find_port(), folder / f"profile-{place}", script)
        for place, (name, runs, page, shown, script) in enumerate(
            (
                ("a title", many, "", _TITLE, title),
                (f"the list of {options.runs:,} runs", many, "", _ROW, None),
                (
                    f"a run of {options.steps:,} steps",
                    long,
                    f"run?id={_make_long_run(long, options.steps)}",
                    _CHART,
                    None,
                ),
                (
                    f"a run with {options.metrics:,} metrics",
                    wide,
                    f"run?id={_make_wide_run(wide, options.metrics)}",
                    _CHART,
                    None,
                ),
            )
        )
    ]
    times: dict[str, dict[str, list[float]]] = {
        way.name: {what: [] for what in ("start", "cold", "new", "warm", "streamlit")} for way in ways
    }
    for _ in range(options.repeats):
        for way in ways:
            found = times[way.name]
            print(f"opening {way.name}", file=sys.stderr)
            with contextlib.ExitStack() as stack:
                fresh = stack.enter_context(tempfile.TemporaryDirectory(dir=folder))
                cold = stack.enter_context(_browse_with(chromium, Path(fresh, "cold"), shown=way.shown))
                server = stack.enter_context(_serve(way.runs, script=way.script, port=way.port))
                asked_s = time.perf_counter() - server.started_s
                found["cold"].append(_open(cold, way, with_token=True))
                found["start"].append(asked_s + found["cold"][-1])
                cold.close()
                with _browse_with(chromium, Path(fresh, "new"), shown=way.shown) as page:
                    found["new"].append(_open(page, way, with_token=True))
                with _browse_with(chromium, way.profile, shown=way.shown) as page:
                    _open(page, way, with_token=True)
                    time.sleep(_CACHED_S)
                    for _ in range(options.opened):
                        found["warm"].append(_open(page, way))
                        if way.script is None:
                            page.locator("#relight-first").wait_for(state="detached", timeout=20_000)
                            found["streamlit"].append(page.evaluate("performance.now()") / 1000)
                        time.sleep(_CACHED_S)
    rows = [
        [name, *(spread(values).show(2) if values else "" for values in found.values())]
        for name, found in times.items()
    ]
    columns = ["page", "cold, from the server's start", "cold", "new browser", "warm", "Streamlit, warm"]
    report.add_table("Until it is shown, seconds", columns, rows)
    report.data["pages_s"] = times
    _, runs, run, metrics = times.values()
    return [
        _Figure(f"list of {options.runs:,} runs, from the server's start", 2.5, "s", runs["start"]),
        _Figure(f"list of {options.runs:,} runs, warm", 0.7, "s", runs["warm"]),
        _Figure(f"run of {options.steps:,} steps, cold", 3.0, "s", run["cold"]),
        _Figure(f"run of {options.steps:,} steps, warm", 0.7, "s", run["warm"]),
        _Figure(f"run with {options.metrics:,} metrics, warm", 2.0, "s", metrics["warm"]),
    ]


@contextlib.contextmanager
def _browse_with(chromium: BrowserType, profile: Path, *, shown: str) -> Iterator[Page]:
    """Start a browser that keeps what it learns in `profile`."""
    context = chromium.launch_persistent_context(
        profile, executable_path=_find_chromium(), args=["--no-sandbox"], viewport={"width": 1440, "height": 900}
    )
    context.add_init_script(f"({_NOTE_WHEN_SHOWN})([{json.dumps(shown)}])")
    try:
        yield context.pages[0]
    finally:
        context.close()


def _open(page: Page, way: _Way, *, with_token: bool = False) -> float:
    """Return the seconds from the start of the navigation until the page is shown."""
    address = f"http://127.0.0.1:{way.port}/{way.page}"
    if with_token:
        address += f"{'&' if '?' in address else '?'}token={_TOKEN}"
    page.goto("about:blank")
    page.goto(address, wait_until="commit")
    page.evaluate(_NOTE_WHEN_SHOWN, [way.shown])  # a new browser's first page may be without its init script
    page.wait_for_function("window.shownMs", polling=50, timeout=20_000)
    shown_ms: float = page.evaluate("window.shownMs")
    return shown_ms / 1000


def _find_chromium() -> str:
    names = (os.environ.get("RELIGHT_CHROMIUM", ""), "chromium", "google-chrome", "chromium-browser")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit("There is no Chromium. Name one with RELIGHT_CHROMIUM.")
    return found


def _find_port() -> int:
    """Return a free port: the caches of a browser belong to an address with its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _make_many_runs(folder: Path, count: int) -> None:
    """Make this many runs: a few with Relight's writers, the others as copies of these."""
    # In a process of its own: it counts as their trainer, and runs whose trainer lives are read each time.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as makers:
        for number in range(min(_TEMPLATES, count)):
            makers.submit(make_run, folder, number, checkpoints=1).result()
    templates = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for number in range(len(templates), count):
        shutil.copytree(templates[number % len(templates)], folder / f"copy-{number:05d}")


def _make_run(folder: Path, stream: str, columns: tuple[str, ...], records: Any) -> str:
    """Make a run with one metric file: float64 records without their first two columns, the step and the time."""
    import numpy as np

    from relight.metrics.file_format import MetricHeader, encode_header, metric_file_name
    from relight.runs.catalog import create_run
    from relight.tasks.reference import resolve_task, validate_config

    layout = create_run(folder, validate_config(resolve_task("digits"), [])).layout
    steps = len(records)
    records.view(np.int64)[:, 0] = np.arange(1, steps + 1)
    records[:, 1] = time.time() - steps + np.arange(steps)
    layout.metrics.mkdir(exist_ok=True)
    path = layout.metrics / metric_file_name(stream, attempt=1)
    path.write_bytes(encode_header(MetricHeader(stream, 1, columns)) + records.tobytes())
    return layout.run_id


def _make_long_run(folder: Path, steps: int) -> str:
    import numpy as np

    columns = ("loss", "lr", "accuracy", "grad_norm", "samples_per_s")
    records = np.random.default_rng(1).normal(size=(steps, 2 + len(columns))).cumsum(axis=0)
    return _make_run(folder, "train", columns, records)


def _make_wide_run(folder: Path, metrics: int) -> str:
    import numpy as np

    columns = tuple(f"layer{number // 20}/norm{number % 20}" for number in range(metrics))
    records = np.random.default_rng(2).normal(size=(1000, 2 + metrics))
    return _make_run(folder, "train", columns, records)


# --- from log call to pixels -----------------------------------------------------------------------------------------


def _measure_latency(folder: Path, options: argparse.Namespace, report: Report, chromium: BrowserType) -> list[_Figure]:
    logged: dict[int, float] = {}
    with (
        _train(folder, logged=logged) as run,
        _serve(folder) as server,
        tempfile.TemporaryDirectory() as profile,
        _browse_with(chromium, Path(profile), shown=_CHART) as page,
    ):
        page.goto(server.link.replace("/?", f"/run?id={run}&"))
        page.locator(f"{_CHART}[data-last]").first.wait_for(timeout=60_000)
        page.locator("#relight-first").wait_for(state="detached", timeout=20_000)
        time.sleep(_SETTLE_S)
        page.evaluate(_WATCH_STEPS)
        time.sleep(options.seconds)
        seen: list[tuple[int, float]] = page.evaluate("window.seen")
    # A frame that shows step n also shows the steps before it that no earlier frame has shown.
    waits, shown = [], seen[0][0]
    for step, painted_s in seen:
        waits += [painted_s - logged[number] for number in range(shown + 1, step + 1)]
        shown = max(shown, step)
    worst = sorted(waits)[int(0.95 * len(waits))]
    report.add_table(
        "From log call to pixels, ms",
        ["steps", "median", "95 %"],
        [[len(waits), spread(waits).scaled(1000).show(0), f"{1000 * worst:.0f}"]],
    )
    report.data["latency_s"] = waits
    return [_Figure("from log call to pixels, median", 0.15, "s", waits)]


# --- browsers on one live run ----------------------------------------------------------------------------------------


def _measure_browsers(folder: Path, options: argparse.Namespace, report: Report) -> list[_Figure]:
    counts = (options.browsers,)
    shares: dict[int, list[float]] = {count: [] for count in counts}
    answers = 0
    with _train(folder) as run, _serve(folder) as server:
        process = psutil.Process(server.process.pid)
        for _ in range(options.repeats):
            for count in counts:
                share, asked = asyncio.run(_watch(server, process, run, count, seconds=options.seconds))
                shares[count].append(100 * share)
                answers = max(answers, asked)
    report.add_table(
        "Browsers on one live run",
        ["browsers", "% of one core"],
        [[count, spread(shares[count]).show(2)] for count in counts],
    )
    report.add_text(f"They asked for up to {answers} parts in a turn.")
    report.data["browsers"] = {"percent_of_core": shares, "parts_asked": answers}
    return [_Figure(f"{options.browsers} browsers on one live run", 3.0, "% of a core", shares[options.browsers])]


@contextlib.contextmanager
def _train(folder: Path, *, logged: dict[int, float] | None = None) -> Iterator[str]:
    """Write what a training writes, from a thread; yield the run's id.

    With `logged`, log at random moments instead, and note the time of each step's log call there.
    """
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
        while not ended.wait(1 / _ROWS_PER_S if logged is None else random.uniform(0.25, 0.55)):
            step += 1
            if logged is not None:
                logged[step] = time.time()
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
        await asyncio.sleep(_JOINED_S)
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
    parser.add_argument("parts", nargs="*", default=_PARTS, help=f"what to measure: {', '.join(_PARTS)} (all)")
    parser.add_argument("--runs", type=int, default=1000, help="runs in the list (%(default)s)")
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps of the long run (%(default)s)")
    parser.add_argument("--metrics", type=int, default=2_000, help="metrics of the wide run (%(default)s)")
    parser.add_argument("--browsers", type=int, default=50, help="browsers on the live run (%(default)s)")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of a turn with a live run (%(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="servers of each page, turns of browsers (%(default)s)")
    parser.add_argument("--opened", type=int, default=3, help="how often a warm page is opened (%(default)s)")
    add_report_options(parser)
    options = parser.parse_args()
    unknown = set(options.parts) - set(_PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose from {', '.join(_PARTS)}")
    return options


if __name__ == "__main__":
    main()
