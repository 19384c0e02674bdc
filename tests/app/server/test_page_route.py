"""The HTML of a page has the page's parts in it, and does not wait for a slow one."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest

from relight_app.engine import Engine
from relight_app.markup import Markup
from relight_app.parts.part import Part, Query
from relight_app.parts.registry import PARTS
from relight_app.server import page_route
from tests.app.sample_runs import SampleRun, make_run
from tests.app.served_dashboard import ServedDashboard
from tests.event_loop import run_async


def _get(served: ServedDashboard, path: str) -> httpx.Response:
    return httpx.get(served.site + path, headers={"Authorization": f"Bearer {served.token}"}, timeout=60.0)


def test_every_page_arrives_with_its_parts(tmp_path: Path) -> None:
    layout = make_run(tmp_path, SampleRun("an <b>odd</b> name", status="finished"))
    with ServedDashboard(tmp_path) as served:
        run = _get(served, f"/run?id={layout.run_id}")
        pages = {path: _get(served, path).text for path in ("/", "/runs", "/launch", "/machine", "/run?id=nothing")}
    assert run.headers["cache-control"] == "no-store"
    for part in ("run-header", "run-figures", "run-checkpoints", "run-details"):
        assert f'data-part="{part}"' in run.text
    assert "an &lt;b&gt;odd&lt;/b&gt; name" in run.text and "<b>odd</b>" not in run.text
    address = "&quot;page&quot;: &quot;{}&quot;"
    assert pages["/"].replace(address.format(""), address.format("runs")) == pages["/runs"]
    assert "an &lt;b&gt;odd" in pages["/"]
    assert "There is no run &#x27;nothing&#x27;" in pages["/run?id=nothing"]
    assert all("relight-streamlit" in page and page.endswith("</html>\n") for page in pages.values())
    # Streamlit's own scripts are in the template only.
    assert 'type="module" crossorigin' not in run.text.partition('<template id="relight-streamlit">')[0]


def test_a_long_list_begins_with_what_is_in_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELIGHT_RUNS", str(tmp_path))
    monkeypatch.setitem(page_route._AT_FIRST, "runs", {"rows": "1"})
    for name in ("a", "b"):
        make_run(tmp_path, SampleRun(name, status="finished"))
    parts = [run_async(page_route._build_part("runs", query)) for query in ({}, {"rows": "all"})]
    assert [part.count(b'class="open"') for part in parts] == [1, 2]


def test_a_slow_part_is_left_to_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def build(_engine: Engine, _query: Query) -> Markup:
        ended.wait(60)
        return Markup()

    monkeypatch.setattr(page_route, "_PATIENCE_S", 0.05)
    monkeypatch.setitem(PARTS, "runs", Part(build))

    async def ask() -> bytes:
        try:
            return await page_route._build_part("runs", {})
        finally:
            assert not ended.is_set()
            ended.set()

    assert run_async(ask()) == b""
