"""Streamlit draws only the shell of each page: it mounts the parts, and the charts of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from relight_app.navigation import PAGES
from relight_app.parts.registry import PARTS
from tests.app.sample_runs import SampleRun, make_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv("RELIGHT_RUNS", str(folder))
    return folder


def _open(name: str, **query: str) -> AppTest:
    page = AppTest.from_string(
        "import streamlit as st\n"
        "from relight_app.frame import show\nfrom relight_app.navigation import PAGES, list_mounts\n"
        f"for mount in list_mounts(PAGES[{name!r}], st.query_params.to_dict()):\n    show(mount)\n",
        default_timeout=60.0,
    )
    for key, value in query.items():
        page.query_params[key] = value
    page.run()
    assert not page.exception
    return page


def _data(page: AppTest, component: str) -> list[dict[str, Any]]:
    return [
        json.loads(element.proto.json)
        for element in page.get("bidi_component")
        if element.proto.component_name == component
    ]


def _parts(page: AppTest) -> list[str]:
    return [part["name"] for board in _data(page, "relight_parts") for part in board["parts"]]


@pytest.mark.parametrize("folder", ["x", "copied__elsewhere"])
def test_a_run_in_any_folder_has_its_charts_and_parts(runs: Path, folder: str) -> None:
    layout = make_run(runs, SampleRun("y", status="crashed", step=600))
    shutil.move(layout.folder, runs / folder)
    page = _open("run", id=folder)
    assert [board["run"] for board in _data(page, "relight_chart_board")] == [folder]
    assert {board["run"] for board in _data(page, "relight_parts")} == {folder}
    assert set(_parts(page)) == {name for name in PARTS if name.startswith("run-")}


def test_a_run_is_found_by_its_name(runs: Path) -> None:
    layout = make_run(runs, SampleRun("x"))
    assert {board["run"] for board in _data(_open("run", id="x"), "relight_parts")} == {layout.run_id}


def test_a_missing_run_has_only_the_part_that_says_so(runs: Path) -> None:
    page = _open("run", id="nothing")
    assert _parts(page) == ["run-header"]
    assert _data(page, "relight_chart_board") == []


@pytest.mark.parametrize("name", PAGES)
def test_every_page_mounts_parts_that_exist(runs: Path, name: str) -> None:
    page = _open(name)
    assert _parts(page) or _data(page, "relight_compare")
    assert set(_parts(page)) <= set(PARTS)
