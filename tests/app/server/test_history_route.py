"""Many large histories at once cost little memory, and those that nobody waits for hold nothing up."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from relight_app.urls import download_url
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import append_records, log_rows, make_run
from tests.patience import stretch


@pytest.fixture
def client(dashboard: ServedDashboard) -> Iterator[httpx.Client]:
    with dashboard.client() as client:
        yield client


def _decode(body: bytes) -> tuple[dict[str, Any], np.ndarray[Any, np.dtype[np.float64]]]:
    """Return the header, and all floats behind it."""
    (length,) = struct.unpack_from("<I", body)
    header: dict[str, Any] = json.loads(body[4 : 4 + length])
    return header, np.frombuffer(body, "<f8", offset=4 + length)


def test_a_history_has_every_asked_curve_and_grows_with_the_run(client: httpx.Client, runs: Path) -> None:
    layout = make_run(runs, "growing")
    names = [f"m{number}" for number in range(20)]
    log_rows(layout, [(step, dict.fromkeys(names, step * 1.0)) for step in (1, 2)])
    asked = {"run": layout.run_id, "name": [f"train/{name}" for name in reversed(names)] + ["train/none"]}
    header, floats = _decode(client.get("/api/history", params=asked).content)
    assert [series["name"] for series in header["series"]] == asked["name"]
    assert [series["points"] for series in header["series"]] == [2] * 20 + [0]
    assert floats.tolist() == [1.0, 2.0, 1.0, 2.0] * 20
    log_rows(layout, [(3, dict.fromkeys(names, 3.0))])
    header, floats = _decode(client.get("/api/history", params=asked).content)
    assert floats.tolist() == [1.0, 2.0, 3.0] * 40
    assert sum(header["positions"]["train"].values()) == 3


def test_a_run_that_is_not_there_is_404_and_a_question_without_sense_400(client: httpx.Client, runs: Path) -> None:
    for run in ("nobody", "", "..", "x" * 300, "\0", "a/b"):
        assert client.get("/api/history", params={"run": run, "name": "train/loss"}).status_code == 404
    run = make_run(runs, "asked").run_id
    for wrong in ({}, {"name": ["x"] * 65}, {"name": "x", "points": "many"}, {"name": "x", "from": "a", "to": "1"}):
        assert client.get("/api/history", params={"run": run, **wrong}).status_code == 400


def test_many_curves_together_have_a_bounded_number_of_points(client: httpx.Client, runs: Path) -> None:
    layout = make_run(runs, "wide")
    append_records(layout.metrics, [f"m{number}" for number in range(60)], count=20_000)
    names = [f"train/m{number}" for number in range(60)]
    answer = client.get("/api/history", params={"run": layout.run_id, "name": names, "points": 20_000, "smooth": names})
    header, _ = _decode(answer.content)
    assert sum(series["points"] for series in header["series"]) <= 210_000
    assert len(answer.content) < 12 << 20


@pytest.mark.thorough
def test_forty_histories_of_a_million_steps_at_once_need_little_memory_and_abandoned_ones_hold_up_nothing(
    dashboard: ServedDashboard, client: httpx.Client, runs: Path
) -> None:
    layout = make_run(runs, "million")
    append_records(layout.metrics, [f"m{number}" for number in range(6)], count=1_000_000)
    layout.exports.mkdir()
    (layout.exports / "w.bin").write_bytes(bytes(32 << 20))
    asked = {"run": layout.run_id, "name": "train/m0", "smooth": "train/m0"}
    process = psutil.Process(dashboard.process.pid)
    before, done = process.memory_info().rss, threading.Event()
    largest = [before]

    def watch() -> None:
        while not done.wait(0.01):
            largest[0] = max(largest[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        answers: list[int] = []
        askers = [
            threading.Thread(
                target=lambda: answers.append(client.get("/api/history", params=asked, timeout=200).status_code)
            )
            for _ in range(40)
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
        assert answers == [200] * 40
        cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
        head = f"Host: 127.0.0.1:{dashboard.port}\r\nCookie: {cookie}\r\n\r\n"
        abandoned = []
        for number in range(150):
            connection = socket.create_connection(("127.0.0.1", dashboard.port))
            query = f"run={layout.run_id}&name=train/m{number % 6}&from={number}&to=999"
            connection.sendall(f"GET /api/history?{query} HTTP/1.1\r\n{head}".encode())
            abandoned.append(connection)
        for connection in abandoned:
            connection.close()
        began = time.monotonic()
        assert len(client.get(download_url(layout.run_id, "w.bin")).content) == 32 << 20
        assert time.monotonic() - began < stretch(2.0)
    finally:
        done.set()
        watcher.join()
    assert largest[0] - before < 500 << 20
