"""Actions over HTTP: what a page or a script sends, and every answer it can get."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from relight.runs.layout import RunLayout
from relight_app.actions import ACTIONS
from tests.app.sample_runs import SampleRun, make_run
from tests.app.served_dashboard import ServedDashboard


@pytest.fixture(scope="module")
def run(runs: Path) -> RunLayout:
    return make_run(runs, SampleRun("x"))


def _post(served: ServedDashboard, action: str, **given: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {served.token}"} | given.pop("headers", {})
    return httpx.post(f"{served.site}/actions/{action}", headers=headers, timeout=60.0, **given)


def _labels(served: ServedDashboard, layout: RunLayout) -> str:
    query = {"id": layout.run_id}
    return httpx.get(
        f"{served.site}/parts/run-checkpoints", params=query, headers={"Authorization": f"Bearer {served.token}"}
    ).text


def test_a_script_asks_for_an_action_with_the_token(dashboard: ServedDashboard, run: RunLayout) -> None:
    answer = _post(dashboard, "pin", json={"run": run.run_id, "step": 400})
    assert answer.status_code == 200
    assert answer.json() == {"run": run.run_id, "step": 400, "pinned": True}
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert "Unpin" in _labels(dashboard, run)


def test_a_repeated_request_is_done_once_and_answered_the_same(dashboard: ServedDashboard, run: RunLayout) -> None:
    key = {"Idempotency-Key": "one press"}
    first = _post(dashboard, "pin", json={"run": run.run_id, "step": 400, "on": True}, headers=key)
    _post(dashboard, "pin", json={"run": run.run_id, "step": 400, "on": False})
    again = _post(dashboard, "pin", json={"run": run.run_id, "step": 400, "on": True}, headers=key)
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert "Unpin" not in _labels(dashboard, run), "it was not pinned again"
    other = _post(dashboard, "pin", json={"run": run.run_id, "step": 800}, headers=key)
    assert other.status_code == 409
    assert "used for another request" in other.json()["problem"]


def test_without_a_key_each_request_is_one_of_its_own(dashboard: ServedDashboard, run: RunLayout) -> None:
    for on in (True, False, True):
        assert _post(dashboard, "pin", json={"run": run.run_id, "step": 800, "on": on}).json()["pinned"] is on


def test_a_request_that_breaks_off_does_nothing_and_prints_no_traceback(tmp_path: Path, page: Path) -> None:
    layout = make_run(tmp_path, SampleRun("x"))
    body = json.dumps({"run": layout.run_id, "step": 400}).encode()
    with ServedDashboard(tmp_path, script=page) as served:
        head = (
            f"POST /actions/pin HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nAuthorization: Bearer {served.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body) + 1}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(head.encode() + body)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass  # until the server has closed it, too
        assert "Unpin" not in _labels(served, layout)
        served.end()
        served.kill()  # which reads the rest of its output
    assert "Traceback" not in served.output


def test_a_restarted_server_gives_the_same_answer(tmp_path: Path, page: Path) -> None:
    layout = make_run(tmp_path, SampleRun("x"))
    asked = {"json": {"run": layout.run_id}, "headers": {"Idempotency-Key": "press"}}
    with ServedDashboard(tmp_path, script=page) as first:
        answer = _post(first, "export", **asked).json()
        first.kill()
    (layout.exports / answer["file"]).unlink()
    with ServedDashboard(tmp_path, script=page) as second:
        assert _post(second, "export", **asked).json() == answer
    assert not (layout.exports / answer["file"]).exists(), "it was not exported again"


@pytest.mark.parametrize(
    ("action", "given", "status", "said"),
    [
        ("nothing", {"json": {}}, 404, "There is no action 'nothing'. The actions are: launch, "),
        ("pin", {"content": "run=x", "headers": {"Content-Type": "text/plain"}}, 415, "must be application/json"),
        ("pin", {"data": {"run": "x"}}, 415, "must be application/json"),
        ("pin", {"content": "{", "headers": {"Content-Type": "application/json"}}, 400, "is not valid"),
        ("pin", {"json": {"run": "x", "step": 1, "when": 2}}, 400, "unknown field `when`"),
        ("pin", {"json": {"run": "x", "step": 1}, "headers": {"Idempotency-Key": "k" * 201}}, 400, "at most 200"),
        ("launch", {"json": {"task": "x" * (1 << 20)}}, 413, "at most 1 MiB"),
        ("stop", {"json": {"run": "nowhere"}}, 400, "nowhere"),
    ],
)
def test_what_cannot_be_done_is_a_status_and_a_sentence(
    dashboard: ServedDashboard, action: str, given: dict[str, Any], status: int, said: str
) -> None:
    answer = _post(dashboard, action, **given)
    assert answer.status_code == status
    assert said in answer.json()["problem"]
    assert answer.json()["traceback"] is None


def test_a_content_type_with_a_charset_is_json_too(dashboard: ServedDashboard, run: RunLayout) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    content = json.dumps({"run": run.run_id, "step": 400})
    assert _post(dashboard, "pin", content=content, headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_only_a_post_acts(dashboard: ServedDashboard, run: RunLayout, method: str) -> None:
    with dashboard.client() as client:
        answer = client.request(method, "/actions/stop", headers={"Origin": dashboard.site})
    assert answer.status_code in (403, 404, 405)


def test_another_site_and_a_stranger_cannot_act(dashboard: ServedDashboard, run: RunLayout) -> None:
    asked = {"json": {"run": run.run_id, "step": 400}}
    with dashboard.client() as client:
        for origin in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
            assert client.post("/actions/pin", headers=origin, **asked).status_code == 403
        assert client.post("/actions/pin", headers={"Origin": dashboard.site}, **asked).status_code == 200
    assert httpx.post(f"{dashboard.site}/actions/pin", **asked).status_code in (401, 403)


def test_a_dashboard_that_only_shows_refuses_every_action(tmp_path: Path, page: Path) -> None:
    layout = make_run(tmp_path, SampleRun("x", status="crashed", step=600))
    with ServedDashboard(tmp_path, script=page, arguments=["--read-only"]) as served:
        for action in ACTIONS:
            answer = _post(served, action, json={"run": layout.run_id})
            assert answer.status_code == 403
            assert "--read-only" in answer.text
        headers = {"Authorization": f"Bearer {served.token}"}
        part = httpx.get(f"{served.site}/parts/run-header", params={"id": layout.run_id}, headers=headers).text
    assert 'aria-disabled="true"' in part
    assert "This dashboard only shows runs." in part
    assert not (tmp_path / ".actions").exists()
