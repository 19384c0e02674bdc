"""Presses every button of the dashboard many times on a busy machine, and checks that each press counts exactly once.

    python -m tests.e2e.press_storm --presses 200 --loops 4 --restarts 20 --kinds star,pin

Half of the presses are double-clicks. After four in ten the browser goes to another page at once. With `--restarts`,
the server is killed with -9 that many times, right around a press, and started again. What a press did is read from
the runs folder, which also holds one answer for each request. The times from a press until it is done, and until the
page that stays open shows it, are printed. `make soak` runs it.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import re
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from playwright.sync_api import Error, Locator, Page, expect, sync_playwright

from relight.checkpoints.store import CheckpointStore
from relight.overview.exports import list_exports
from relight.runs.about import read_about
from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout
from relight.runs.process_identity import is_alive
from relight.runs.record_file import read_record, read_record_or_none, write_record
from relight.runs.records import AttemptProcesses, ProcessIdentity, RunRecord
from relight.runs.stop_request import read_stop_request
from relight.runs.trash import list_trash
from relight.tasks.reference import launch_script, resolve_task
from tests.app.sample_runs import SampleRun, make_run
from tests.e2e.conftest import PATIENCE_MS, Dashboard, open_browser, serve_dashboard, start_chromium

KINDS = (
    "star", "archive", "rename", "note", "tag", "pin", "export", "verify", "compare", "delete", "launch", "branch",
    "drill", "describe", "resume-interrupted",
)  # fmt: skip
"""Each "delete" also restores, and each "launch" also stops and resumes."""
_LONG = 4 * PATIENCE_MS
_FREE = """import time
if False:
    import relight
    relight.init()
with open(__file__ + ".begun", "a") as begun:
    begun.write("begun\\n")
time.sleep({seconds})
"""
"""A training that costs nothing: what is tested are presses."""
_NOTE_PRESSES = """
addEventListener('click', ({ detail, target }) => {
  if (detail > 1 || target.closest('nav, header')) return
  window.pressedAt = Date.now()
  const loaded = performance.getEntriesByType('resource').map((one) => one.name)
  window.actions ??= loaded.find((one) => one.endsWith('/actions.js'))
  performance.clearResourceTimings()
}, true)
"""
_SLOW_S = 2.0
_REQUESTS = """() => {
  const begun = window.pressedAt - performance.timeOrigin
  const asked = performance.getEntriesByType('resource').filter((one) => one.responseEnd > begun)
  return asked.map(({ name, startTime, requestStart, responseEnd }) => [
    new URL(name).pathname, ...[startTime, requestStart, responseEnd].map((time) => Math.round(time - begun)),
  ])
}"""
"""What the page has asked since the press: when each question was meant, sent and answered, in ms after the press."""
_OPEN = "href => { history.pushState(null, '', href); dispatchEvent(new PopStateEvent('popstate')) }"
_ACT = """async ([name, payload, key]) => {
  const { act } = await import(window.actions)
  return Promise.all([act(name, payload, key), act(name, payload, key)])
}"""


class Storm:
    """One runs folder, one page, and one server after the other on the same port."""

    def __init__(self, folder: Path, page: Page, dashboard: Dashboard, *, seed: int) -> None:
        self.dashboard = dashboard
        self.page = page
        self.runs = dashboard.runs
        self.restart: Callable[[], Dashboard] = lambda: dashboard
        self.done_s: dict[str, list[float]] = {}
        self.shown_s: dict[str, list[float]] = {}
        self.running_s: dict[str, list[float]] = {}
        self.restarted_s: list[float] = []
        self.kills = False
        self._chance = random.Random(seed)
        self._pressed_s = 0.0
        self._killed = self._stays = False
        self._requests = 0
        self._address = ""
        self._sleeping = self._write_script(folder / "sleeping.py", seconds=600)
        self._ending = self._write_script(folder / "ending.py", seconds=0)
        self._failing = folder / "failing.py"
        self._failing.write_text("open(__file__ + '.begun', 'a').write('begun\\n')\nraise SystemExit(1)\n")
        self._run = self._make_run("pressed", checkpoints=5)
        self._other = self._make_run("other")
        self._doomed = self._make_run("doomed")
        self._parent = self._make_script_run("parent", self._sleeping)
        self._drilled = self._make_script_run("drilled", self._ending)

    def press(self, kind: str, number: int) -> None:
        """Press one button once, and check what came of it. Nothing of the presses before may be left over."""
        expect(self.page.locator("[data-busy]")).to_have_count(0)
        assert self._count_requests() == self._requests, f"before {kind}: {self._requests} presses, other requests"
        getattr(self, f"_press_{kind.replace('-', '_')}")(number)

    def _press_star(self, _number: int) -> None:
        before = read_about(self._run).about.starred
        self._click(self._item("star"))
        self._check("star", lambda: read_about(self._run).about.starred is not before, self._choice("star", on=before))

    def _press_archive(self, _number: int) -> None:
        before = read_about(self._run).about.archived
        self._click(self._item("archive"))
        self._check("archive", lambda: read_about(self._run).about.archived is not before,
                    self._choice("archive", on=before))  # fmt: skip

    def _press_rename(self, number: int) -> None:
        name = f"pressed {number} {self._chance.random()}"
        self._click(self._answer("rename", name))
        self._check("rename", lambda: read_about(self._run).about.name == name,
                    self.page.get_by_role("heading", name=name, exact=True))  # fmt: skip

    def _press_note(self, number: int) -> None:
        note = f"note {number} {self._chance.random()}"
        self._click(self._answer("note", note))
        self._check("note", lambda: read_about(self._run).about.note == note,
                    self.page.locator(f'[data-act=note][data-field-value="{note}"]'))  # fmt: skip

    def _press_tag(self, number: int) -> None:
        tag = f"tag{number}"
        self._click(self._answer("tag", tag))
        self._check("tag", lambda: read_about(self._run).about.tags == (tag,), self.page.get_by_text(f"“{tag}”"))
        self._click(self._item("tag", payload="remove"))
        self._check("untag", lambda: not read_about(self._run).about.tags,
                    self.page.locator("[data-act=tag]"), count=1)  # fmt: skip

    def _press_pin(self, _number: int) -> None:
        before = self._count_pins()
        self._go(f"/run?id={self._run.run_id}")
        button = self.page.get_by_role("button", name=re.compile("^Actions for step")).first
        button.click()
        item = self.page.locator("[role=menu]:popover-open [data-act=pin]")
        on = "true" in (item.get_attribute("data-payload") or "")
        self._click(item)
        pins = before + (1 if on else -1)
        self._check(
            "pin", lambda: self._count_pins() == pins, self.page.locator(".badge", has_text="pinned"), count=pins
        )

    def _press_export(self, number: int) -> None:
        for file in list_exports(self._run.exports):
            file.path.unlink()
        self._go(f"/run?id={self._run.run_id}")
        expect(self.page.get_by_role("button", name="Download", exact=True)).to_have_count(0)
        name = ".pth" if number % 20 == 0 else "Export best weights"  # a .pth file takes a process that loads torch
        self._click(self._button(name, self._run))
        self._check("export", lambda: len(list_exports(self._run.exports)) == 1,
                    self.page.get_by_role("button", name="Download", exact=True))  # fmt: skip

    def _press_verify(self, _number: int) -> None:
        self._go(f"/run?id={self._run.run_id}")
        self._click(self._button("Verify", self._run))
        self._check("verify", lambda: self._count_requests() == self._requests,
                    self.page.get_by_text("every digest matches"))  # fmt: skip

    def _press_compare(self, _number: int) -> None:
        self._go("/")
        for layout in (self._other, self._drilled):
            self.page.locator(f"[data-select='{layout.run_id}']").check()
        self._click(self.page.get_by_role("button", name="Compare", exact=True), requests=0)
        if self._stays or self._killed:
            self.page.wait_for_url(re.compile(r"/compare\?ids=.*,.*"))
        self._check("compare", lambda: True, self.page.locator(".relight-compare table"))

    def _press_delete(self, _number: int) -> None:
        run = self._doomed.run_id
        self._go("/")
        self.page.get_by_role("button", name="Actions for doomed").click()
        self.page.locator("[role=menu]:popover-open [data-act=delete]").click()
        row = self.page.locator(f"tr[data-key='{run}']")
        self._click(self.page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True))
        self._check("delete", lambda: not self._doomed.folder.exists(), row, count=0)
        assert [entry.run for entry in list_trash(self.runs)] == [run]
        self._go("/")
        expect(row).to_have_count(0)
        self._requests += 1
        self._pressed_s = time.time()
        self._killed, self._stays = False, True
        answers = self.page.evaluate(_ACT, ["restore", {"run": run}, secrets.token_hex(16)])
        assert answers == [{"run": run}] * 2
        self._check("restore", self._doomed.folder.exists, row)

    def _press_launch(self, number: int) -> None:
        self._go(f"/launch?task=file&file={self._sleeping}")
        name = f"launched {number}"
        self.page.get_by_label("Name", exact=True).fill(name)
        before = list_layouts(self.runs)
        self._click(self.page.get_by_role("button", name="Launch", exact=True))
        self._check("launch", lambda: len(self._find_new(before)) == 1,
                    self.page.get_by_role("heading", name=name, exact=True))  # fmt: skip
        (new,) = self._find_new(before)
        self._time_until_running("launch")
        assert read_record(new.record, RunRecord).name == name, "what was typed was not launched"
        self._press_stop_of(new)
        self._press_resume_of(new)
        self._discard(new)

    def _press_stop_of(self, layout: RunLayout) -> None:
        self._go(f"/run?id={layout.run_id}")
        self._click(self.page.locator(".buttons [data-act=stop]"))
        stopping = self.page.get_by_role("button", name="Stopping…")  # or it has stopped already
        self._check("stop", lambda: read_stop_request(layout, attempt=1) is not None,
                    stopping.or_(self.page.locator(".pill.stopped")))  # fmt: skip

    def _press_resume_of(self, layout: RunLayout) -> None:
        _kill_processes(layout)
        self._go(f"/run?id={layout.run_id}")
        self._click(self.page.locator(".buttons [data-act=resume]"))
        self._check("resume", lambda: layout.list_attempts() == [1, 2], self.page.get_by_text("attempt 2", exact=True))

    def _press_branch(self, number: int) -> None:
        (step, *_) = [
            info.step for info in CheckpointStore(self._parent.checkpoints).list(higher_is_better=True).checkpoints
        ]
        self._go(f"/branch?id={self._parent.run_id}&step={step}")
        name = f"branched {number}"
        self.page.get_by_label("Name", exact=True).fill(name)
        before = list_layouts(self.runs)
        self._click(self.page.get_by_role("button", name="Start branch", exact=True))
        self._check("branch", lambda: len(self._find_new(before)) == 1,
                    self.page.get_by_role("heading", name=name, exact=True))  # fmt: skip
        (new,) = self._find_new(before)
        self._time_until_running("branch")
        parent = read_record(new.record, RunRecord).parent
        assert parent is not None and (parent.run, parent.step) == (self._parent.run_id, step)
        self._discard(new)

    def _press_drill(self, _number: int) -> None:
        before = _count_begun(self._ending)
        self._go(f"/run?id={self._drilled.run_id}")
        self._click(self._button("Prove resume", self._drilled))
        self._check("drill", lambda: self._has_begun(self._ending, before, most=2),
                    self.page.get_by_role("alert").filter(has_text="nothing to compare"))  # fmt: skip

    def _press_describe(self, _number: int) -> None:
        before = _count_begun(self._failing)
        self._go(f"/launch?task=file&file={self._failing}:Task")
        self._click(self.page.get_by_role("button", name="Show options", exact=True))
        self._check("describe", lambda: self._has_begun(self._failing, before),
                    self.page.locator("form[data-act=describe]:not([data-busy])"))  # fmt: skip

    def _press_resume_interrupted(self, number: int) -> None:
        layout = self._make_script_run(f"interrupted {number}", self._sleeping, status="interrupted")
        self._go("/")
        self._click(self.page.get_by_role("button", name="Resume it", exact=True))
        self._check("resume-interrupted", lambda: layout.list_attempts() == [1, 2],
                    self.page.locator(f"tr[data-key='{layout.run_id}'] .pill.running"))  # fmt: skip
        self._discard(layout)

    def _button(self, name: str, run: RunLayout) -> Locator:
        """Return the button that acts on this run: for a moment the page still shows the run before."""
        button = self.page.get_by_role("button", name=name, exact=True)
        return button.and_(self.page.locator(f"[data-payload*='{run.run_id}']"))

    def _item(self, action: str, payload: str = "run") -> Locator:
        """Open the menu of the run and return the item that does `action`."""
        self._go(f"/run?id={self._run.run_id}")
        self.page.locator("[data-menu=menu-run]").click()
        return self.page.locator(f"[role=menu]:popover-open [data-act={action}][data-payload*='{payload}']").last

    def _answer(self, action: str, text: str) -> Locator:
        """Type the answer to the question of an item, and return the button that sends it."""
        self._go(f"/run?id={self._run.run_id}")
        self.page.locator("[data-menu=menu-run]").click()
        self.page.locator(f"[role=menu]:popover-open [data-act={action}][data-field]").click()
        dialog = self.page.get_by_role("dialog")
        dialog.locator("input, textarea").fill(text)
        return dialog.locator("[type=submit]")

    def _choice(self, action: str, *, on: bool) -> Locator:
        """Return the item that the menu has once the run is no longer as it was."""
        return self.page.locator(f"[data-act={action}][data-payload*='\"on\": {str(on).lower()}']")

    def _click(self, button: Locator, *, requests: int = 1) -> None:
        self._requests += requests
        killed, self.kills = self.kills, False
        expect(button).to_be_enabled()
        if killed and self._chance.random() < 0.5:
            self.dashboard.process.kill()
        if self._chance.random() < 0.5:
            button.dblclick(no_wait_after=True)
        else:
            button.click(no_wait_after=True)
        self._pressed_s = self.page.evaluate("window.pressedAt") / 1000
        if killed:
            time.sleep(self._chance.uniform(0, 0.3))
            self.dashboard.process.kill()
            self.dashboard = self.restart()
        self._killed = killed
        self._stays = not killed and self._chance.random() < 0.6
        if not killed and not self._stays:
            elsewhere = self._chance.choice(["Machine", "Runs"])
            self.page.get_by_role("link", name=elsewhere, exact=True).first.click()
            self._address = self.dashboard.address("/machine" if elsewhere == "Machine" else "/")

    def _check(self, kind: str, is_done: Callable[[], bool], shown: Locator, *, count: int | None = None) -> None:
        deadline = time.monotonic() + _LONG / 1000
        while not is_done():
            assert time.monotonic() < deadline, f"the press on {kind} was lost"
            time.sleep(0.005)
        if self._killed:
            self.restarted_s.append(time.time() - self._pressed_s)
        else:
            self.done_s.setdefault(kind, []).append(time.time() - self._pressed_s)
        if self._stays or self._killed:
            self._wait_until_shown(shown, count=count, kind=kind)
        if self._stays:
            self.shown_s.setdefault(kind, []).append(time.time() - self._pressed_s)
            if self.shown_s[kind][-1] > _SLOW_S:
                print(
                    f"{kind} was shown after {self.shown_s[kind][-1]:.2f} s: {self.page.evaluate(_REQUESTS)}",
                    flush=True,
                )
        while self._count_requests() < self._requests:
            assert time.monotonic() < deadline, f"the press on {kind} got no answer"
            time.sleep(0.005)

    def _wait_until_shown(self, shown: Locator, *, count: int | None = None, kind: str) -> None:
        """Wait until there are `count` of these elements, or any. Playwright itself looks at most twice a second."""
        deadline = time.monotonic() + _LONG / 1000
        while not (shown.count() if count is None else shown.count() == count):
            assert time.monotonic() < deadline, f"the press on {kind} was not shown"
            self.page.wait_for_timeout(20)

    def _time_until_running(self, kind: str) -> None:
        """Note when the page that stays open shows that the new run trains."""
        if self._stays:
            self._wait_until_shown(self.page.locator(".pill.running"), kind=kind)
            self.running_s.setdefault(kind, []).append(time.time() - self._pressed_s)

    def _go(self, path: str) -> None:
        """Go to a page as its link does, without a reload."""
        if self._address:  # Streamlit sometimes keeps the query of the page before
            self.page.wait_for_url(re.compile(re.escape(self._address) + r"(\?.*)?$"))
            self._address = ""
        if self.page.url != self.dashboard.address(path):
            self.page.evaluate(_OPEN, path)

    def _has_begun(self, script: Path, before: int, *, most: int = 1) -> bool:
        """Return whether the press has its answer and began the script, at most so often, but again after a kill."""
        begun = _count_begun(script) - before
        assert begun <= (2 * most if self._killed else most), f"a press began {script} {begun} times"
        return begun > 0 and self._count_requests() == self._requests

    def _count_requests(self) -> int:
        return len(list((self.runs / ".actions").glob("*.json")))

    def _count_pins(self) -> int:
        store = CheckpointStore(self._run.checkpoints)
        return sum("pinned" in info.labels for info in store.list(higher_is_better=True).checkpoints)

    def _find_new(self, before: list[RunLayout]) -> list[RunLayout]:
        new = [layout for layout in list_layouts(self.runs) if layout not in before]
        assert len(new) <= 1, f"one press started {new}"
        return new

    def _write_script(self, path: Path, *, seconds: int) -> Path:
        path.write_text(_FREE.format(seconds=seconds))
        return path

    def _make_run(self, name: str, **facts: Any) -> RunLayout:
        """Make a run without curves: drawing them takes longer than everything that a press does."""
        layout = make_run(self.runs, SampleRun(name, **facts))
        shutil.rmtree(layout.metrics)
        return layout

    def _make_script_run(self, name: str, script: Path, *, status: str = "crashed") -> RunLayout:
        layout = self._make_run(name, status=status, step=40, steps_total=50, durable_lag=10)
        record = read_record(layout.record, RunRecord)
        task = launch_script(resolve_task(str(script)), arguments=())
        write_record(layout.record, msgspec.structs.replace(record, task=task, config={}))
        return layout

    def _discard(self, layout: RunLayout) -> None:
        _kill_processes(layout)
        shutil.rmtree(layout.folder)


def _kill_processes(layout: RunLayout) -> None:
    """Kill what trains the run, as a power cut does."""
    attempt = layout.attempt(layout.latest_attempt())
    processes = read_record(attempt.processes, AttemptProcesses)
    writer = read_record_or_none(attempt.writer, ProcessIdentity)
    for process in (processes.supervisor, processes.trainer, writer):
        if process is not None and is_alive(process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            while is_alive(process):
                time.sleep(0.005)


def _count_begun(script: Path) -> int:
    begun = Path(f"{script}.begun")
    return begun.read_text().count("begun") if begun.exists() else 0


@contextmanager
def busy_loops(number: int) -> Iterator[None]:
    """Keep that many cores busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    """Run the storm that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presses", type=int, default=200, help="of each button")
    parser.add_argument("--loops", type=int, default=4, help="busy loops beside it")
    parser.add_argument("--restarts", type=int, default=20, help="kills of the server, in all")
    parser.add_argument("--kinds", default=",".join(KINDS), help=f"what to press: {', '.join(KINDS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=math.inf, help="end after this time, with fewer presses")
    given: Any = parser.parse_args()
    expect.set_options(timeout=_LONG)
    kinds = given.kinds.split(",")
    presses = [(kind, number) for number in range(given.presses) for kind in kinds]
    killed = set(random.Random(given.seed).sample(range(len(presses)), given.restarts))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relight-press-storm-")))
        stack.enter_context(busy_loops(given.loops))
        browser = start_chromium(stack.enter_context(sync_playwright()))
        dashboard = stack.enter_context(serve_dashboard(folder, compiler=False))
        context = stack.enter_context(open_browser(browser, may_fail=True))
        context.set_default_timeout(_LONG)
        page = context.new_page()
        page.add_init_script(_NOTE_PRESSES)
        page.goto(dashboard.url)
        page.wait_for_selector(".view")
        expect(page.locator("#relight-first")).to_have_count(0)  # Streamlit has taken over: links load no page from now
        storm = Storm(folder, page, dashboard, seed=given.seed)
        storm.restart = lambda: stack.enter_context(serve_dashboard(folder, port=dashboard.port, compiler=False))
        stack.callback(_report, storm)  # also when something ends it early
        begun_s = time.monotonic()
        for index, (kind, number) in enumerate(presses):
            if time.monotonic() - begun_s > given.seconds:
                break
            storm.kills = index in killed
            try:
                storm.press(kind, number)
            except (AssertionError, Error, KeyboardInterrupt):
                print(f"{kind}, press {number}; the server: {storm.dashboard.process.poll()}; {page.url}")
                print(page.locator("body").aria_snapshot())
                print(sorted(folder.glob("dashboard-*.txt"))[-1].read_text(errors="replace")[-3000:])
                raise


def _report(storm: Storm) -> None:
    for kind, times in storm.done_s.items():
        print(
            f"{kind}: {len(times)} presses, each done once: {_word(times)}; shown: {_word(storm.shown_s.get(kind, []))}"
        )
    for kind, times in storm.running_s.items():
        print(f"{kind}: shown as running: {_word(times)}")
    if storm.restarted_s:
        print(f"{len(storm.restarted_s)} kills of the server, each press done once: {_word(storm.restarted_s)}")


def _word(times: list[float]) -> str:
    if not times:
        return "never"
    ordered = sorted(times)
    p95, most = ordered[int(0.95 * (len(ordered) - 1))], ordered[-1]
    return f"median {statistics.median(times):.2f} s, p95 {p95:.2f} s, at most {most:.2f} s"


if __name__ == "__main__":
    main()
