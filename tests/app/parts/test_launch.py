"""The Launch page: a form for every task, the command that does the same, and no GET that imports a person's file."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from relight.machine.gpu import GpuCard, GpuReport
from relight.machine.report import GpuProcessRow, MachineReport
from relight.runs.record_file import read_record, write_record
from relight.runs.records import RunRecord, SlurmJob, TaskReference
from relight.tasks.reference import list_tasks
from relight_app.engine import Engine
from tests.app.asking import ask, problem
from tests.app.parts.shown import Element, show
from tests.app.sample_runs import SampleRun, make_run


def _form(part: Element, action: str = "launch") -> Element:
    (form,) = part.find_all("form", data_act=action)
    return form


def _command(engine: Engine, **request: object) -> str:
    return show(engine, "launch-command", request=json.dumps(request)).text


@pytest.mark.parametrize("task", ["digits", "stdlib-gpt", "images"])
def test_each_task_gets_a_form_with_a_field_for_every_key(engine: Engine, task: str) -> None:
    form = _form(show(engine, "launch-form", task=task))
    (described,) = [description for description in list_tasks() if description.name == task]
    assert {f"config.{field.name}" for field in described.fields} | {
        "name", "max_restarts", "nproc", "mirror",
    } == set(form.fields())  # fmt: skip
    assert form.payload == {"task": task}
    assert form.attributes["data-then"] == "/run?id={run}"
    labels = {label.find_all("span")[0].text for label in form.find_all("label")}
    assert {"Epochs", "Batch size", "Seed", "Name", "Automatic restarts"} <= labels


def test_the_first_task_is_chosen_until_the_address_names_another(engine: Engine) -> None:
    def chosen(**query: str) -> list[str]:
        return [one.text for one in show(engine, "launch-form", **query).find_all("button", aria_checked="true")]

    assert chosen() == chosen(task="digits") == chosen(task="<b>") == [list_tasks()[0].title]
    assert chosen(task="file") == ["Your own file"]


def test_the_command_below_the_form_launches_the_same(engine: Engine) -> None:
    assert _command(engine, task="digits", config={"epochs": "3"}, name="my run", max_restarts="2", nproc="auto") == (
        "relight run digits --set epochs=3 --name 'my run' --restarts 2 --nproc auto"
    )
    (code,) = show(engine, "launch-form").find_all("code", data_preview="launch-command")
    assert code.text == "relight run digits"


def test_each_card_has_a_box_that_says_who_is_on_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = (
        GpuCard(index=0, name="NVIDIA H200", memory_used_bytes=80 * 10**9, memory_total_bytes=150 * 10**9,
                processes_known=True),
        GpuCard(index=1, name="NVIDIA H200", error="The driver has lost this card."),
    )  # fmt: skip
    rows = (GpuProcessRow(0, 4121, 10**9, "python", "ada", None), GpuProcessRow(0, 4122, 10**9, None, None, None))
    report = MachineReport(0.0, None, GpuReport(cards, "580", "13.0", None), rows)
    monkeypatch.setattr("relight_app.parts.launch.read_cards", lambda: report)
    monkeypatch.setattr("relight_app.parts.launch.find_owners", lambda engine: {4121: "spiral (rank 0)"})
    form = _form(show(engine, "launch-form", task="digits"))
    assert {"gpus.0", "gpus.1"} <= set(form.fields())
    for words in ("GPU 0 NVIDIA H200", "70 GB of 150 GB free", "on it: spiral (rank 0), process 4122", "has lost this"):
        assert words in form.text
    assert _command(engine, task="digits", gpus={"0": "true", "1": "false", "2": "true"}) == (
        "relight run digits --gpus 0,2"
    )


@pytest.mark.parametrize("has_slurm", [True], indirect=True)
def test_with_slurm_the_form_offers_where_to_train(engine: Engine, has_slurm: bool) -> None:
    form = _form(show(engine, "launch-form", task="digits"))
    assert {name: form.fields()[name] for name in ("on", "nodes", "sbatch")} == {
        "on": "here", "nodes": "1", "sbatch": "",
    }  # fmt: skip
    (label,) = form.find_all("label", **{"data-only": "on=slurm", "data-key": "nodes"})
    assert "hidden" in label.attributes, "until Slurm is chosen"
    assert _command(engine, task="digits", on="slurm", nodes="2", nproc="4", sbatch="--partition=gpu --time=8:00") == (
        "relight run digits --nproc 4 --on slurm --nodes 2 --sbatch '--partition=gpu --time=8:00'"
    )


@pytest.mark.parametrize("has_slurm", [True], indirect=True)
def test_a_slurm_run_is_launched_again_on_slurm(engine: Engine, runs: Path, has_slurm: bool) -> None:
    layout = make_run(runs, SampleRun("x"))
    write_record(layout.slurm, SlurmJob(nodes=2, options=("--partition=gpu",), job=7))
    form = _form(show(engine, "launch-form", task="digits", **{"from": layout.run_id}))
    assert {name: form.fields()[name] for name in ("on", "nodes", "sbatch")} == {
        "on": "slurm", "nodes": "2", "sbatch": "--partition=gpu",
    }  # fmt: skip
    (box,) = form.find_all("input", name="nodes")
    assert box.attributes["data-default"] == "1", "so the browser sends the other value"


def test_a_run_can_be_launched_again_with_its_own_config(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x"))  # its batch_size is 128
    part = show(engine, "launch-form", task="digits", **{"from": layout.run_id})
    fields = _form(part).fields()
    assert (fields["config.batch_size"], fields["config.lr"]) == ("128", "0.002")
    (box,) = part.find_all("input", name="config.batch_size")
    assert box.attributes["data-default"] == "64", "so the browser sends the other value"
    assert "nothing-like-it" in show(engine, "launch-form", **{"from": "nothing-like-it"}).text


def test_a_file_that_does_not_import_gives_its_traceback_and_no_form(engine: Engine, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import relight\n\ndef f(:\n    pass\n\nclass T(relight.Task): ...\n")
    answer = ask(engine, "describe", file=f"{broken}:T")
    assert "broken.py" in problem(answer)
    assert "SyntaxError" in answer.body["traceback"]
    assert show(engine, "launch-form", task="file", file=f"{broken}:T").find_all("form", data_act="launch") == []


def test_a_missing_file_is_one_sentence_on_the_page_and_in_the_answer(engine: Engine, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.py:T")
    part = show(engine, "launch-form", task="file", file=missing)
    assert "there is no file" in part.find_all(role="alert")[0].text
    assert "there is no file" in problem(ask(engine, "describe", file=missing))


def test_a_training_script_is_launched_with_arguments_instead_of_options(engine: Engine, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import relight\n\nrun = relight.init()\n")
    form = _form(show(engine, "launch-form", task="file", file=str(script)))
    assert set(form.fields()) == {"name", "max_restarts", "nproc", "mirror", "arguments"}
    assert _command(engine, task=str(script), arguments="--lr 3e-4 --name 'a b'") == (
        f"relight run {script} -- --lr 3e-4 --name 'a b'"
    )


@pytest.fixture
def marked(tmp_path: Path) -> tuple[str, Path]:
    """A task that writes a file when it is imported, and the path of that file."""
    mark, file = tmp_path / "imported", tmp_path / "mine.py"
    methods = "".join(f"    def {name}(self, *given): ...\n" for name in ("build_model", "build_data", "step"))
    file.write_text(f"import relight\n\nopen({str(mark)!r}, 'w')\n\nclass Mine(relight.Task):\n{methods}")
    return f"{file}:Mine", mark


def test_only_a_press_imports_a_persons_file(engine: Engine, marked: tuple[str, Path]) -> None:
    task, mark = marked
    for name in ("launch-form", "launch-drill"):
        show(engine, name, task="file", file=task)
    _command(engine, task=task)
    part = show(engine, "launch-form", task="file", file=task)
    assert part.find_all("form", data_act="launch") == []
    assert _form(part, "describe").fields() == {"file": task}
    assert not mark.exists()
    assert ask(engine, "describe", file=task).body["task"] == task
    assert mark.exists()
    mark.unlink()
    assert "config.epochs" in _form(show(engine, "launch-form", task="file", file=task)).fields()
    assert not mark.exists(), "known options need no second import"


@pytest.mark.thorough
def test_a_file_that_has_changed_takes_another_press(engine: Engine, marked: tuple[str, Path]) -> None:
    task, mark = marked
    ask(engine, "describe", file=task)
    mark.unlink()
    file = Path(task.partition(":")[0])
    file.write_text(file.read_text() + "\n# changed\n")
    assert show(engine, "launch-form", task="file", file=task).find_all("form", data_act="launch") == []
    assert not mark.exists()


def test_the_name_of_a_task_cannot_become_markup(engine: Engine) -> None:
    hostile = '"><script>alert(1)</script>'
    part = show(engine, "launch-form", task="file", file=hostile)
    assert part.find_all("script") == []
    assert _form(part, "describe").fields() == {"file": hostile}
    assert hostile in _command(engine, task=hostile)


def test_a_task_of_a_run_is_named_as_a_person_types_it(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x"))
    task = TaskReference(kind="file", name="mine.py:Mine", path="/home/ada/mine.py", class_name="Mine")
    write_record(layout.record, msgspec.structs.replace(read_record(layout.record, RunRecord), task=task))
    (again,) = [one for one in show(engine, "run-details", id=layout.run_id, tab="config").links() if "launch" in one]
    assert again == f"/launch?task=file&from={layout.run_id}&file=%2Fhome%2Fada%2Fmine.py%3AMine"
