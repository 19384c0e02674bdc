"""The Launch page has a form for every task, makes one run for several presses, and uses the engine's errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from relight.runs.catalog import create_run
from relight.runs.records import PreparedTask
from relight.supervision.attempt_start import Launched
from relight_app import actions
from tests.app.pages.page_test import open_page, view_texts
from tests.app.sample_runs import SampleRun, make_run


@dataclass
class Launches:
    """Records the requested launches and starts no process."""

    asked: list[dict[str, Any]] = field(default_factory=list)

    def launch(self, folder: Path, prepared: PreparedTask, **asked: Any) -> Launched:
        self.asked.append({"prepared": prepared, **asked})
        created = create_run(folder, prepared, name=asked["name"], token=asked["token"])
        return Launched(created.layout, 1, created.created)


@pytest.fixture
def launches(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Launches:
    recorder = Launches()
    monkeypatch.setattr(actions, "launch_run", recorder.launch)
    return recorder


def _press_launch(page: AppTest) -> AppTest:
    return page.button(key="launch").click().run()


@pytest.mark.parametrize("task", ["digits", "stdlib-gpt", "images"])
def test_each_task_gets_a_form_with_a_widget_for_every_key(runs: Path, task: str) -> None:
    page = open_page("launch", task=task)
    assert not page.exception
    keys = {str(widget.key) for kind in ("number_input", "selectbox", "text_input") for widget in page.get(kind)}
    from relight.tasks.reference import list_tasks

    (described,) = [description for description in list_tasks() if description.name == task]
    assert {f"config-{task}-{field.name}" for field in described.fields} <= keys


def test_the_command_on_the_page_launches_the_same(runs: Path) -> None:
    page = open_page("launch")
    page.number_input(key="config-digits-epochs").set_value(3).run()
    page.text_input(key="run-name").set_value("my run").run()
    assert [code.value for code in page.code] == ["relight run digits --set epochs=3 --name 'my run'"]


def test_a_value_out_of_bounds_gives_the_command_lines_sentence_and_no_run(runs: Path, launches: Launches) -> None:
    page = open_page("launch")
    page.number_input(key="config-digits-epochs").set_value(0).run()
    _press_launch(page)
    assert not page.exception
    assert "epochs=0 is out of bounds: it must be at least 1" in view_texts(page)
    assert launches.asked == []
    assert list(runs.iterdir()) == []
    page.number_input(key="config-digits-epochs").set_value(2).run()
    assert "out of bounds" not in view_texts(page)


def test_pressing_often_starts_one_run(runs: Path, launches: Launches) -> None:
    page = open_page("launch")
    request = actions.LaunchRequest("digits", {}, "", page.session_state["remembered"]["launch-token"])
    from relight_app.engine import current_engine

    outcomes = [actions.launch(current_engine(), request) for _ in range(4)]
    assert len({outcome.run for outcome in outcomes}) == 1
    assert len(list(runs.iterdir())) == 1


def test_a_launch_leads_to_the_page_of_its_run_with_a_fresh_token_for_the_next(runs: Path, launches: Launches) -> None:
    page = open_page("launch")
    before = page.session_state["remembered"]["launch-token"]
    page.number_input(key="config-digits-epochs").set_value(3).run()
    _press_launch(page)
    (asked,) = launches.asked
    assert asked["prepared"].config["epochs"] == 3
    assert asked["token"] == before
    assert page.session_state["remembered"].get("launch-token") != before


def test_missing_data_is_reported_before_a_run_exists(runs: Path, launches: Launches) -> None:
    page = open_page("launch", task="images")
    page.text_input(key="config-images-data").set_value(str(runs / "nowhere")).run()
    _press_launch(page)
    assert "does not exist" in view_texts(page)
    assert launches.asked == []


def test_a_file_that_does_not_import_shows_its_traceback(runs: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import relight\n\ndef f(:\n    pass\n\nclass T(relight.Task): ...\n")
    page = open_page("launch", task="file", file=f"{broken}:T")
    assert not page.exception
    assert "broken.py" in view_texts(page)
    assert "SyntaxError" in view_texts(page)
    missing = open_page("launch", task="file", file=str(tmp_path / "none.py:T"))
    assert "there is no file" in view_texts(missing)


def test_a_training_script_is_launched_with_its_arguments(runs: Path, launches: Launches, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import relight\n\nrun = relight.init()\n")
    page = open_page("launch", task="file", file=str(script))
    assert not page.exception
    page.text_input(key="run-arguments").set_value("--lr 3e-4 --name 'a b'").run()
    assert [code.value for code in page.code] == [f"relight run {script} -- --lr 3e-4 --name 'a b'"]
    _press_launch(page)
    (asked,) = launches.asked
    task = asked["prepared"].reference
    assert (task.kind, task.arguments) == ("script", ("--lr", "3e-4", "--name", "a b"))


def test_arguments_with_an_open_quotation_mark_are_refused(runs: Path, launches: Launches, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import relight\n\nrun = relight.init()\n")
    page = open_page("launch", task="file", file=str(script))
    page.text_input(key="run-arguments").set_value("--name 'a b").run()
    _press_launch(page)
    assert "The arguments cannot be parsed: a quotation mark is not closed." in view_texts(page)
    assert launches.asked == []


def test_a_run_can_be_launched_again_with_its_own_config(runs: Path) -> None:
    layout = make_run(runs, SampleRun("x"))  # its batch_size is 128
    page = open_page("launch", **{"from": layout.run_id})
    assert page.number_input(key="config-digits-batch_size").value == 128
