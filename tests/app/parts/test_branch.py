"""The Branch page: the parent's values, the command that does the same, and no GET that imports a person's file."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from relight.checkpoints.store import CheckpointStore
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, write_record
from relight.runs.records import RunRecord, SlurmJob, TaskReference
from relight_app.engine import Engine
from tests.app.asking import ask
from tests.app.parts.shown import Element, show
from tests.app.sample_runs import SampleRun, make_run


@pytest.fixture
def parent(runs: Path) -> RunLayout:
    return make_run(runs, SampleRun("parent"))


def _use_task(layout: RunLayout, task: TaskReference) -> None:
    write_record(layout.record, msgspec.structs.replace(read_record(layout.record, RunRecord), task=task))


def _first_step(layout: RunLayout) -> int:
    return CheckpointStore(layout.checkpoints).list().checkpoints[0].step


def _open(engine: Engine, layout: RunLayout) -> Element:
    return show(engine, "branch-form", id=layout.run_id, step=str(_first_step(layout)))


def _form(part: Element, action: str = "branch") -> Element:
    (form,) = part.find_all("form", data_act=action)
    return form


def test_the_form_has_the_parents_values_and_sends_only_what_differs_from_them(
    engine: Engine, parent: RunLayout
) -> None:
    form = _form(_open(engine, parent))
    assert form.fields()["config.batch_size"] == "128", "the value of the parent"
    (box,) = form.find_all("input", name="config.batch_size")
    assert box.attributes["data-default"] == "128"
    assert form.payload == {"run": parent.run_id, "step": _first_step(parent)}
    assert form.attributes["data-then"] == "/run?id={run}"


def test_the_command_below_the_form_branches_the_same(engine: Engine, parent: RunLayout) -> None:
    step = _first_step(parent)

    def command(**request: object) -> str:
        return show(engine, "branch-command", request=json.dumps({"run": parent.run_id, "step": step} | request)).text

    (code,) = _open(engine, parent).find_all("code", data_preview="branch-command")
    assert code.text == command() == f"relight branch {parent.run_id} --from {step}"
    assert command(config={"epochs": "30"}, weights_only="true", name="finer") == (
        f"relight branch {parent.run_id} --from {step} --set epochs=30 --weights-only --name finer"
    )
    assert command(on="slurm", nodes="2", sbatch="--time=9 -p=gpu", nproc="4").endswith(
        f" --from {step} --nproc 4 --on slurm --nodes 2 --sbatch '--time=9 -p=gpu'"
    )
    assert command(arguments="--lr 1e-4 --name 'a b'").endswith(" -- --lr 1e-4 --name 'a b'")


def test_a_script_branches_with_its_arguments_as_a_field(engine: Engine, parent: RunLayout, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("import relight\n\nrun = relight.init()\n")
    _use_task(parent, TaskReference(kind="script", name="train.py", path=str(script), arguments=("--lr", "3e-4")))
    form = _form(_open(engine, parent))
    assert form.fields() == {"name": "", "weights_only": "false", "nproc": "", "arguments": "--lr 3e-4"}
    (box,) = form.find_all("input", name="arguments")
    assert box.attributes["data-default"] == "--lr 3e-4"
    assert "data-send-empty" in box.attributes, "a script can be branched without arguments, too"


@pytest.mark.parametrize("has_slurm", [True], indirect=True)
def test_a_branch_of_a_slurm_run_starts_with_the_parents_nodes_and_options(
    engine: Engine, parent: RunLayout, has_slurm: bool
) -> None:
    write_record(parent.slurm, SlurmJob(nodes=2, options=("--partition=gpu",), job=7))
    form = _form(_open(engine, parent))
    place = {name: form.fields()[name] for name in ("on", "nodes", "sbatch")}
    assert place == {"on": "slurm", "nodes": "2", "sbatch": "--partition=gpu"}
    boxes = {box.attributes["name"]: box for kind in ("input", "select") for box in form.find_all(kind)}
    assert {name: boxes[name].attributes["data-default"] for name in place} == place, (
        "so an untouched form changes none"
    )
    assert "data-send-empty" in boxes["sbatch"].attributes, "the options can be taken away"


def test_a_branch_of_a_slurm_run_trains_here_where_there_is_no_slurm(engine: Engine, parent: RunLayout) -> None:
    write_record(parent.slurm, SlurmJob(nodes=2, job=7))
    form = _form(_open(engine, parent))
    assert form.fields()["on"] == "here"
    assert "Slurm" not in form.text


def test_only_a_press_imports_the_parents_file(engine: Engine, parent: RunLayout, tmp_path: Path) -> None:
    mark, file = tmp_path / "imported", tmp_path / "mine.py"
    methods = "".join(f"    def {name}(self, *given): ...\n" for name in ("build_model", "build_data", "step"))
    file.write_text(f"import relight\n\nopen({str(mark)!r}, 'w')\n\nclass Mine(relight.Task):\n{methods}")
    _use_task(parent, TaskReference(kind="file", name="mine.py:Mine", path=str(file), class_name="Mine"))
    part = _open(engine, parent)
    assert part.find_all("form", data_act="branch") == []
    assert _form(part, "describe").fields() == {"file": f"{file}:Mine"}
    assert not mark.exists()
    assert ask(engine, "describe", file=f"{file}:Mine").status == 200
    mark.unlink()
    assert _form(_open(engine, parent)).fields()["config.batch_size"] == "128"
    assert not mark.exists()


def test_a_missing_step_or_run_leads_back_to_the_list(engine: Engine, parent: RunLayout) -> None:
    part = show(engine, "branch-form", id=parent.run_id, step="7")
    assert f"Run '{parent.run_id}' has no checkpoint at step 7. It has checkpoints at steps 400" in part.text
    assert part.links() == ["/"]
    for query in ({"id": "nowhere", "step": "1"}, {}, {"id": parent.run_id, "step": "4" * 5_000}):
        assert "Cannot branch from here" in show(engine, "branch-form", **query).text
    assert "Open a run, and choose “Branch from here”" in show(engine, "branch-form").text
