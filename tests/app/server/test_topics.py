"""The stream says which parts of a page are out of date: each change has its topic, and nothing else changes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from relight.checkpoints.store import CheckpointStore
from relight.runs.layout import RunLayout
from relight.runs.progress import Progress, ProgressFile
from relight.runs.record_file import write_record
from relight.runs.records import AttemptExit
from relight_app.server.live_state import read_live_state
from relight_app.server.topics import Topics, read_topics
from tests.app.sample_runs import SampleRun, make_run
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import log_rows
from tests.patience import stretch


def _read(layout: RunLayout) -> Topics:
    return read_topics(layout, read_live_state(layout))


def _verify(layout: RunLayout) -> None:
    store = CheckpointStore(layout.checkpoints)
    store.mark_verified(store.find("latest"))


def _pin(layout: RunLayout) -> None:
    store = CheckpointStore(layout.checkpoints)
    store.pin(store.find("latest"))


def _log(layout: RunLayout) -> None:
    with layout.attempt(1).log.open("a") as log:
        log.write("a line\n")


def _step(layout: RunLayout) -> None:
    best = read_live_state(layout).best_step
    progress = ProgressFile(layout.attempt(1).progress)
    now = time.time()
    progress.write(
        Progress(
            step=601,
            steps_total=1_200,
            started_s=now,
            time_s=now,
            phase="training",
            best_step=best or -1,
            best_value=0.985,
        )
    )
    progress.close()


def _end(layout: RunLayout) -> None:
    write_record(layout.attempt(1).exit, AttemptExit(attempt=1, time_s=time.time(), outcome="stopped", exit_code=130))


def _export(layout: RunLayout) -> None:
    layout.exports.mkdir()
    (layout.exports / "best_model.pth").write_bytes(b"x")


@pytest.mark.parametrize(
    ("change", "topics"),
    [
        (lambda _: None, set()),
        (_step, set()),
        (_log, {"log"}),
        (_pin, {"files"}),
        (_verify, {"files"}),
        (_export, {"files"}),
        (_end, {"life", "files"}),
        (lambda layout: log_rows(layout, [(1, {"new": 1.0})], stream="mine"), {"names"}),
        (lambda layout: log_rows(layout, [(601, {"loss": 1.0})], begin_s=time.time()), {"names"}),
    ],
    ids=["nothing", "step", "log", "pin", "verify", "export", "end", "new stream", "new part of a stream"],
)
def test_each_change_has_its_topics(tmp_path: Path, change: Callable[[RunLayout], None], topics: set[str]) -> None:
    layout = make_run(tmp_path, SampleRun("x", status="running", step=600))
    before = _read(layout)
    change(layout)
    after = _read(layout)
    assert {name for name, token in after.items() if before[name] != token} == topics


class Changes:
    """The topics that the stream has told."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()
        self.known: dict[tuple[str, str], str] = {}

    def until(self, run: str, topic: str) -> None:
        """Read until this topic has changed."""
        before, deadline = self.known.get((run, topic)), time.monotonic() + stretch(60)
        for line in self._lines:
            assert time.monotonic() < deadline, f"{topic} did not change"
            if line != "event: changed":
                continue
            data = json.loads(next(self._lines).removeprefix("data: "))
            self.known.update({(data["run"], name): token for name, token in data["topics"].items()})
            if self.known.get((run, topic)) != before:
                return
        raise AssertionError("the stream ended")


@contextmanager
def _open(served: ServedDashboard, *watch: str, **more: str) -> Iterator[Changes]:
    headers = {"Authorization": f"Bearer {served.token}"}
    query = {"watch": list(watch), **more}
    with httpx.stream("GET", f"{served.site}/api/stream", params=query, headers=headers, timeout=60) as answer:
        yield Changes(answer)


def test_a_watcher_is_told_all_topics_first_and_then_what_changes(runs: Path, dashboard: ServedDashboard) -> None:
    layout = make_run(runs, SampleRun("x", status="running", step=600))
    run = layout.run_id
    with _open(dashboard, f"{run}/") as changes:
        changes.until(run, "life")
        assert {topic for of, topic in changes.known if of == run} == {"life", "files", "log", "names"}
        for change, topic in ((_log, "log"), (_pin, "files"), (_end, "life")):
            change(layout)
            changes.until(run, topic)


def test_what_was_read_before_a_change_is_not_shown_after_it_was_told(runs: Path, dashboard: ServedDashboard) -> None:
    layout = make_run(runs, SampleRun("x", status="running", step=600))
    headers = {"Authorization": f"Bearer {dashboard.token}"}

    def part(name: str) -> str:
        return httpx.get(
            f"{dashboard.site}/parts/{name}", params={"id": layout.run_id}, headers=headers, timeout=60
        ).text

    with _open(dashboard, f"{layout.run_id}/") as changes:
        changes.until(layout.run_id, "life")
        assert "Stop" in part("run-header")
        _end(layout)
        changes.until(layout.run_id, "life")
        assert "Resume" in part("run-header")


def test_the_work_of_the_server_and_the_list_of_runs_are_topics_of_no_run(
    runs: Path, dashboard: ServedDashboard
) -> None:
    layout = make_run(runs, SampleRun("x"))
    headers = {"Authorization": f"Bearer {dashboard.token}"}
    with _open(dashboard, listing="1") as changes:
        changes.until("", "runs")
        httpx.post(
            f"{dashboard.site}/actions/verify", json={"run": layout.run_id}, headers=headers, timeout=60
        ).raise_for_status()
        changes.until("", "jobs")
        make_run(runs, SampleRun("y"))
        changes.until("", "runs")


def test_a_run_that_is_gone_has_other_topics(runs: Path, dashboard: ServedDashboard) -> None:
    layout = make_run(runs, SampleRun("x"))
    with _open(dashboard, f"{layout.run_id}/") as changes:
        changes.until(layout.run_id, "life")
        layout.folder.rename(runs / ".aside")
        changes.until(layout.run_id, "life")
        assert changes.known[layout.run_id, "life"] == "gone"
