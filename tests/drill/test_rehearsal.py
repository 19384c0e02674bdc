"""The drill, held with tasks that come back exactly and with tasks that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from relight.drill.proof import find_proof, judge_proof
from relight.drill.rehearsal import DrillFailed, DrillReport, hold_and_keep, plan_config
from relight.drill.trainings import make_temporary_runs, sweep_leftovers
from relight.runs.record_file import write_record
from relight.runs.records import ProcessIdentity, TaskReference

TASK = '''
import time
import torch
from torch import nn
from relight import Data, Task, TaskConfig

class Points(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        x = torch.linspace(-1, 1, 64)[index].reshape(1)
        return x, torch.sin(3 * x)

class Exact(Task):
    best_metric = "loss"

    def build_model(self):
        return nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.1), nn.Tanh(), nn.Linear(8, 1))

    def build_data(self):
        return Data(train=Points(), validation=Points())

    def step(self, model, batch):
        x, y = batch
        return {"loss": (model(x) - y).square().mean()}

class Forgetful(Exact):
    """Keeps a count where no checkpoint sees it."""
    calls = 0

    def step(self, model, batch):
        self.calls += 1
        return {"loss": super().step(model, batch)["loss"] * (1 + self.calls / 100)}

class Moody(Exact):
    """Depends on the clock."""

    def step(self, model, batch):
        return {"loss": super().step(model, batch)["loss"] * (1 + (time.time_ns() % 1000) / 1000)}

class Broken(Exact):
    """Fails in its third step."""
    calls = 0

    def step(self, model, batch):
        self.calls += 1
        if self.calls == 3:
            raise ValueError("no third step")
        return super().step(model, batch)
'''
CONFIG: dict[str, Any] = {"epochs": 1000, "batch_size": 4, "threads": 1}


def hold(folder: Path, name: str, **changes: Any) -> DrillReport:
    """The drill with one of the tasks above; 16 steps are an epoch."""
    file = folder / "tasks.py"
    file.write_text(TASK)
    reference = TaskReference(
        kind="file", name=f"tasks.py:{name}", path=str(file), class_name=name, working_folder=str(folder)
    )
    runs = folder / "runs"
    config = CONFIG | changes
    try:
        report = hold_and_keep(
            runs, reference, config=config, best_metric="validation/loss", higher_is_better=False, timeout_s=200
        )
        proof = find_proof(runs, reference, config)
        assert proof is not None
        assert (proof.bit_exact, proof.first_difference) == (report.bit_exact, report.first_difference)
        assert proof.code_files == ("tasks.py",)
        assert judge_proof(proof, config=config, fingerprint=report.fingerprint) == ()
        return report
    finally:
        assert {path.name for path in runs.iterdir()} <= {".drills"}, "the drill left a folder behind"
        commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
        assert not [command for command in commands if str(runs) in command], "the drill left a process behind"


def test_the_plan_trains_little_saves_often_and_keeps_all() -> None:
    plan = plan_config({"max_steps": 0, "lr": 0.1, "checkpoint_every_s": 30.0}, steps=40)
    assert plan["max_steps"] == 40
    assert (plan["checkpoint_every_s"], plan["checkpoint_every_steps"]) == (0.0, 11)
    assert plan["keep_latest"] >= 40 // 11 + 1
    assert plan["lr"] == 0.1
    assert plan_config({"max_steps": 9}, steps=40)["checkpoint_every_steps"] == 3
    assert plan_config({}, steps=3)["checkpoint_every_steps"] == 1


def test_what_a_killed_drill_left_is_swept_up_but_not_that_of_a_living_one(tmp_path: Path) -> None:
    dead = tmp_path / ".drill-dead"
    (dead / "killed-abcd" / "attempts").mkdir(parents=True)
    write_record(dead / ".owner.json", ProcessIdentity(pid=1, start_ticks=-1.0, boot_id="of another day"))
    kept = tmp_path / ".drill-kept"
    kept.mkdir()
    with make_temporary_runs(tmp_path) as living:
        sweep_leftovers(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([kept, living])


@pytest.mark.processes
def test_an_exact_task_is_bit_exact_in_mid_epoch(tmp_path: Path) -> None:
    report = hold(tmp_path, "Exact", workers=1)
    assert report.first_difference is None
    assert report.bit_exact
    assert report.digest == report.uninterrupted_digest
    assert report.mid_epoch
    assert 0 < report.resumed_from_step < report.killed_at_step < report.steps
    assert report.checkpoints_compared >= 3
    assert report.metric_steps_compared >= report.steps
    assert report.folder is None


@pytest.mark.processes
def test_state_outside_of_the_checkpoint_is_found_and_explained(tmp_path: Path) -> None:
    report = hold(tmp_path, "Forgetful")
    assert not report.bit_exact
    assert report.digest != report.uninterrupted_digest
    first = report.first_difference
    assert first is not None
    assert first.part in ("tensor", "optimizer")
    assert "after the resume" in first.detail
    assert "very first step after the resume" in first.cause
    assert "'self.calls' in step(), in line 33 of tasks.py" in first.cause
    assert "register_buffer" in first.cure
    assert first.step > report.resumed_from_step


@pytest.mark.processes
def test_a_task_that_is_never_the_same_twice_is_not_blamed_on_the_resume(tmp_path: Path) -> None:
    report = hold(tmp_path, "Moody")
    assert not report.bit_exact
    assert report.first_difference is not None
    assert "not deterministic" in report.first_difference.cause
    assert "the clock" in report.first_difference.cause


@pytest.mark.processes
def test_a_task_that_crashes_by_itself_says_so_with_its_whole_traceback(tmp_path: Path) -> None:
    with pytest.raises(DrillFailed, match="no third step") as caught:
        hold(tmp_path, "Broken")
    assert caught.value.exit_code == 3
    assert caught.value.traceback is not None
    assert "in step" in caught.value.traceback
