"""The page of a run: the buttons and notices in every state."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from streamlit.testing.v1 import AppTest

from relight.checkpoints.store import CheckpointStore
from relight.drill.proof import DrillProof, FirstDifference, write_proof
from relight.drill.trainings import DrillFailed
from relight.errors import RunBusy
from relight.runs.layout import RunLayout
from relight.runs.record_file import write_record
from relight.runs.records import Parent, ResumeCheck, TaskReference
from relight.runs.run_record import read_run_record
from relight.runs.stop_request import request_stop
from relight.supervision.attempt_start import Launched
from relight.tasks.reference import PreparedTask
from relight_app import actions
from relight_app.actions import DrillRequest
from relight_app.jobs import Job
from tests.app.pages.page_test import live_data, open_page, view_markup, view_texts
from tests.app.sample_runs import TRACEBACK, SampleRun, make_run


def _buttons(page: AppTest) -> dict[str, bool]:
    """Return for each button, by label, whether it is enabled. "Prove resume" always is, and is left out."""
    buttons = {button.label: not button.disabled for button in page.button}
    assert buttons.pop("Prove resume")
    return buttons


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
    assert "30 steps lost. A resume starts from step 0." in view_texts(page)
    assert "No checkpoint The run ended before" in view_texts(page)


def test_a_crash_shows_its_whole_traceback_and_what_was_lost(runs: Path) -> None:
    layout = make_run(
        runs, SampleRun("x", status="crashed", step=600, durable_lag=25, error="boom: it broke", traceback=TRACEBACK)
    )
    page = open_page("run", id=layout.run_id)
    shown = view_texts(page)
    assert "boom: it broke" in shown
    assert " ".join(TRACEBACK.split()) in shown
    assert "25 steps lost. A resume continues from step 575" in shown


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
    _button(page, "Stop now").click().run()
    assert stopped == [True]


def test_stop_without_anything_to_lose_does_not_ask(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[bool] = []
    monkeypatch.setattr(actions, "stop_run", lambda layout, *, now: stopped.append(now))
    layout = make_run(runs, SampleRun("x", status="running", step=600))
    page = open_page("run", id=layout.run_id)
    _button(page, "Stop").click().run()
    assert stopped == [False]


def test_a_stop_in_progress_is_shown_and_can_be_forced(runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="running", step=600))
    request_stop(layout)
    page = open_page("run", id=layout.run_id)
    assert _buttons(page) == {"Stopping…": False, "Stop now": True, "Export best weights": True}


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


def test_a_resume_that_must_wait_does_not_block_the_page(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    release.set()
    _wait_until(lambda: _ended(actions.resume_job(_engine(), layout.run_id)))
    page.run()
    assert _buttons(page) == {"Resume": True, "Export best weights": True}


def test_the_charts_of_the_run_are_on_its_page(runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="running", step=600))
    (board,) = live_data(open_page("run", id=layout.run_id), "relight_chart_board")
    assert board["run"] == layout.run_id


@pytest.mark.parametrize("folder", ["x", "copied__elsewhere"])
def test_a_run_in_any_folder_has_charts(runs: Path, folder: str) -> None:
    layout = make_run(runs, SampleRun("x", status="crashed", step=600))
    shutil.move(layout.folder, runs / folder)
    page = open_page("run", id=folder)
    assert not page.exception
    assert [board["run"] for board in live_data(page, "relight_chart_board")] == [folder]


def test_a_guess_of_what_the_best_is_is_a_notice_with_the_option_that_settles_it(runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="running", step=600))
    record = read_run_record(layout)
    assert "does not say whether higher" not in view_texts(open_page("run", id=layout.run_id))
    write_record(layout.record, msgspec.structs.replace(record, direction_guessed=True))
    texts = view_texts(open_page("run", id=layout.run_id))
    assert "The name of the metric accuracy does not say whether higher or lower is better." in texts
    assert "add higher_is_better=True or False to the task's class" in texts


def test_a_damaged_checkpoint_is_reported_and_hides_no_other(runs: Path) -> None:
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
    _wait_until(lambda: _ended(actions.export_job(_engine(), layout.run_id)))
    page.run()
    assert not page.exception
    (exported,) = layout.exports.glob("*.safetensors")
    assert exported.name == "best_model.safetensors", "the path that `relight export` keeps up to date"
    assert f'href="/files/{layout.run_id}/exports/{exported.name}"' in view_markup(page)
    assert "Download" in view_texts(page)


def test_an_unknown_run_leads_back_to_the_list(runs: Path) -> None:
    make_run(runs, SampleRun("digits"))
    page = open_page("run", id="digit-nowhere")
    assert not page.exception
    assert [title.value for title in page.title] == ["Run not found"]
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


@pytest.mark.parametrize("content", ["", "{", "\x80\x91"])
def test_a_run_with_a_damaged_record_is_shown_as_damaged_not_as_missing(runs: Path, content: str) -> None:
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
        assert [title.value for title in open_page("run", id=asked).title] == ["Run not found"]


PROOF: dict[str, Any] = {
    "config": {"workers": 0}, "time_s": 1_790_000_000.0, "bit_exact": True, "steps": 40, "killed_at_step": 12,
    "fingerprint": {"torch": "2.13.0", "device": "cpu", "threads": 2}, "resumed_from_step": 11, "mid_epoch": True,
    "checkpoints_compared": 4, "tensors_compared": 17, "metric_steps_compared": 40, "state_digest": "d" * 32,
    "first_difference": None, "duration_s": 9.0, "task": TaskReference(kind="builtin", name="digits"),
}  # fmt: skip


def test_a_proven_resume_is_a_badge_that_turns_gray_when_something_changed(runs: Path) -> None:
    layout = make_run(runs, SampleRun("x"))
    environment = layout.attempt(1).environment
    environment.write_text('{"torch": "2.13.0", "device": "cpu", "threads": 2}')
    assert "resume proven" not in view_texts(open_page("run", id=layout.run_id))
    write_proof(runs, DrillProof(**PROOF))
    _engine().memo.forget()  # the server does this at the end of a drill
    page = open_page("run", id=layout.run_id)
    assert "resume proven" in view_texts(page)
    assert "torch 2.13.0, cpu, 2 threads" in view_markup(page)
    assert "Bit-exact: after kill -9, the run resumed as if nothing had happened" in view_texts(page)
    environment.write_text('{"torch": "2.14.0", "device": "cpu", "threads": 2}')
    changed = make_run(runs, SampleRun("y"))
    changed.attempt(1).environment.write_text('{"torch": "2.14.0", "device": "cpu", "threads": 2}')
    page = open_page("run", id=changed.run_id)
    assert "resume proven before a change" in view_texts(page)
    assert "Out of date: torch was 2.13.0 and is 2.14.0" in view_texts(page)


def test_a_real_resume_that_contradicts_the_drill_is_shown_with_it(runs: Path) -> None:
    layout = make_run(runs, SampleRun("x"))
    write_proof(runs, DrillProof(**PROOF))
    number = layout.latest_attempt()
    check = ResumeCheck(attempt=number, time_s=1.0, verdict="different", against=1, equal_steps=3, sentence="")
    write_record(layout.attempt(number).resume_check, check)
    _engine().memo.forget()
    assert f"but the resume of attempt {number} was not" in view_texts(open_page("run", id=layout.run_id))


def test_a_resume_that_was_not_exact_is_shown_with_cause_and_cure(runs: Path) -> None:
    layout = make_run(runs, SampleRun("x"))
    first = FirstDifference(
        part="tensor", name="model.w", step=16, detail="1.0 after the resume, 2.0 without it",
        cause="Likely the clock.", cure="Count steps instead.", others=3,
    )  # fmt: skip
    write_proof(runs, DrillProof(**PROOF | {"bit_exact": False, "first_difference": first}))
    shown = view_texts(open_page("run", id=layout.run_id))
    assert "resume not exact" in shown
    assert "First difference: tensor model.w, at step 16" in shown
    assert "Cause: Likely the clock." in shown and "Cure: Count steps instead." in shown


def test_a_drill_runs_in_the_background_and_shows_its_progress(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hold(folder: Path, task: PreparedTask, *, tell: Callable[[str], None], **_: Any) -> None:
        tell("Killed -9 at step 12.")
        assert release.wait(30)
        raise DrillFailed("digits crashed at step 3, so there is nothing to compare.")

    monkeypatch.setattr(actions, "run_drill", hold)
    layout = make_run(runs, SampleRun("x", status="crashed", step=600))
    page = open_page("run", id=layout.run_id)
    _button(page, "Prove resume").click().run()
    record = read_run_record(layout)

    def find() -> Job | None:
        return actions.drill_job(_engine(), DrillRequest(record.task, record.config))

    _wait_until(lambda: (job := find()) is not None and len(job.told) > 1)
    page.run()
    assert not page.exception
    assert _button(page, "Prove resume").disabled
    assert "Killed -9 at step 12." in view_texts(page)
    release.set()
    _wait_until(lambda: _ended(find()))
    page.run()
    assert "there is nothing to compare" in view_texts(page)
    assert not _button(page, "Prove resume").disabled


@pytest.mark.parametrize(("job", "button"), [("export_job", "Export best weights"), ("drill_job", "Prove resume")])
def test_a_job_that_ends_while_the_page_is_drawn_does_not_leave_its_button_disabled(
    runs: Path, monkeypatch: pytest.MonkeyPatch, job: str, button: str
) -> None:
    layout = make_run(runs, SampleRun("x"))
    found = iter([Job("running")])
    monkeypatch.setattr(actions, job, lambda *_: next(found, Job("done")))
    page = open_page("run", id=layout.run_id)
    assert not page.exception
    assert next(found, None) is None
    assert not _button(page, button).disabled


DAMAGED: dict[str, Callable[[RunLayout], Path]] = {
    "start": lambda layout: layout.attempt(2).start,
    "processes": lambda layout: layout.attempt(2).processes,
    "progress": lambda layout: layout.attempt(2).progress,
    "saving": lambda layout: layout.attempt(2).saving,
    "outcome": lambda layout: layout.attempt(2).outcome,
    "exit": lambda layout: layout.attempt(2).exit,
    "environment": lambda layout: layout.attempt(2).environment,
    "log": lambda layout: layout.attempt(2).log,
    "metrics": lambda layout: next(layout.metrics.glob("0002-train*")),
    "system metrics": lambda layout: next(layout.metrics.glob("0002-system*")),
    "manifest": lambda layout: max((layout.checkpoints / "manifests").iterdir()),
    "pack": lambda layout: max((layout.checkpoints / "packs").iterdir()),
    "store": lambda layout: layout.checkpoints / "format.json",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_no_damaged_file_hides_the_page_or_its_buttons(runs: Path, name: str) -> None:
    layout = make_run(runs, SampleRun(name, status="crashed", step=431, attempts=2, signal="SIGKILL"))
    DAMAGED[name](layout).write_bytes(os.urandom(333))
    page = open_page("run", id=layout.run_id)
    assert not page.exception
    assert [title.value for title in page.title] == [name]
    assert [header.value for header in page.header] == ["Checkpoints"]
    assert _buttons(page)["Resume"]


def test_a_branch_shows_its_changes_and_its_parent_links_to_it(runs: Path) -> None:
    parent = make_run(runs, SampleRun("p"))
    changes = {"lr": (0.002, 0.0005), "epochs": (12, 20)}
    child = make_run(runs, SampleRun("c", parent=Parent(run=parent.run_id, step=800, sequence=2, changes=changes)))
    shown = view_texts(open_page("run", id=child.run_id))
    assert f"branched from {parent.run_id} at step 800" in shown
    assert "lr 0.002 → 0.0005" in shown and "epochs 12 → 20" in shown
    page = open_page("run", id=parent.run_id)
    assert f"Branches of this run: {child.run_id}, from step 800" in view_texts(page)
    assert f'href="/run?id={child.run_id}"' in view_markup(page)


def test_each_attempts_log_can_be_picked(runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="crashed", step=600, attempts=2))
    layout.attempt(1).log.write_text("words of the first attempt")
    page = open_page("run", id=layout.run_id)
    assert "words of the first attempt" not in view_texts(page)
    picker = next(box for box in page.selectbox if box.label == "Attempt")
    picker.set_value(1).run()
    assert not page.exception
    assert "words of the first attempt" in view_texts(page)


def _ended(job: Job | None) -> bool:
    return job is not None and job.state != "running"


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _button(page: AppTest, label: str):  # type: ignore[no-untyped-def]
    return next(button for button in page.button if button.label == label)


def _engine():  # type: ignore[no-untyped-def]
    from relight_app.engine import current_engine

    return current_engine()


def test_no_file_of_the_run_takes_its_page_away(runs: Path) -> None:
    layout = make_run(runs, SampleRun("digits", status="interrupted", attempts=2))
    log, manifests = layout.attempt(2).log, layout.checkpoints / "manifests"
    for path, put, sentence in (
        (log, os.mkfifo, "cannot be read: Is a named pipe"),
        (manifests, Path.touch, "It cannot be read: Not a directory"),
        (layout.attempt(20_000_000).folder, Path.mkdir, "digits"),
        (layout.record, os.mkfifo, "Is a named pipe"),
    ):
        if path.exists():
            path.rename(runs / f".aside-{path.name}")
        put(path)
        page = open_page("run", id=layout.run_id)
        assert not page.exception
        assert sentence in view_texts(page), sentence
