"""The live stream sends everything to every watcher, exactly once and with its position, and ends when it should."""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from relight.metrics.writer import MetricWriter
from relight.runs.record_file import write_record
from relight.runs.records import AttemptExit
from relight_app.server.events import KEEP_ALIVE
from relight_app.server.hub import Watch, Watcher
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import begin_attempt, log_rows, make_run
from tests.event_loop import run_async
from tests.patience import stretch


class Events:
    """Yield the events of an open stream as they arrive."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()

    def next(self, name: str) -> dict[str, Any]:
        """Return the next event with the given name, and skip others."""
        for line in self._lines:
            if line == f"event: {name}":
                data: dict[str, Any] = json.loads(next(self._lines).removeprefix("data: "))
                return data
        raise AssertionError(f"The stream ended without {name!r}")


@pytest.fixture
def client(dashboard: ServedDashboard) -> Iterator[httpx.Client]:
    with dashboard.client(timeout_s=15) as client:
        yield client


@contextmanager
def _open(client: httpx.Client, *watch: str, **more: str) -> Iterator[Events]:
    with client.stream("GET", "/api/stream", params={"watch": list(watch), **more}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in answer.headers
        yield Events(answer)


def test_it_begins_with_the_positions_of_all_files_and_continues_from_there(client: httpx.Client, runs: Path) -> None:
    layout = make_run(runs)
    begin_attempt(layout, 1, time_s=time.time())
    log_rows(layout, [(1, {"loss": 3.0}), (2, {"loss": 2.0})])
    with _open(client, f"{layout.run_id}/train") as events:
        assert events.next("hello") == {"run": layout.run_id, "positions": {"train": {"0001-train.rlm": 2}}}
        state = events.next("state")
        assert (state["run"], state["status"], state["metrics"]) == (layout.run_id, "running", {"train/loss": 2.0})
        log_rows(layout, [(3, {"loss": math.nan, "lr": 0.5})], begin_s=50.0)
        assert events.next("rows") == {
            "run": layout.run_id, "stream": "train", "file": "0001-train.2.rlm", "first": 0, "attempt": 1,
            "steps": [3], "times": [50.0], "columns": {"loss": [None], "lr": [0.5]},
        }  # fmt: skip


def test_only_watched_streams_and_runs_are_sent(client: httpx.Client, runs: Path) -> None:
    one, other = make_run(runs, "one"), make_run(runs, "other")
    with _open(client, f"{one.run_id}/train") as events:
        events.next("hello")
        log_rows(other, [(1, {"loss": 1.0})])
        log_rows(one, [(1, {"loss": 1.0})], stream="validation")
        log_rows(one, [(7, {"loss": 1.0})])
        rows = events.next("rows")
        assert (rows["run"], rows["stream"], rows["steps"]) == (one.run_id, "train", [7])


def test_two_hundred_rows_a_second_arrive_complete_for_every_watcher(client: httpx.Client, runs: Path) -> None:
    layout = make_run(runs)
    told: list[list[int]] = []
    ready = threading.Barrier(6)

    def read(cookies: httpx.Cookies) -> None:
        with (
            httpx.Client(base_url=client.base_url, cookies=cookies, timeout=15) as own,
            _open(own, f"{layout.run_id}/train") as events,
        ):
            events.next("hello")
            ready.wait(20)
            steps: list[int] = []
            while len(steps) < 600:
                rows = events.next("rows")
                assert rows["first"] == len(steps)
                steps += rows["steps"]
            told.append(steps)

    readers = [threading.Thread(target=read, args=(client.cookies,)) for _ in range(5)]
    for reader in readers:
        reader.start()
    ready.wait(20)
    writer = MetricWriter(layout.metrics, stream="train", attempt=1)
    for step in range(600):
        writer.log(step, {"loss": 1.0})
        time.sleep(0.002)
    for reader in readers:
        reader.join(30)
    assert told == [list(range(600))] * 5


def test_the_end_of_a_run_is_sent_within_two_seconds(client: httpx.Client, runs: Path) -> None:
    layout = make_run(runs)
    begin_attempt(layout, 1, time_s=time.time())
    with _open(client, f"{layout.run_id}/") as events:
        assert events.next("state")["status"] == "running"
        ended = time.monotonic()
        write_record(
            layout.attempt(1).exit,
            AttemptExit(attempt=1, time_s=time.time(), outcome="crashed", signal="SIGKILL", reason="It was killed."),
        )
        while (state := events.next("state"))["status"] == "running":
            pass
        assert time.monotonic() - ended < stretch(2.0)
        assert (state["status"], state["reason"]) == ("crashed", "It was killed.")


def test_a_missing_removed_or_damaged_run_is_reported(client: httpx.Client, runs: Path) -> None:
    layout, damaged = make_run(runs, "going"), make_run(runs, "damaged")
    damaged.record.write_text("{")
    with _open(client, "nobody/train", f"{layout.run_id}/train", f"{damaged.run_id}/") as events:
        seen = {events.next("gone")["run"]}
        shutil.rmtree(layout.folder)
        seen.add(events.next("gone")["run"])
    assert seen == {"nobody", layout.run_id}
    with _open(client, f"{damaged.run_id}/") as events:
        state = events.next("state")
    assert state["status"] == "damaged" and "run.json" in state["reason"]


def test_a_truncated_file_makes_the_browser_read_again(client: httpx.Client, runs: Path) -> None:
    layout = make_run(runs)
    log_rows(layout, [(1, {"loss": 1.0}), (2, {"loss": 1.0})])
    with _open(client, f"{layout.run_id}/train") as events:
        events.next("hello")
        path = layout.metrics / "0001-train.rlm"
        path.write_bytes(path.read_bytes()[:-24])
        assert events.next("reset") == {"run": layout.run_id}


def test_the_machine_is_sent_on_request(client: httpx.Client) -> None:
    with _open(client, machine="1") as events:
        report = events.next("machine")
        assert report["host"] is not None and "gpu" in report
        assert events.next("machine")["time"] > report["time"]


@pytest.mark.parametrize("watch", ["run", "/train", ".hidden/train", "../train", "a\\b/train", "a\0/x"])
def test_a_malformed_watch_is_refused(client: httpx.Client, watch: str) -> None:
    assert client.get("/api/stream", params={"watch": watch}).status_code == 400


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "é" * 200, "a\nb", "%00", "CON", "~", "\x7f"])
def test_a_name_that_no_folder_can_have_is_gone_and_stops_no_stream(
    client: httpx.Client, runs: Path, name: str
) -> None:
    layout = make_run(runs, "going on")
    with (
        _open(client, f"{layout.run_id}/train") as other,
        _open(client, f"{name}/train", f"{layout.run_id}/train,{name}") as events,
    ):
        other.next("hello")
        assert events.next("hello")["run"] == layout.run_id
        log_rows(layout, [(1, {"loss": 1.0})])
        assert other.next("rows")["steps"] == events.next("rows")["steps"] == [1]
    with _open(client, f"{name}/train") as events:
        assert events.next("gone")["run"] == name


@pytest.mark.parametrize("number", [20_000_000, 10**18 - 1])
def test_an_attempt_with_a_huge_number_costs_nothing(
    dashboard: ServedDashboard, client: httpx.Client, runs: Path, number: int
) -> None:
    layout = make_run(runs, "numbered")
    begin_attempt(layout, number, time_s=time.time())
    layout.attempt(number).log.write_text("a log")
    log_rows(layout, [(1, {"loss": 1.0})], attempt=number)
    process = psutil.Process(dashboard.process.pid)
    before = process.memory_info().rss
    with _open(client, f"{layout.run_id}/train") as events:
        assert events.next("state")["attempt"] == number
        log_rows(layout, [(2, {"loss": 1.0})], attempt=number)
        assert events.next("rows")["attempt"] == number
    assert client.get(f"/files/{layout.run_id}/log.txt").text == "a log"
    for url in (f"/api/history?run={layout.run_id}&name=train/loss", f"/files/{layout.run_id}/metrics.csv?ghosts=1"):
        assert client.get(url).status_code == 200
    assert process.memory_info().rss - before < 60 << 20


def test_more_runs_than_a_page_can_show_are_refused(client: httpx.Client) -> None:
    assert client.get("/api/stream", params={"watch": [f"run-{i}/" for i in range(101)]}).status_code == 400


def test_without_watchers_nothing_is_read(dashboard: ServedDashboard, client: httpx.Client, runs: Path) -> None:
    layout = make_run(runs)
    with _open(client, f"{layout.run_id}/train") as events:
        events.next("hello")
    process = psutil.Process(dashboard.process.pid)
    deadline = time.monotonic() + 20
    while True:  # the server notices the end of the last stream a moment later
        before = process.cpu_times()
        time.sleep(1.0)
        after = process.cpu_times()
        if (after.user + after.system) - (before.user + before.system) <= 0.05:
            return
        assert time.monotonic() < deadline


def test_a_watcher_that_does_not_keep_up_loses_events_and_no_memory() -> None:
    watcher = Watcher(Watch())
    for number in range(2_000):
        watcher.offer([b"%d" % number])
    events = run_async(watcher.events())
    assert events is not None and len(events) <= 500 and events[-1] == b"1999"


def test_a_stream_without_news_is_kept_alive_and_one_with_news_is_not() -> None:
    idle, busy = Watcher(Watch()), Watcher(Watch())
    for watcher in (idle, busy):
        watcher.keep_alive()
    busy.offer([b"news"])
    for watcher in (idle, busy):
        watcher.keep_alive()
    assert run_async(idle.events()) == [KEEP_ALIVE]
    assert run_async(busy.events()) == [b"news"]
