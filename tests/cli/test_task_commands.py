"""`relight tasks` lists the tasks and the options of each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from relight.tasks.built_in import BUILTIN_TASKS
from relight.tasks.fields import describe_config

if TYPE_CHECKING:
    from tests.cli.conftest import Ask

TASK = '''
from relight import Task, TaskConfig, option

class Spiral(Task):
    """Two arms, one network."""

    class Config(TaskConfig):
        hidden: int = option(64, "Units in the hidden layer.", ge=1, le=4096)

    best_metric = "accuracy"

    def build_model(self): ...
    def build_data(self): ...
    def step(self, model, batch): ...
'''


def test_every_builtin_task_is_listed_with_its_summary(ask: Ask) -> None:
    out = ask("tasks").stdout
    for task in BUILTIN_TASKS.values():
        assert task.name in out
        assert task.summary in out
    assert [entry["name"] for entry in ask("tasks", "--json").json] == list(BUILTIN_TASKS)


def test_a_task_shows_every_option_with_default_help_and_bounds(ask: Ask) -> None:
    out = ask("tasks", "digits").stdout
    for option in describe_config(BUILTIN_TASKS["digits"].config_class):
        (line,) = [line for line in out.splitlines() if line.startswith(f"  {option.name}=")]
        assert option.help in line
    assert "  dropout=0.2" in out
    assert "at least 0 and less than 1" in out
    assert "one of adamw, adam, sgd" in out


def test_json_of_a_task_has_its_options_as_records(ask: Ask) -> None:
    told = ask("tasks", "digits", "--json").json
    assert told["name"] == "digits"
    assert told["best_metric"] == "validation/accuracy"
    options = {option["name"]: option for option in told["options"]}
    assert options["lr"]["minimum"] == 0
    assert options["lr"]["exclusive_minimum"] is True
    assert options["optimizer"]["choices"] == ["adamw", "adam", "sgd"]


def test_a_task_of_your_own_shows_its_options(relight: Ask, tmp_path: Path) -> None:
    file = tmp_path / "spiral.py"
    file.write_text(TASK)
    answer = relight("tasks", f"{file}:Spiral")
    assert answer.exit_code == 0, answer
    assert answer.stdout.startswith("Spiral: Two arms, one network.\nBest is the highest validation/accuracy.\n")
    assert "  hidden=64" in answer.stdout


def test_an_unknown_task_is_wrong_usage_and_names_the_nearest(ask: Ask) -> None:
    answer = ask("tasks", "digitz")
    assert answer.exit_code == 2
    assert "'digits'" in answer.error
