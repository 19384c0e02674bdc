"""The page of a run: what can be done, what must be known, in every state."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from relight.checkpoints.store import CheckpointStore
from relight.errors import RunBusy
from relight.runs.layout import RunLayout
from relight.runs.stop_request import request_stop
from relight.supervision.attempt import Launched
from relight_app import actions
from tests.app.pages.page_test import live_data, open_page, view_markup, view_texts
from tests.app.sample_runs import TRACEBACK, SampleRun, make_run


def _buttons(page: AppTest) -> dict[str, bool]:
    """Labels of the buttons and whether they can be pressed."""
    return {button.label: not button.disabled for button in page.button}


@pytest.mark.parametrize(
    ("status", "buttons"),
    [
        ("running", {"Stop": True, "Export best weights": True}),
        ("crashed", {"Resume": True, "Export best weights": True}),
        ("interrupted", {"Resume": True, "Export best weights": True}),
        ("stopped", {"Resume": True, "Export best weights": True}),
        ("finished", {"Export best weights": True}),
    ],
)
def test_only_what_can_be_done_is_offered(runs: Path, status: str, buttons: dict[str, bool]) -> None:
    layout = make_run(runs, SampleRun("x", status=status, step=1_200 if status == "finished" else 600))
    page = open_page("run", id=layout.run_id)
    assert not page.exception
    assert [title.value for title in page.title] == ["x"]
    assert _buttons(page) == buttons


def test_without_a_checkpoint_nothing_can_be_exported(runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="crashed", step=30, checkpoints=0))
    page = open_page("run", id=layout.run_id)
    assert _buttons(page) == {"Resume": True, "Export best weights": False}
    assert "A resume starts at step 0" in view_texts(page)
    assert "No checkpoint yet" in view_texts(page)


def test_a_crash_shows_its_whole_traceback_and_what_was_lost(runs: Path) -> None:
    layout = make_run(
        runs, SampleRun("x", status="crashed", step=600, durable_lag=25, error="boom: it broke", traceback=TRACEBACK)
    )
    page = open_page("run", id=layout.run_id)
    shown = view_texts(page)
    assert "boom: it broke" in shown
    assert " ".join(TRACEBACK.split()) in shown
    assert "25 steps lost. A resume goes on from step 575" in shown


def test_a_failure_to_save_is_loud_and_stop_asks_before_work_is_lost(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[bool] = []
    monkeypatch.setattr(actions, "stop_run", lambda layout, *, now: stopped.append(now))
    layout = make_run(runs, SampleRun("x", status="running", step=600, saving_failure="The disk is full."))
    page = open_page("run", id=layout.run_id)
    assert "Checkpoints cannot be saved. The disk is full." in view_texts(page)
    assert 'role="alert"' in view_markup(page)
    _button(page, "Stop").click().run()
    assert stopped == []
    _button(page, "End it now").click().run()
    assert stopped == [True]


def test_stop_without_anything_to_lose_does_not_ask(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[bool] = []
    monkeypatch.setattr(actions, "stop_run", lambda layout, *, now: stopped.append(now))
    layout = make_run(runs, SampleRun("x", status="running", step=600))
    page = open_page("run", id=layout.run_id)
    _button(page, "Stop").click().run()
    assert stopped == [False]


def test_a_stop_under_way_is_shown_and_can_be_hastened(runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="running", step=600))
    request_stop(layout)
    page = open_page("run", id=layout.run_id)
    assert _buttons(page) == {"Stopping…": False, "End it now": True, "Export best weights": True}


def test_a_resume_that_is_refused_gives_the_engines_sentence(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int | None, str]] = []

    def refuse(layout: object, *, from_: int | None, token: str) -> None:
        asked.append((layout.run_id, from_, token))  # type: ignore[attr-defined]
        raise RunBusy("Run 'x' is already training (pid 41). Stop it first.")

    monkeypatch.setattr(actions, "resume_run", refuse)
    layout = make_run(runs, SampleRun("x", status="crashed", step=600))
    page = open_page("run", id=layout.run_id)
    _button(page, "Resume").click().run()
    assert not page.exception
    assert asked == [(layout.run_id, None, f"{layout.run_id}-after-1")]
    assert "already training (pid 41). Stop it first." in view_texts(page)


def test_a_resume_that_must_wait_does_not_hold_the_page_up(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def wait(layout: RunLayout, *, from_: int | None, token: str) -> Launched:
        assert release.wait(30)
        return Launched(layout, 2, True)

    monkeypatch.setattr(actions, "resume_run", wait)
    monkeypatch.setattr(actions, "_PATIENCE_S", 0.05)
    layout = make_run(runs, SampleRun("x", status="crashed", step=600))
    page = open_page("run", id=layout.run_id)
    _button(page, "Resume").click().run()
    assert not page.exception
    assert _buttons(page) == {"Resuming…": False, "Export best weights": True}
    job = actions.resume_job(_engine(), layout.run_id)
    release.set()
    assert job is not None
    assert job.wait(30)
    page.run()
    assert _buttons(page) == {"Resume": True, "Export best weights": True}


def test_charts_follow_what_was_logged(runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="running", step=600, gpus=1))
    titles = [chart["title"] for chart in live_data(open_page("run", id=layout.run_id), "relight_live_chart")]
    assert titles == ["Loss", "Accuracy", "Learning rate", "CPU", "Memory", "GPU 0", "GPU 0 memory"]


def test_a_damaged_checkpoint_is_told_and_hides_nothing_else(runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="stopped", step=600))
    newest = CheckpointStore(layout.checkpoints).list().checkpoints[-1]
    newest.path.write_bytes(newest.path.read_bytes()[:-40])
    page = open_page("run", id=layout.run_id)
    assert not page.exception
    assert newest.path.name in view_texts(page)
    assert view_markup(page).count("Actions for step") == 2


def test_an_export_ends_in_a_link_called_download(runs: Path) -> None:
    layout = make_run(runs, SampleRun("x"))
    page = open_page("run", id=layout.run_id)
    _button(page, "Export best weights").click().run()
    job = actions.export_job(_engine(), layout.run_id)
    assert job is not None
    assert job.wait(60)
    page.run()
    assert not page.exception
    (exported,) = layout.exports.glob("*.safetensors")
    assert f'href="/files/{layout.run_id}/exports/{exported.name}"' in view_markup(page)
    assert "Download" in view_texts(page)


def test_an_unknown_run_leads_back_to_the_list(runs: Path) -> None:
    make_run(runs, SampleRun("digits"))
    page = open_page("run", id="digit-nowhere")
    assert not page.exception
    assert [title.value for title in page.title] == ["No such run"]
    assert "See all runs" in view_texts(page)
    assert not open_page("run").exception


def test_a_copied_run_opens_under_the_name_of_its_folder(runs: Path) -> None:
    original = make_run(runs, SampleRun("x", status="crashed", step=600))
    shutil.move(original.folder, runs / "copied-elsewhere")
    page = open_page("run", id="copied-elsewhere")
    assert not page.exception
    assert [title.value for title in page.title] == ["x"]
    assert _buttons(page) == {"Resume": True, "Export best weights": True}
    assert "from=copied-elsewhere" in view_markup(page)


@pytest.mark.parametrize("content", ["", "{"])
def test_a_run_whose_record_is_damaged_is_said_to_be_damaged_not_gone(runs: Path, content: str) -> None:
    layout = make_run(runs, SampleRun("x"))
    layout.record.write_text(content)
    page = open_page("run", id=layout.run_id)
    assert not page.exception
    assert [title.value for title in page.title] == ["Damaged run"]
    assert "run.json" in view_texts(page)


def test_an_address_cannot_leave_the_runs_folder(runs: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "elsewhere", SampleRun("secret"))
    other = next((tmp_path / "elsewhere").iterdir())
    for asked in (f"../elsewhere/{other.name}", str(other), "..", "."):
        assert [title.value for title in open_page("run", id=asked).title] == ["No such run"]


def _button(page: AppTest, label: str):  # type: ignore[no-untyped-def]
    return next(button for button in page.button if button.label == label)


def _engine():  # type: ignore[no-untyped-def]
    from relight_app.engine import current_engine

    return current_engine()
