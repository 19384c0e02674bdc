"""The drill with tasks that resume exactly and with tasks that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from relight.drill.proof import DrillProof, find_proof, judge_proof
from relight.drill.rehearsal import run_drill
from relight.drill.trainings import DrillFailed
from relight.runs.records import Objective, PreparedTask, TaskReference

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


def drill(folder: Path, name: str, **changes: Any) -> DrillProof:
    """Run the drill with one of the tasks above; an epoch has 16 steps."""
    file = folder / "tasks.py"
    file.write_text(TASK)
    reference = TaskReference(
        kind="file", name=f"tasks.py:{name}", path=str(file), class_name=name, working_folder=str(folder)
    )
    runs = folder / "runs"
    config = CONFIG | changes
    task = PreparedTask(reference, config, Objective("validation/loss", higher_is_better=False))
    try:
        proof = run_drill(runs, task, timeout_s=200, tell=print)
        kept = find_proof(runs, reference, config)
        assert kept is not None
        assert (kept.bit_exact, kept.first_difference) == (proof.bit_exact, proof.first_difference)
        assert kept.code_files == ("tasks.py",)
        assert judge_proof(kept, config=config, fingerprint=proof.fingerprint) == ()
        return proof
    finally:
        assert {path.name for path in runs.iterdir()} <= {".drills"}, "the drill left a folder behind"
        commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
        assert not [command for command in commands if str(runs) in command], "the drill left a process behind"


@pytest.mark.processes
def test_an_exact_task_is_bit_exact_in_mid_epoch(tmp_path: Path) -> None:
    proof = drill(tmp_path, "Exact", workers=1)
    assert proof.first_difference is None
    assert proof.bit_exact
    assert proof.state_digest == proof.uninterrupted_digest
    assert proof.mid_epoch
    assert 0 < proof.resumed_from_step < proof.killed_at_step < proof.steps
    assert proof.checkpoints_compared >= 3
    assert proof.metric_steps_compared >= proof.steps
    assert proof.folder is None


@pytest.mark.thorough
@pytest.mark.processes
def test_state_outside_the_checkpoint_is_found_and_explained(tmp_path: Path) -> None:
    proof = drill(tmp_path, "Forgetful")
    assert not proof.bit_exact
    assert proof.state_digest != proof.uninterrupted_digest
    first = proof.first_difference
    assert first is not None
    assert first.part in ("tensor", "optimizer")
    assert "after the resume" in first.detail
    assert "very first step after the resume" in first.cause
    assert "'self.calls' in step(), on line 33 of tasks.py" in first.cause
    assert "register_buffer" in first.cure
    assert first.step > proof.resumed_from_step


@pytest.mark.thorough
@pytest.mark.processes
def test_a_task_that_is_never_the_same_twice_is_not_blamed_on_the_resume(tmp_path: Path) -> None:
    proof = drill(tmp_path, "Moody")
    assert not proof.bit_exact
    assert proof.first_difference is not None
    assert "not deterministic" in proof.first_difference.cause
    assert "the clock" in proof.first_difference.cause


@pytest.mark.processes
def test_a_crash_of_the_task_is_reported_with_its_whole_traceback(tmp_path: Path) -> None:
    with pytest.raises(DrillFailed, match="no third step") as caught:
        drill(tmp_path, "Broken")
    assert caught.value.exit_code == 3
    assert caught.value.traceback is not None
    assert "in step" in caught.value.traceback
