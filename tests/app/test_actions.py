"""Each action asks the engine for exactly what its request says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relight.checkpoints.store import CheckpointStore
from relight.errors import RelightError
from relight.runs.catalog import create_run
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, write_record
from relight.runs.records import PreparedTask, RunRecord, SlurmJob, TaskReference
from relight.supervision import job_submission
from relight.supervision.attempt_start import Launched
from relight_app import actions
from relight_app.actions import Drill, drill_subject
from relight_app.engine import Engine
from tests.app.asking import ask, problem
from tests.app.sample_runs import SampleRun, make_run


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path / "runs")


@pytest.fixture
def run(engine: Engine) -> RunLayout:
    return make_run(engine.folder, SampleRun("x"))


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text("import relight\n\nrun = relight.init()\n")
    return path


@dataclass
class Recorder:
    """Records what was asked of the engine, and starts no process."""

    asked: list[dict[str, Any]] = field(default_factory=list)

    def launch(self, folder: Path, prepared: PreparedTask, **asked: Any) -> Launched:
        self.asked.append({"prepared": prepared, **asked})
        created = create_run(folder, prepared, name=asked["name"], token=asked["token"])
        return Launched(created.layout, 1, created.created)

    def start(self, layout: RunLayout, **asked: Any) -> Launched:
        self.asked.append({"run": layout.run_id, **asked})
        return Launched(layout, 2, True)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    monkeypatch.setattr(actions, "launch_run", found.launch)
    monkeypatch.setattr(actions, "resume_run", found.start)
    monkeypatch.setattr(actions, "branch_run", found.start)
    return found


def test_a_launch_takes_texts_as_the_form_sends_them_and_typed_values_as_a_script_does(
    engine: Engine, recorder: Recorder
) -> None:
    typed = {"epochs": 3, "lr": 0.001, "device": "cpu"}
    for nproc, config in (("2", {"epochs": "3", "lr": "1e-3", "device": "cpu"}), (2, typed)):
        ask(
            engine, "launch", key=str(config), task="digits", config=config, name="my run", max_restarts="2",
            nproc=nproc,
        )  # fmt: skip
    for asked in recorder.asked:
        assert {key: asked["prepared"].config[key] for key in ("epochs", "lr", "device")} == {
            "epochs": 3, "lr": 0.001, "device": "cpu",
        }  # fmt: skip
        assert (asked["name"], asked["max_restarts"], asked["nproc"]) == ("my run", 2, 2)
    assert "use 1 to 64, or auto" in problem(ask(engine, "launch", key="two", task="digits", nproc="two"))


def test_the_key_of_a_launch_is_the_engines_token_so_that_a_lost_answer_starts_no_second_run(
    engine: Engine, recorder: Recorder
) -> None:
    first = ask(engine, "launch", key="press", task="digits")
    for path in (engine.folder / ".actions").iterdir():
        path.unlink()  # the server died before it could remember its answer
    again = ask(Engine(engine.folder), "launch", key="press", task="digits")
    assert [asked["token"] for asked in recorder.asked] == ["press", "press"]
    assert first.body["run"] == again.body["run"]


@pytest.mark.parametrize(
    ("task", "config", "said"),
    [
        ("digits", {"epochs": "0"}, "epochs=0 is out of bounds: it must be at least 1"),
        ("digits", {"epoch": "1"}, "epochs"),
        ("images", {"data": "/nowhere/at all"}, "does not exist"),
        ("digit", {}, "digits"),
        ("/nowhere/train.py:Mine", {}, "there is no folder /nowhere"),
    ],
)
def test_what_cannot_be_launched_is_refused_before_a_run_exists(
    engine: Engine, recorder: Recorder, task: str, config: dict[str, str], said: str
) -> None:
    answer = ask(engine, "launch", task=task, config=config)
    assert answer.status in (400, 409)
    assert said in problem(answer)
    assert recorder.asked == []
    assert engine.list_runs().runs == []


@pytest.mark.parametrize("arguments", ["--lr 3e-4 --name 'a b'", ["--lr", "3e-4", "--name", "a b"]])
def test_a_script_is_launched_with_its_arguments(
    engine: Engine, recorder: Recorder, script: Path, arguments: str | list[str]
) -> None:
    assert ask(engine, "launch", task=str(script), arguments=arguments).status == 200
    task = recorder.asked[0]["prepared"].reference
    assert (task.kind, task.arguments) == ("script", ("--lr", "3e-4", "--name", "a b"))


def test_arguments_with_an_open_quotation_mark_are_refused(engine: Engine, recorder: Recorder, script: Path) -> None:
    answer = ask(engine, "launch", task=str(script), arguments="--name 'a b")
    assert answer.status == 400
    assert "The arguments cannot be parsed: a quotation mark is not closed." in problem(answer).replace(
        "No closing quotation", "a quotation mark is not closed"
    )
    assert recorder.asked == []


def test_a_resume_names_the_attempt_that_the_person_saw_so_that_two_tabs_start_one(
    engine: Engine, run: RunLayout, recorder: Recorder
) -> None:
    ask(engine, "resume", key="press", run=run.run_id, attempt=3)
    ask(engine, "resume", key="from", run=run.run_id, step=400)
    assert recorder.asked == [
        {"run": run.run_id, "from_": None, "token": f"{run.run_id}-after-3", "trust": False},
        {"run": run.run_id, "from_": 400, "token": "from", "trust": False},
    ]


def test_a_branch_changes_what_is_given_and_keeps_the_rest(engine: Engine, run: RunLayout, recorder: Recorder) -> None:
    answer = ask(engine, "branch", key="a", run=run.run_id, step=400, config={"lr": "5e-4"}, name="finer")
    assert answer.body == {"run": run.run_id, "parent": run.run_id}
    ask(engine, "branch", key="b", run=run.run_id, step="400", weights_only="true", arguments="--lr 'a b'")
    ask(engine, "branch", key="c", run=run.run_id, step=400, arguments="")
    plain = {"run": run.run_id, "from_": 400, "weights_only": False, "arguments": None, "name": None, "trust": False}
    plain |= {"nproc": None, "slurm": None}
    assert recorder.asked == [
        plain | {"config_changes": {"lr": "5e-4"}, "name": "finer", "token": "a"},
        plain | {"config_changes": {}, "weights_only": True, "arguments": ("--lr", "a b"), "token": "b"},
        plain | {"config_changes": {}, "arguments": (), "token": "c"},
    ]


def test_a_launch_and_a_branch_go_to_slurm_as_the_command_line_says_it(
    engine: Engine, run: RunLayout, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_submission, "is_installed", lambda: True)
    write_record(run.slurm, SlurmJob(nodes=2, options=("--partition=gpu",), job=7))
    asked = {"on": "slurm", "nodes": "3", "sbatch": "--time=9 --partition=low", "nproc": "2"}
    ask(engine, "launch", task="digits", **asked)
    ask(engine, "branch", run=run.run_id, step=400)
    ask(engine, "branch", run=run.run_id, step=400, on="here")
    ask(engine, "branch", run=run.run_id, step=400, nodes="1", sbatch="", nproc="2")
    assert [(one["slurm"], one["nproc"]) for one in recorder.asked] == [
        (SlurmJob(nodes=3, options=("--time=9", "--partition=low")), 2),
        (SlurmJob(nodes=2, options=("--partition=gpu",)), None),
        (None, None),
        (SlurmJob(), 2),
    ]
    refused = ask(engine, "launch", task="digits", on="slurm", sbatch="--partition gpu")
    assert "--partition=gpu, not --partition gpu" in problem(refused)


def test_a_branch_that_does_not_fit_is_the_engines_sentence(
    engine: Engine, run: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(layout: RunLayout, **_: Any) -> Launched:
        raise RelightError("No branch with width=64: its model would not fit.")

    monkeypatch.setattr(actions, "branch_run", refuse)
    answer = ask(engine, "branch", run=run.run_id, step=400, config={"width": "64"})
    assert problem(answer) == "No branch with width=64: its model would not fit."


def test_code_from_elsewhere_runs_only_after_the_person_said_so(engine: Engine, tmp_path: Path) -> None:
    mark, file = tmp_path / "imported", tmp_path / "spiral.py"
    file.write_text(f"open({str(mark)!r}, 'w')")
    run = make_run(engine.folder, SampleRun("x", status="crashed", step=600))
    task = TaskReference(kind="file", name="spiral.py:Spiral", path=str(file), class_name="Spiral")
    write_record(run.record, msgspec.structs.replace(read_record(run.record, RunRecord), task=task, home=None))
    step = CheckpointStore(run.checkpoints).list().checkpoints[0].step
    for name, payload in (("resume", {}), ("resume", {"step": step}), ("branch", {"step": step}), ("drill", {})):
        answer = ask(engine, name, run=run.run_id, **payload)
        assert f"To train it means to run: the code in {file}." in problem(answer)
        assert answer.body["ask"] == "trust", name
    assert not mark.exists()


@pytest.mark.parametrize("which", ["best", "latest", 400])
def test_the_weights_of_any_checkpoint_are_exported(engine: Engine, run: RunLayout, which: str | int) -> None:
    answer = ask(engine, "export", run=run.run_id, which=which)
    path = run.exports / answer.body["file"]
    assert path.is_file()
    steps = {info.step for info in engine.list_checkpoints(run.run_id).checkpoints}
    assert answer.body["step"] in steps
    assert (answer.body["file"] == "best_model.safetensors") == (which == "best")
    assert len(answer.body["sha256"]) == 64


def test_a_pin_is_set_and_removed(engine: Engine, run: RunLayout) -> None:
    for on in (True, False):
        assert ask(engine, "pin", run=run.run_id, step=400, on=on).body["pinned"] is on
        labels = engine.list_checkpoints(run.run_id).checkpoints[0].labels
        assert ("pinned" in labels) is on


def test_a_drill_of_a_run_takes_the_task_as_it_was_launched(
    engine: Engine, run: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    drilled: list[PreparedTask] = []

    def drill(folder: Path, task: PreparedTask, **_: Any) -> None:
        drilled.append(task)
        raise RelightError("enough")

    monkeypatch.setattr(actions, "run_drill", drill)
    ask(engine, "drill", run=run.run_id)
    ask(engine, "drill", task="digits", config={"epochs": "2"})
    assert [(task.reference.name, task.config["batch_size"]) for task in drilled] == [("digits", 128), ("digits", 64)]
    assert drilled[1].config["epochs"] == 2


def test_drills_of_one_task_are_one_subject_unless_what_they_prove_differs() -> None:
    plain = drill_subject(Drill(task="digits"))
    assert plain == drill_subject(Drill(task="digits"))
    assert plain != drill_subject(Drill(task="digits", config={"workers": "2"}))
    assert plain == drill_subject(Drill(task="digits", config={"epochs": "2"})), "a drill has its own length"
    assert plain != drill_subject(Drill(task="digits", arguments="--fast"))
    assert plain != drill_subject(Drill(run="digits"))


def test_a_description_has_the_options_of_the_task(engine: Engine, script: Path) -> None:
    answer = ask(engine, "describe", file="digits")
    assert answer.body["task"] == "digits"
    assert "epochs" in [option["name"] for option in answer.body["options"]]
    assert not ask(engine, "describe", file=str(script)).body["options"]


def test_every_action_is_described_for_scripts() -> None:
    page = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text(encoding="utf-8")
    rows = "".join(line.split("|")[1] for line in page.splitlines() if line.startswith("| `"))
    assert {name for name in actions.ACTIONS if f"`{name}`" not in rows} == set()
