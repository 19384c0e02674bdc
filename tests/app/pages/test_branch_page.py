"""The branch form shows the parent's values, marks changes, uses the engine's errors, and makes one run per press."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from streamlit.testing.v1 import AppTest

from relight.checkpoints.store import CheckpointStore
from relight.errors import RelightError
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, write_record
from relight.runs.records import RunRecord, TaskReference
from relight.supervision.attempt_start import Launched
from relight_app import actions
from relight_app.engine import Engine
from tests.app.pages.page_test import open_page, view_texts
from tests.app.sample_runs import SampleRun, make_run
from tests.patience import stretch


@pytest.fixture
def parent(runs: Path) -> RunLayout:
    return make_run(runs, SampleRun("parent"))


def open_branch(parent: RunLayout) -> tuple[AppTest, int]:
    step = CheckpointStore(parent.checkpoints).list().checkpoints[0].step
    page = open_page("branch", id=parent.run_id, step=str(step))
    assert not page.exception
    return page, step


def test_the_form_has_the_parents_values_and_marks_what_is_changed(parent: RunLayout) -> None:
    page, step = open_branch(parent)
    key = f"branch-{parent.run_id}-digits-"
    assert page.number_input(key=f"{key}batch_size").value == 128, "the value of the parent"
    assert [code.value for code in page.code] == [f"relight branch {parent.run_id} --from {step}"]
    page.number_input(key=f"{key}epochs").set_value(30).run()
    assert any("changed" in caption.value and "was 12" in caption.value for caption in page.caption)
    assert [code.value for code in page.code] == [f"relight branch {parent.run_id} --from {step} --set epochs=30"]


def test_a_press_branches_once_with_what_was_changed(parent: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def branch(layout: RunLayout, **given: Any) -> Launched:
        asked.append({"run": layout.run_id, **given})
        return Launched(layout, 1, True)

    monkeypatch.setattr(actions, "branch_run", branch)
    page, step = open_branch(parent)
    page.number_input(key=f"branch-{parent.run_id}-digits-lr").set_value(0.0005).run()
    page.text_input(key="branch-name").set_value("finer").run()
    page.button(key="branch-start").click().run()
    (one,) = asked
    assert (one["run"], one["from_"], one["config_changes"], one["name"]) == (
        parent.run_id,
        step,
        {"lr": 0.0005},
        "finer",
    )


def test_a_branch_can_take_the_weights_only(parent: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def branch(layout: RunLayout, *, weights_only: bool, **_: Any) -> Launched:
        asked.append(weights_only)
        return Launched(layout, 1, True)

    monkeypatch.setattr(actions, "branch_run", branch)
    page, step = open_branch(parent)
    page.selectbox(key="branch-weights-only").set_value(True).run()
    assert [code.value for code in page.code] == [f"relight branch {parent.run_id} --from {step} --weights-only"]
    page.button(key="branch-start").click().run()
    assert asked == [True]


def test_a_script_branches_with_other_arguments(
    parent: RunLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "train.py"
    script.write_text("import relight\n\nrun = relight.init()\n")
    record = read_record(parent.record, RunRecord)
    task = TaskReference(kind="script", name="train.py", path=str(script), arguments=("--lr", "3e-4"))
    write_record(parent.record, msgspec.structs.replace(record, task=task))
    asked: list[Any] = []

    def branch(layout: RunLayout, *, arguments: Any, **_: Any) -> Launched:
        asked.append(arguments)
        return Launched(layout, 1, True)

    monkeypatch.setattr(actions, "branch_run", branch)
    page, step = open_branch(parent)
    assert page.text_input(key="branch-arguments").value == "--lr 3e-4"
    page.text_input(key="branch-arguments").set_value("--lr 1e-4 --name 'a b'").run()
    command = f"relight branch {parent.run_id} --from {step} -- --lr 1e-4 --name 'a b'"
    assert [code.value for code in page.code] == [command]
    page.button(key="branch-start").click().run()
    assert asked == [("--lr", "1e-4", "--name", "a b")]


def test_a_run_from_elsewhere_shows_its_command_and_imports_nothing(parent: RunLayout, tmp_path: Path) -> None:
    file = tmp_path / "spiral.py"
    file.write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    task = TaskReference(kind="file", name="spiral.py:Spiral", path=str(file), class_name="Spiral")
    write_record(parent.record, msgspec.structs.replace(read_record(parent.record, RunRecord), task=task, home=None))
    page, step = open_branch(parent)
    sentence = f"To train it means to run: the code in {file}. If you trust that, say so in a terminal: relight resume"
    assert sentence in view_texts(page)
    engine = Engine(parent.folder.parent)
    resumed = actions.resume(engine, parent.run_id, from_step=step, token="press")
    assert resumed.problem is not None and sentence in resumed.problem.sentence
    request = actions.DrillRequest(task, {}, run=parent.run_id)
    actions.drill(engine, request)
    deadline = time.monotonic() + stretch(60)
    while (job := actions.drill_job(engine, request)) is None or job.state == "running":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sentence in str(job.error)
    assert not (tmp_path / "imported").exists()


def test_an_error_is_the_engines_sentence(parent: RunLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(layout: RunLayout, **_: Any) -> Launched:
        raise RelightError("No branch with width=64: its model would not fit. 2 with another shape or type: 0.weight …")

    monkeypatch.setattr(actions, "branch_run", refuse)
    page, _ = open_branch(parent)
    page.number_input(key=f"branch-{parent.run_id}-digits-width").set_value(64).run()
    page.button(key="branch-start").click().run()
    assert not page.exception
    assert "2 with another shape or type: 0.weight" in view_texts(page)
    page.number_input(key=f"branch-{parent.run_id}-digits-width").set_value(32).run()
    assert "2 of another shape" not in view_texts(page)


def test_a_missing_step_or_run_leads_back_to_the_list(parent: RunLayout) -> None:
    page = open_page("branch", id=parent.run_id, step="7")
    assert not page.exception
    assert f"Run '{parent.run_id}' has no checkpoint at step 7. It has checkpoints at steps 400" in view_texts(page)
    assert "Cannot branch from here" in view_texts(open_page("branch", id="nowhere", step="1"))
    assert "Cannot branch from here" in view_texts(open_page("branch"))
