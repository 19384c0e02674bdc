"""The list of runs has a sentence and a next step for every state."""

from __future__ import annotations

from pathlib import Path

from tests.app.pages.page_test import open_page, view_markup, view_texts
from tests.app.sample_runs import SampleRun, make_run


def test_an_empty_folder_offers_the_first_step(runs: Path) -> None:
    page = open_page("runs")
    assert not page.exception
    assert [title.value for title in page.title] == ["Runs"]
    assert "No runs yet" in view_texts(page)
    assert str(runs) in view_texts(page)
    assert 'data-page="launch"' in view_markup(page)


def test_every_run_has_a_row_and_the_totals_add_up(runs: Path) -> None:
    make_run(runs, SampleRun("one", status="running", step=300))
    make_run(runs, SampleRun("two", status="crashed", step=300, signal="SIGKILL", reason="Ended by SIGKILL."))
    page = open_page("runs")
    assert not page.exception
    assert "2 runs: 1 running, 1 crashed" in view_texts(page)
    assert "Ended by SIGKILL." in view_texts(page)
    assert view_markup(page).count('data-page="run"') == 2


def test_status_and_search_come_from_the_address(runs: Path) -> None:
    make_run(runs, SampleRun("one", status="running", step=300))
    make_run(runs, SampleRun("two"))
    assert view_markup(open_page("runs", status="Running")).count('data-page="run"') == 1
    assert view_markup(open_page("runs", q="two")).count('data-page="run"') == 1
    nothing = open_page("runs", q="three")
    assert "No runs match" in view_texts(nothing)


def test_a_damaged_run_is_named_below_the_others(runs: Path) -> None:
    make_run(runs, SampleRun("good"))
    make_run(runs, SampleRun("cut")).record.write_bytes(b"{")
    page = open_page("runs")
    assert not page.exception
    assert "1 run cannot be read" in view_texts(page)
    assert "good" in view_texts(page)


def test_a_runs_folder_that_cannot_be_read_gives_one_sentence(runs: Path) -> None:
    runs.rmdir()
    runs.write_text("a file")
    page = open_page("runs")
    assert not page.exception
    assert "cannot be read" in view_texts(page)
