"""The list of runs has a complete row for any run, and a sentence and a next step for every state."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from relight.overview.summary import DamagedRun, RunSummary, list_runs, summarize_run
from relight.runs.about import change_about
from relight.runs.layout import RunLayout
from relight_app.engine import Engine
from relight_app.parts.run_list import (
    build_damaged_runs,
    build_run_list,
    describe_progress,
    order_runs,
)
from tests.app.parts.shown import Element, show
from tests.app.sample_runs import SampleRun, make_run


@pytest.fixture
def running(tmp_path: Path) -> RunLayout:
    return make_run(tmp_path, SampleRun("busy", status="running", step=640, attempts=2, durable_lag=40))


def _list(*runs: RunSummary, curves: dict[str, tuple[str, Sequence[float]]] | None = None) -> str:
    return build_run_list(runs, curves=curves or {})


def test_a_running_row_says_progress_best_and_what_is_at_risk(running: RunLayout) -> None:
    run = summarize_run(running)
    row = _list(run)
    assert "640 / 1,200" in row
    assert "98.50 %" in row
    assert re.search(r"\d+(\.\d)? (s|min)[^<]*, 40 steps<", row)
    assert f'href="/run?id={run.run}"' in row
    assert 'aria-valuenow="53"' in row


@pytest.mark.parametrize("status", ["finished", "stopped", "crashed", "interrupted", "queued", "running"])
def test_every_status_is_a_word_and_not_only_a_color(tmp_path: Path, status: str) -> None:
    run = summarize_run(make_run(tmp_path, SampleRun("x", status=status, step=600)))
    if status != "queued":
        assert run.status == status
    assert f"{str(run.status).capitalize()}</span>" in _list(run)


def test_a_failure_to_save_replaces_the_work_at_risk(running: RunLayout) -> None:
    run = msgspec.structs.replace(summarize_run(running), saving_failure="The disk is full.")
    assert "Saving fails" in _list(run)


def test_a_hostile_name_stays_text(tmp_path: Path) -> None:
    run = summarize_run(make_run(tmp_path, SampleRun("<script>alert(1)</script>", reason='"><img src=x>')))
    row = _list(run, curves={run.run: ("train/<b>", [2.0, 1.0])})
    assert "<script" not in row
    assert "<img" not in row
    assert "<b>" not in row


def test_live_runs_come_first_and_then_the_newest(tmp_path: Path) -> None:
    for name, status, age_s in (("old", "finished", 900), ("alive", "running", 500), ("new", "crashed", 10)):
        make_run(tmp_path, SampleRun(name, status=status, step=600, age_s=age_s))
    assert [run.name for run in order_runs(list_runs(tmp_path).runs)] == ["alive", "new", "old"]


def test_progress_without_a_known_end_has_no_share(running: RunLayout) -> None:
    run = msgspec.structs.replace(summarize_run(running), steps_total=None, eta_s=None, epochs=None)
    assert describe_progress(run) == (None, "640 steps")
    assert "aria-valuenow" not in _list(run)


def test_damaged_runs_are_named_with_their_reason() -> None:
    shown = build_damaged_runs([DamagedRun(run="a-1", path="/r/a-1", reason="'run.json' is <cut> short.")])
    assert "a-1" in shown
    assert "&lt;cut&gt; short." in shown


def _opened(part: Element) -> list[str]:
    return [str(link.attributes["href"]) for link in part.find_all("a", class_="open")]


def test_an_empty_folder_offers_the_first_step(engine: Engine, runs: Path) -> None:
    part = show(engine, "runs")
    assert [heading.text for heading in part.find_all("h1")] == ["Runs"]
    assert "No runs yet" in part.text
    assert str(runs) in part.text
    assert "/launch" in part.links()


def test_every_run_has_a_row_and_the_totals_add_up(engine: Engine, runs: Path) -> None:
    one = make_run(runs, SampleRun("one", status="running", step=300))
    two = make_run(runs, SampleRun("two", status="crashed", step=300, signal="SIGKILL", reason="Ended by SIGKILL."))
    part = show(engine, "runs")
    assert "2 runs: 1 running, 1 crashed" in part.text
    assert "Ended by SIGKILL." in part.text
    assert _opened(part) == [f"/run?id={one.run_id}", f"/run?id={two.run_id}"]


def test_status_and_search_come_from_the_address(engine: Engine, runs: Path) -> None:
    one = make_run(runs, SampleRun("one", status="running", step=300))
    two = make_run(runs, SampleRun("two"))
    assert _opened(show(engine, "runs", status="Running")) == [f"/run?id={one.run_id}"]
    part = show(engine, "runs", q="two")
    assert _opened(part) == [f"/run?id={two.run_id}"]
    assert [field.attributes["value"] for field in part.find_all("input", data_query="q")] == ["two"]
    nothing = show(engine, "runs", q="three")
    assert "No runs match" in nothing.text
    (clear,) = [button for button in nothing.find_all("button") if button.text == "Clear search and status"]
    assert clear.attributes["data-set"] == '{"q": null, "status": null}'
    assert len(_opened(show(engine, "runs", status="<b>"))) == 2, "an unknown status chooses none"


def test_where_every_run_is_archived_the_page_offers_to_show_them(engine: Engine, runs: Path) -> None:
    put_away = make_run(runs, SampleRun("one"))
    change_about(put_away, archived=True)
    (button,) = show(engine, "runs").find_all("button", data_set='{"archived": "1"}', class_="button")
    assert button.text == "Show archived runs"
    assert _opened(show(engine, "runs", archived="1")) == [f"/run?id={put_away.run_id}"]


def test_a_damaged_run_is_named_below_the_others(engine: Engine, runs: Path) -> None:
    make_run(runs, SampleRun("good"))
    make_run(runs, SampleRun("cut")).record.write_bytes(b"{")
    part = show(engine, "runs")
    assert "1 run cannot be read" in part.text
    assert part.text.index("good") < part.text.index("1 run cannot be read")
