"""Presses every button of the dashboard many times on a busy machine, and checks that each press counts exactly once.

    python -m tests.e2e.press_storm --presses 200 --loops 4 --restarts 20

Half of the presses are double-clicks. After half of them the browser goes to another page at once. With `--restarts`,
the server is killed with -9 that many times, right around a press, and started again. What a press did is read from
the runs folder. The times from a press until it is done are printed. `make soak` runs it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect, sync_playwright

from relight.checkpoints.store import CheckpointStore
from relight.overview.exports import list_exports
from relight.overview.summary import summarize_run
from relight.runs.about import read_about
from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout
from relight.runs.stop_request import read_stop_request
from relight.runs.trash import list_trash
from tests.app.sample_runs import SampleRun, make_run
from tests.e2e.conftest import PATIENCE_MS, Dashboard, end_runs, open_browser, serve_dashboard, start_chromium

_SCRIPT = """import time
if False:
    import relight
    relight.init()
print("hello", flush=True)
time.sleep(600)
"""
"""A training that costs nothing: what is tested are presses."""


class Storm:
    """One runs folder, one page, and one server after the other on the same port."""

    def __init__(self, folder: Path, page: Page, dashboard: Dashboard, *, seed: int) -> None:
        self.dashboard = dashboard
        self.page = page
        self.folder = folder
        self.runs = dashboard.runs
        self.restart: Callable[[], None] = lambda: None
        self.shown_s: dict[str, list[float]] = {}
        self.restarts_left = 0
        self._chance = random.Random(seed)
        self._begun = 0.0
        self._stays = True
        self._run = make_run(self.runs, SampleRun("pressed"))
        self._script = folder / "nothing.py"
        self._script.write_text(_SCRIPT)

    def press(self, kind: str, number: int) -> None:
        """Press one button once, and check what came of it."""
        getattr(self, f"_press_{kind}")(number)

    def _press_star(self, _number: int) -> None:
        before = read_about(self._run).about.starred
        self._open_menu_of_run()
        item = self.page.get_by_role("menuitem", name="Remove the star" if before else "Star", exact=True)
        self._act(item, "star", lambda: read_about(self._run).about.starred is not before)

    def _press_archive(self, _number: int) -> None:
        before = read_about(self._run).about.archived
        self._open_menu_of_run()
        item = self.page.get_by_role("menuitem", name="Show in the list again" if before else "Archive", exact=True)
        self._act(item, "archive", lambda: read_about(self._run).about.archived is not before)

    def _press_rename(self, number: int) -> None:
        self._answer("Rename…", "Name", f"pressed {number}", "Rename")
        self._check("rename", lambda: read_about(self._run).about.name == f"pressed {number}",
                    self.page.get_by_role("heading", name=f"pressed {number}", exact=True))  # fmt: skip

    def _press_note(self, number: int) -> None:
        self._answer("Note…", "What you want to remember", f"note {number}", "Save")
        self._check("note", lambda: read_about(self._run).about.note == f"note {number}", None)

    def _press_tag(self, number: int) -> None:
        tag = f"tag{number % 40}"
        self._answer("Tag…", "Tags, with spaces between them", tag, "Tag")
        self._check("tag", lambda: tag in read_about(self._run).about.tags, None)

    def _press_pin(self, _number: int) -> None:
        self._go(f"/run?id={self._run.run_id}")
        before = self._count_pins()
        self.page.get_by_role("button", name="Actions for step").first.click()
        item = self.page.locator("[role=menu]:popover-open [data-act=pin]")
        on = "Unpin" not in (item.inner_text())
        self._act(item, "pin", lambda: self._count_pins() == before + (1 if on else -1))

    def _press_export(self, number: int) -> None:
        self._go(f"/run?id={self._run.run_id}")
        for file in list_exports(self._run.exports):
            file.path.unlink()
        name = ".pth" if number % 4 == 0 else "Export best weights"
        button = self.page.get_by_role("button", name=name, exact=True)
        self._act(button, "export", lambda: len(list_exports(self._run.exports)) == 1)
        self._go(f"/run?id={self._run.run_id}")
        expect(self.page.get_by_role("button", name=name, exact=True)).to_be_enabled()
        expect(self.page.get_by_role("button", name="Download")).to_be_visible()

    def _press_verify(self, _number: int) -> None:
        self._go(f"/run?id={self._run.run_id}")
        self._act(self.page.get_by_role("button", name="Verify", exact=True), "verify", lambda: True)
        self._go(f"/run?id={self._run.run_id}")
        expect(self.page.get_by_role("button", name="Verify", exact=True)).to_be_enabled()

    def _press_delete(self, number: int) -> None:
        doomed = make_run(self.runs, SampleRun(f"doomed {number}", checkpoints=1, step=20, steps_total=20))
        self._go(f"/run?id={doomed.run_id}")
        self.page.get_by_role("button", name="Actions for doomed").click()
        self.page.get_by_role("menuitem", name="Delete…").click()
        yes = self.page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True)
        self._act(yes, "delete", lambda: not doomed.folder.exists())
        assert [entry.run for entry in list_trash(self.runs)].count(doomed.run_id) == 1

    def _press_launch(self, number: int) -> None:
        self._go(f"/launch?task=file&file={self._script}")
        self.page.get_by_label("Name", exact=True).press_sequentially(f"launched {number}", delay=0)
        before = {layout.run_id for layout in list_layouts(self.runs)}

        def is_there() -> bool:
            new = [layout for layout in list_layouts(self.runs) if layout.run_id not in before]
            assert len(new) <= 1, f"one press launched {new}"
            return len(new) == 1

        self._act(self.page.get_by_role("button", name="Launch", exact=True), "launch", is_there)
        (new,) = [layout for layout in list_layouts(self.runs) if layout.run_id not in before]
        assert new.run_id.startswith(f"launched-{number}"), f"what was typed was not launched: {new.run_id}"
        self._press_stop_of(new)
        self._press_resume_of(new)
        end_runs(self.runs)

    def _press_stop_of(self, layout: RunLayout) -> None:
        self._go(f"/run?id={layout.run_id}")
        self._act(self.page.get_by_role("button", name="Stop", exact=True), "stop",
                  lambda: read_stop_request(layout, attempt=1) is not None)  # fmt: skip

    def _press_resume_of(self, layout: RunLayout) -> None:
        trainer = summarize_run(layout).pids.trainer
        end_runs(self.runs)
        if trainer is not None:
            os.kill(trainer, signal.SIGKILL)
        self._go(f"/run?id={layout.run_id}")
        self._act(self.page.get_by_role("button", name="Resume", exact=True), "resume",
                  lambda: layout.list_attempts() == [1, 2])  # fmt: skip
        trainer = summarize_run(layout).pids.trainer
        if trainer is not None:
            os.kill(trainer, signal.SIGKILL)

    def _open_menu_of_run(self) -> None:
        self._go(f"/run?id={self._run.run_id}")
        self.page.locator(".page-header [data-menu]").click()

    def _answer(self, item: str, label: str, text: str, yes: str) -> None:
        self._open_menu_of_run()
        self.page.get_by_role("menuitem", name=item).click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_label(label).fill(text)
        self._click(dialog.get_by_role("button", name=yes, exact=True))

    def _act(self, button: Locator, kind: str, is_done: Callable[[], bool]) -> None:
        self._click(button)
        self._check(kind, is_done, None)

    def _click(self, button: Locator) -> None:
        expect(button).to_be_enabled()
        killed = self.restarts_left > 0 and self._chance.random() < 0.2
        if killed and self._chance.random() < 0.5:
            self.dashboard.process.kill()
        if self._chance.random() < 0.5:
            button.dblclick(no_wait_after=True)
        else:
            button.click(no_wait_after=True)
        self._begun = time.monotonic()
        if killed:
            time.sleep(self._chance.uniform(0, 0.3))
            self.dashboard.process.kill()
            self.restarts_left -= 1
            self.restart()
        self._stays = not killed and self._chance.random() < 0.5
        if not killed and not self._stays:
            self.page.get_by_role("link", name=self._chance.choice(["Machine", "Runs"])).first.click()

    def _check(self, kind: str, is_done: Callable[[], bool], shown: Locator | None) -> None:
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not is_done():
            assert time.monotonic() < deadline, f"the press on {kind} was lost"
            time.sleep(0.01)
        if shown is not None and self._stays:
            expect(shown).to_be_visible()
        self.shown_s.setdefault(kind, []).append(time.monotonic() - self._begun)
        time.sleep(0.3)  # a second click that counted would show by now
        assert is_done(), f"a press on {kind} counted twice"

    def _count_pins(self) -> int:
        store = CheckpointStore(self._run.checkpoints)
        return sum("pinned" in info.labels for info in store.list(higher_is_better=True).checkpoints)

    def _go(self, path: str) -> None:
        self.page.goto(self.dashboard.address(path))
        self.page.wait_for_selector(".view h1")


KINDS = ("star", "archive", "rename", "note", "tag", "pin", "export", "verify", "delete", "launch")


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
    parser.add_argument("--only", choices=KINDS, default=None)
    parser.add_argument("--seed", type=int, default=0)
    given: Any = parser.parse_args()
    expect.set_options(timeout=4 * PATIENCE_MS)
    kinds = [given.only] if given.only else list(KINDS)
    with (
        tempfile.TemporaryDirectory(prefix="relight-press-storm-") as folder,
        sync_playwright() as playwright,
        busy_loops(given.loops),
    ):
        browser = start_chromium(playwright)
        servers: list[Any] = [serve_dashboard(Path(folder), compiler=False)]
        dashboard = servers[0].__enter__()
        with open_browser(browser, may_fail=True) as context:
            page = context.new_page()
            page.goto(dashboard.url)
            storm = Storm(Path(folder), page, dashboard, seed=given.seed)

            def restart() -> None:
                servers.append(serve_dashboard(Path(folder), port=dashboard.port, compiler=False))
                storm.dashboard = servers[-1].__enter__()

            storm.restart = restart
            storm.restarts_left = given.restarts
            for number in range(given.presses):
                for kind in kinds:
                    try:
                        storm.press(kind, number)
                    except Exception:
                        print(f"{kind}, press {number}; the server: {storm.dashboard.process.poll()}")
                        print(sorted(Path(folder).glob("dashboard-*.txt"))[-1].read_text(errors="replace")[-3000:])
                        raise
                if number % 10 == 9:
                    print(f"{number + 1} of {given.presses}", flush=True)
        end_runs(storm.runs)
        storm.dashboard.process.kill()
        browser.close()
    for kind, times in storm.shown_s.items():
        ordered = sorted(times)
        print(
            f"{kind}: {len(times)} presses, each done once; median {statistics.median(times):.2f} s, "
            f"p95 {ordered[int(0.95 * (len(ordered) - 1))]:.2f} s, at most {ordered[-1]:.2f} s"
        )


if __name__ == "__main__":
    main()
