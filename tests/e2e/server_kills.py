"""Kills the dashboard's server at random moments around a press of Launch or Resume, and checks that no run is harmed.

    python -m tests.e2e.server_kills --kills 25            in the repository's root, with RELIGHT_CHROMIUM set

In each round, a browser presses Launch, or Resume after the trainer was killed. Up to five seconds before or after the
press, the server is killed with -9. The page repeats a press that got no answer, so each press starts exactly one
attempt, by this server or the next. The run continues without a server, the next server shows its status, and in the
end its state and its curves equal those of an undisturbed run. `make soak` runs it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Browser, Error, Locator, Page, expect, sync_playwright

from relight.overview.summary import summarize_run
from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout
from relight.runs.status import RunStatus
from tests.e2e.conftest import PATIENCE_MS, Dashboard, open_browser, serve_dashboard, start_chromium, wait_until
from tests.e2e.trainings import count_attempts, wait_for_status, wait_for_step
from tests.integration import soak

CONFIG = soak.CONFIG | {"epochs": 12}
WORDS = {
    RunStatus.RUNNING: "Running",
    RunStatus.QUEUED: "Queued",
    RunStatus.FINISHED: "Finished",
    RunStatus.CRASHED: "Crashed",
    RunStatus.INTERRUPTED: "Interrupted",
}


class Rounds:
    """One runs folder, one browser, and one server after the other on the same port."""

    def __init__(self, folder: Path, browser: Browser, *, seed: int) -> None:
        self.shown_s: list[float] = []
        self._folder = folder
        self._browser = browser
        self._chance = random.Random(seed)
        self._reference = soak.Reference(folder / "runs", CONFIG)
        self._known = list_layouts(folder / "runs")

    def play(self) -> str:
        """Press, kill, and check the result; return what happened, in a few words."""
        resume = self._chance.random() < 0.4
        with serve_dashboard(self._folder) as first, open_browser(self._browser, may_fail=True) as context:
            page = context.new_page()
            page.goto(first.url)
            layout = self._crash_one(first) if resume else None
            button = self._open(page, first, layout)
            delay_s = self._chance.uniform(-0.05, 0.3) if self._chance.random() < 0.5 else self._chance.uniform(0.3, 5)
            self._press_and_kill(page, button, first, delay_s=delay_s)
            attempts = 2 if resume else 1
            with serve_dashboard(self._folder, port=first.port) as second:
                page.wait_for_url("**/run?*")
                layout = layout or self._find_new(second)
                assert layout is not None, "a press on Launch started nothing"
                _wait_for_attempts(layout, attempts)
                self._check_shown(page, second, layout)
                wait_for_status(layout, "finished")
                assert count_attempts(layout) == attempts
                self._reference.compare(layout)
                expect(page.get_by_text("Finished", exact=True).first).to_be_visible()
                self._known.append(layout)
        return f"{'Resume' if resume else 'Launch'}, killed {delay_s:+.2f} s after the press: {layout.run_id} is right"

    def _crash_one(self, dashboard: Dashboard) -> RunLayout:
        layout = soak.launch(dashboard.runs, CONFIG, name="crashed")
        pid = wait_for_step(layout, self._chance.randint(1, 100)).pids.trainer
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for_status(layout, "crashed")
        return layout

    def _open(self, page: Page, dashboard: Dashboard, layout: RunLayout | None) -> Locator:
        if layout is None:
            source = self._known[0].run_id
            page.goto(dashboard.address(f"/launch?task=file&file={quote(soak.TASK)}&from={source}"))
        else:
            page.goto(dashboard.address(f"/run?id={layout.run_id}"))
        if layout is None:  # only a press imports the file
            page.get_by_role("button", name="Show options", exact=True).click()
        button = page.get_by_role("button", name="Launch" if layout is None else "Resume", exact=True)
        expect(button).to_be_enabled()
        return button

    def _press_and_kill(self, page: Page, button: Locator, dashboard: Dashboard, *, delay_s: float) -> None:
        if delay_s < 0:
            dashboard.process.send_signal(signal.SIGKILL)
        try:
            button.evaluate("button => button.click()")
        except Error as error:
            assert delay_s < 0, error
        time.sleep(max(0.0, delay_s))
        dashboard.process.send_signal(signal.SIGKILL)
        dashboard.process.wait(10)

    def _find_new(self, dashboard: Dashboard) -> RunLayout | None:
        new = [layout for layout in list_layouts(dashboard.runs) if layout not in self._known]
        assert len(new) <= 1, f"one press, and {len(new)} runs: {new}"
        return new[0] if new else None

    def _check_shown(self, page: Page, dashboard: Dashboard, layout: RunLayout) -> None:
        """Check that the new server shows the run's real status within two seconds of the first text on the page."""
        page.goto(dashboard.address(f"/run?id={layout.run_id}"))
        begun = time.monotonic()
        while True:
            word = WORDS[summarize_run(layout).status]
            if page.get_by_text(word, exact=True).first.is_visible():
                break
            assert time.monotonic() - begun < PATIENCE_MS / 1000, (
                f"{layout.run_id} is {word}, and the page does not say so"
            )
        self.shown_s.append(time.monotonic() - begun)


def _wait_for_attempts(layout: RunLayout, attempts: int) -> None:
    wait_until(lambda: count_attempts(layout) == attempts, timeout_s=PATIENCE_MS / 1000, what="the press counted")


def main() -> None:
    """Run the number of rounds that the command line sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    expect.set_options(timeout=4 * PATIENCE_MS)
    with tempfile.TemporaryDirectory(prefix="relight-server-kills-") as folder, sync_playwright() as playwright:
        browser = start_chromium(playwright)
        rounds = Rounds(Path(folder), browser, seed=given.seed)
        for number in range(1, given.kills + 1):
            print(f"{number} of {given.kills}: {rounds.play()}", flush=True)
        browser.close()
        print(
            f"{given.kills} kills of the server: each press started one attempt; "
            f"the next server showed the right status after {statistics.median(rounds.shown_s):.2f} s "
            f"(at most {max(rounds.shown_s):.2f}); every run ended as an undisturbed one."
        )


if __name__ == "__main__":
    main()
