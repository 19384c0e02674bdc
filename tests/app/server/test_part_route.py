"""Parts over HTTP: sent once, shared, never to strangers, and without running anybody's code."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight_app.parts.registry import PARTS
from relight_app.server import part_route
from tests.app.sample_runs import SampleRun, make_run
from tests.app.served_dashboard import ServedDashboard


def test_a_part_is_sent_once_and_again_when_it_has_changed(runs: Path, dashboard: ServedDashboard) -> None:
    layout = make_run(runs, SampleRun("x", status="crashed", step=600))
    with dashboard.client() as client:
        query = {"id": layout.run_id}
        first = client.get("/parts/run-header", params=query)
        assert first.status_code == 200
        assert first.headers["content-type"] == "text/html; charset=utf-8"
        assert first.headers["cache-control"] == "private, no-cache"
        assert "Resume" in first.text
        etag = first.headers["etag"]
        again = client.get("/parts/run-header", params=query, headers={"If-None-Match": etag})
        assert (again.status_code, again.text, again.headers["etag"]) == (304, "", etag)
        assert client.get("/parts/run-header", params=query, headers={"If-None-Match": '"x"'}).text == first.text
        pinned = client.post("/actions/star", json={"run": layout.run_id}, headers={"Origin": dashboard.site})
        assert pinned.status_code == 200
        changed = client.get("/parts/run-header", params=query, headers={"If-None-Match": etag})
        assert changed.status_code == 200
        assert changed.headers["etag"] != etag


@pytest.mark.parametrize("path", ["/parts/nothing", "/parts/", "/parts/run-header/x"])
def test_an_unknown_part_is_not_found(dashboard: ServedDashboard, path: str) -> None:
    with dashboard.client() as client:
        assert client.get(path).status_code == 404


def test_every_part_answers_any_query(runs: Path, dashboard: ServedDashboard) -> None:
    layout = make_run(runs, SampleRun("<b>x</b>"))
    hostile = {"id": "../..", "step": "1", "q": "<script>", "tab": "\x00", "attempt": "-1", "request": "{}", "ids": ","}
    with dashboard.client() as client:
        for name in PARTS:
            for query in ({}, {"id": layout.run_id}, hostile):
                answer = client.get(f"/parts/{name}", params=query)
                assert answer.status_code == 200, (name, query)
                assert "<script>" not in answer.text
                if not name.endswith("-command"):  # they take what the page itself sends
                    assert "Relight has a bug" not in answer.text, (name, query)


def test_a_bug_in_a_part_is_shown_in_its_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise ValueError("odd <b>")

    monkeypatch.setenv("RELIGHT_RUNS", str(tmp_path))
    monkeypatch.setitem(PARTS, "runs", type(PARTS["runs"])(fail))  # type: ignore[arg-type]
    part = part_route.build_part("runs", {})
    body = part.body
    assert part.failed, "so the browser asks again"
    assert b"Relight has a bug: ValueError: odd &lt;b&gt;" in body
    assert b"Traceback" in body


def test_no_part_imports_a_persons_file_and_a_press_does(dashboard: ServedDashboard, tmp_path: Path) -> None:
    mark, file = tmp_path / "imported", tmp_path / "mine.py"
    methods = "".join(f"    def {name}(self, *given): ...\n" for name in ("build_model", "build_data", "step"))
    file.write_text(f"import relight\n\nopen({str(mark)!r}, 'w')\n\nclass Mine(relight.Task):\n{methods}")
    task = f"{file}:Mine"
    with dashboard.client() as client:
        for name in PARTS:
            request = f'{{"task": "{task}", "run": "x", "step": 1}}'
            client.get(f"/parts/{name}", params={"task": "file", "file": task, "request": request})
        client.get("/launch", params={"task": "file", "file": task})
        assert not mark.exists()
        headers = {"Origin": dashboard.site, "Idempotency-Key": "press"}
        while (answer := client.post("/actions/describe", json={"file": task}, headers=headers)).status_code == 202:
            pass  # the server waits ten seconds before it says so
        assert answer.status_code == 200
        assert mark.exists()
