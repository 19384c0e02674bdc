"""The download address serves a run's own files, complete or in ranges, and nothing else."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import psutil
import pytest

from relight.runs.layout import RunLayout
from relight_app.urls import csv_url, download_url, log_url
from tests.app.served_dashboard import ServedDashboard
from tests.app.server.metric_runs import log_rows, make_run

WEIGHTS = b"relight" * 300_001


@pytest.fixture(scope="module")
def layout(runs: Path) -> RunLayout:
    layout = make_run(runs)
    layout.exports.mkdir()
    (layout.exports / "best.safetensors").write_bytes(WEIGHTS)
    (layout.exports / "best.safetensors.json").write_text('{"step": 7}')
    (layout.exports / "größe 1.pth").write_bytes(b"zip")
    (layout.exports / "folder").mkdir()
    (layout.exports / "link.safetensors").symlink_to(layout.record)
    (layout.exports / "dangling").symlink_to("nowhere")
    log_rows(layout, [(step, {"loss": 1 / step, "lr": 0.1}) for step in range(1, 6)])
    log_rows(layout, [(4, {"loss": 9.0, "lr": 0.1})], attempt=2)
    log_rows(layout, [(5, {"accuracy": 0.5})], stream="validation")
    for number in (1, 2):
        layout.attempt(number).folder.mkdir(parents=True)
        layout.attempt(number).log.write_text(f"attempt {number}\nepoch 1 \r epoch 2\n<b>no markup</b>\n")
    return layout


@pytest.fixture
def client(dashboard: ServedDashboard) -> Iterator[httpx.Client]:
    with dashboard.client() as client:
        yield client


def test_an_export_is_sent_complete_with_its_length_type_and_name(client: httpx.Client, layout: RunLayout) -> None:
    answer = client.get(download_url(layout.run_id, "best.safetensors"))
    assert answer.status_code == 200 and answer.content == WEIGHTS
    assert answer.headers["content-length"] == str(len(WEIGHTS))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-encoding"] == "identity"
    assert answer.headers["content-disposition"] == f'attachment; filename="{layout.run_id}-best.safetensors"'
    card = client.get(download_url(layout.run_id, "best.safetensors.json"))
    assert card.headers["content-type"] == "application/json" and card.json() == {"step": 7}


def test_names_that_people_choose_work(client: httpx.Client, layout: RunLayout) -> None:
    answer = client.get(download_url(layout.run_id, "größe 1.pth"))
    assert answer.content == b"zip"
    assert quote("größe 1.pth") in answer.headers["content-disposition"]


def test_head_sends_everything_but_the_bytes(client: httpx.Client, layout: RunLayout) -> None:
    answer = client.head(download_url(layout.run_id, "best.safetensors"))
    assert answer.status_code == 200 and answer.content == b""
    assert answer.headers["content-length"] == str(len(WEIGHTS)) and answer.headers["accept-ranges"] == "bytes"


def test_a_broken_download_continues_where_it_stopped(client: httpx.Client, layout: RunLayout) -> None:
    url = download_url(layout.run_id, "best.safetensors")
    tag = client.head(url).headers["etag"]
    rest = client.get(url, headers={"Range": "bytes=1000000-", "If-Range": tag})
    assert rest.status_code == 206 and rest.content == WEIGHTS[1_000_000:]
    assert rest.headers["content-range"] == f"bytes 1000000-{len(WEIGHTS) - 1}/{len(WEIGHTS)}"
    changed = client.get(url, headers={"Range": "bytes=1000000-", "If-Range": '"another"'})
    assert changed.status_code == 200 and changed.content == WEIGHTS
    assert client.get(url, headers={"Range": "bytes=-7"}).content == b"relight"
    beyond = client.get(url, headers={"Range": f"bytes={len(WEIGHTS)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(WEIGHTS)}")
    assert client.get(url, headers={"Range": "bytes=-0"}).status_code == 416
    assert client.get(url, headers={"Range": "bytes=0-0"}).content == b"r"
    assert client.get(url, headers={"Range": f"bytes=7-{10**17}", "If-Range": tag}).content == WEIGHTS[7:]
    for ignored in ("bytes=5-4", "bytes=-", "bytes=x-1", "lines=1-2", "bytes=0-1,3-4", "bytes=0-" + "9" * 5000):
        assert client.get(url, headers={"Range": ignored}).content == WEIGHTS, ignored
    date = client.head(url).headers["last-modified"]
    assert client.get(url, headers={"Range": "bytes=-7", "If-Range": date}).status_code == 206
    assert client.get(url, headers={"If-None-Match": tag}).status_code == 304


def test_the_etag_changes_when_the_file_is_replaced_by_one_of_the_same_size_and_time(
    client: httpx.Client, layout: RunLayout
) -> None:
    path = layout.exports / "again.safetensors"
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    url = download_url(layout.run_id, path.name)
    before = client.head(url).headers["etag"]
    other = path.with_name("other")
    other.write_bytes(b"two")
    os.utime(other, (1, 1))
    other.replace(path)
    assert client.head(url).headers["etag"] != before


def _ask_raw(dashboard: ServedDashboard, client: httpx.Client, path: str) -> tuple[int, bytes]:
    """Return status and body for exactly this path, which httpx would normalize."""
    raw = http.client.HTTPConnection("127.0.0.1", dashboard.port, timeout=20)
    raw.putrequest("GET", path, skip_accept_encoding=True)
    raw.putheader("Cookie", "; ".join(f"{key}={value}" for key, value in client.cookies.items()))
    raw.endheaders()
    answer = raw.getresponse()
    body = answer.read()
    raw.close()
    return answer.status, body


@pytest.mark.parametrize(
    "name",
    ["../run.json", "..%2frun.json", "..%2Frun.json", "%2e%2e/run.json", "%2e%2e%2frun.json", "..%5crun.json",
     "../../../etc/passwd", "%2fetc%2fpasswd", "%00", "best.safetensors%00.txt", ".", "..", "", "folder",
     "link.safetensors", "dangling", "missing", "folder/x"],
)  # fmt: skip
def test_only_the_exports_of_the_run_are_sent(
    dashboard: ServedDashboard, client: httpx.Client, layout: RunLayout, name: str
) -> None:
    status, body = _ask_raw(dashboard, client, f"/files/{layout.run_id}/exports/{name}")
    assert status in {400, 404}
    assert b"relight-run" not in body and b"root:" not in body


def test_no_folder_on_the_way_may_be_a_link(
    dashboard: ServedDashboard, client: httpx.Client, runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "0001").mkdir()
    for place in ("id_rsa", "0001/log.txt"):
        (tmp_path / place).write_text("secret")
    layout = make_run(runs, "linked")
    layout.exports.symlink_to(tmp_path)
    layout.attempts.rmdir()
    layout.attempts.symlink_to(tmp_path)
    assert client.get(download_url(layout.run_id, "id_rsa")).status_code == 404
    assert client.get(log_url(layout.run_id, attempt=1)).status_code == 404
    assert client.get(f"/files/{layout.run_id}/log.txt").status_code == 404
    layout.attempts.unlink()
    layout.attempts.mkdir()
    (layout.attempts / "0001").symlink_to(tmp_path / "0001")
    assert client.get(log_url(layout.run_id, attempt=1)).status_code == 404


def test_a_run_folder_that_is_a_link_itself_is_served(client: httpx.Client, runs: Path, tmp_path: Path) -> None:
    layout = make_run(tmp_path, "elsewhere")
    layout.exports.mkdir()
    (layout.exports / "w").write_text("weights")
    (runs / layout.run_id).symlink_to(layout.folder)
    assert client.get(download_url(layout.run_id, "w")).text == "weights"


def test_a_pipe_or_device_among_the_exports_is_not_opened(client: httpx.Client, layout: RunLayout) -> None:
    os.mkfifo(layout.exports / "pipe")
    assert client.get(download_url(layout.run_id, "pipe")).status_code == 404


@pytest.mark.parametrize("run", ["..", ".", "nobody", ".hidden", "a%2fb", "a%5cb", "%00", "x" * 300])
def test_nothing_is_sent_from_a_folder_that_is_not_a_run(
    dashboard: ServedDashboard, client: httpx.Client, run: str
) -> None:
    for path in (f"/files/{run}/exports/x", f"/files/{run}/log.txt", f"/files/{run}/metrics.csv"):
        assert _ask_raw(dashboard, client, path)[0] in {400, 404}


def test_the_log_is_plain_text_of_the_newest_attempt_or_a_requested_one(
    client: httpx.Client, layout: RunLayout
) -> None:
    newest = client.get(f"/files/{layout.run_id}/log.txt")
    assert newest.text == "attempt 2\nepoch 1 \r epoch 2\n<b>no markup</b>\n"
    assert newest.headers["content-type"] == "text/plain; charset=utf-8"
    assert newest.headers["x-content-type-options"] == "nosniff"
    assert "content-disposition" not in newest.headers
    first = client.get(f"{log_url(layout.run_id, attempt=1)}&download=1")
    assert first.text.startswith("attempt 1")
    assert "attempt-1-log.txt" in first.headers["content-disposition"]
    for wrong in ("9", "x", "-1", "1/2", "9" * 5000):
        assert client.get(f"/files/{layout.run_id}/log.txt", params={"attempt": wrong}).status_code == 404


def test_a_log_that_grows_while_it_is_sent_is_sent_as_it_was(client: httpx.Client, runs: Path) -> None:
    layout = make_run(runs, "growing")
    layout.attempt(1).folder.mkdir(parents=True)
    log = layout.attempt(1).log
    log.write_bytes(b"x" * (8 << 20))
    stop = threading.Event()

    def grow() -> None:
        with log.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"y" * 4096)
                time.sleep(0.0005)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        for _ in range(5):
            answer = client.get(f"/files/{layout.run_id}/log.txt")
            assert answer.status_code == 200 and len(answer.content) == int(answer.headers["content-length"])
    finally:
        stop.set()
        writer.join()


def test_the_csv_is_the_engines_own(client: httpx.Client, layout: RunLayout, tmp_path: Path) -> None:
    from relight.metrics.csv import write_csv

    for url, streams, ghosts in (
        (csv_url(layout.run_id), None, False),
        (f"{csv_url(layout.run_id)}?stream=validation", ["validation"], False),
        (f"{csv_url(layout.run_id)}?ghosts=1", None, True),
    ):
        with (tmp_path / "x.csv").open("w", newline="") as file:
            write_csv(layout.metrics, file, streams, ghosts=ghosts)
        answer = client.get(url)
        assert answer.text == (tmp_path / "x.csv").read_text()
        assert answer.headers["content-type"].startswith("text/csv")
        assert layout.run_id in answer.headers["content-disposition"]
    assert client.head(csv_url(layout.run_id)).status_code == 200


def test_csvs_that_are_not_read_to_the_end_leave_no_threads(
    dashboard: ServedDashboard, client: httpx.Client, runs: Path
) -> None:
    layout = make_run(runs, "long")
    log_rows(layout, [(step, {"loss": 1.0, "lr": 0.1}) for step in range(100_000)])
    process = psutil.Process(dashboard.process.pid)

    def abandon_some() -> None:
        for _ in range(6):
            with client.stream("GET", csv_url(layout.run_id)) as answer:
                next(answer.iter_raw())

    abandon_some()  # starts the pool of worker threads
    before = process.num_threads()
    abandon_some()
    deadline = time.monotonic() + 20
    while process.num_threads() > before:
        assert time.monotonic() < deadline, "threads still write what no client reads"
        time.sleep(0.1)


def test_half_a_gigabyte_is_sent_without_being_held_in_memory(
    dashboard: ServedDashboard, client: httpx.Client, layout: RunLayout
) -> None:
    path = layout.exports / "huge.safetensors"
    with path.open("wb") as file:
        file.truncate(1 << 29)
    process = psutil.Process(dashboard.process.pid)
    before = process.memory_info().rss
    largest = received = 0
    with client.stream("GET", download_url(layout.run_id, path.name)) as answer:
        for chunk in answer.iter_raw(8 << 20):
            received += len(chunk)
            largest = max(largest, process.memory_info().rss)
    path.unlink()
    assert received == 1 << 29
    assert largest - before < 50 << 20
