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
from tests.patience import stretch

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
SCRIPT = """
import torch
from torch import nn
import relight

run = relight.init()
torch.manual_seed(1)
x = torch.randn(64, 4)
target = x.sum(1, keepdim=True)
loader = run.loader(torch.utils.data.TensorDataset(x, target), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
average = torch.optim.swa_utils.AveragedModel(model)
optimizer = torch.optim.AdamW(model.parameters())
run.track(model=model, average=average, optimizer=optimizer)
scale = 1.0
for epoch in run.epochs(4):
    for number, (inputs, wanted) in enumerate(loader):
        loss = nn.functional.mse_loss(model(inputs), wanted) * scale
        loss.backward()
        if number % 2:
            optimizer.step()
            optimizer.zero_grad()
            if number % 3 == 0:
                average.update_parameters(model)
        run.step(loss=loss)
    run.evaluated(error=nn.functional.mse_loss(average(x), target).item())
"""
RANKED_SCRIPT = """
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
import relight

run = relight.init(seed=1)
dist.init_process_group("gloo")
x = torch.randn(64, 4, generator=torch.Generator().manual_seed(2))
data = TensorDataset(x, x.sum(1, keepdim=True))
loader = run.loader(DataLoader(data, batch_size=4, sampler=DistributedSampler(data)))
model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1)))
optimizer = torch.optim.AdamW(model.parameters())
run.track(model=model, optimizer=optimizer)
scale = 1.0
for epoch in run.epochs(4):
    for inputs, wanted in loader:
        loss = nn.functional.mse_loss(model(inputs), wanted) * scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.step(loss=loss)
    run.evaluated(error=loss.item())
"""
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
    return rehearse(runs, task)


def drill_script(folder: Path, text: str, *, nproc: int = 1) -> DrillProof:
    """Run the drill with a script that trains for a tenth of a second."""
    file = folder / "train.py"
    file.write_text(text)
    reference = TaskReference(kind="script", name="train.py", path=str(file), working_folder=str(folder))
    return rehearse(folder / "runs", PreparedTask(reference), nproc=nproc)


def rehearse(runs: Path, task: PreparedTask, *, nproc: int = 1) -> DrillProof:
    """Run the drill, and check that it keeps its result and leaves nothing else behind."""
    try:
        proof = run_drill(runs, task, nproc=nproc, timeout_s=stretch(300), tell=print)
        kept = find_proof(runs, task.reference, task.config, nproc=nproc)
        assert kept is not None
        assert (kept.bit_exact, kept.first_difference) == (proof.bit_exact, proof.first_difference)
        assert kept.code_files == (Path(task.reference.path or "").name,)
        assert judge_proof(kept, config=task.config, fingerprint=proof.fingerprint) == ()
        return proof
    finally:
        assert {path.name for path in runs.iterdir()} <= {".drills"}, "the drill left a folder behind"
        commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
        assert not [command for command in commands if str(runs) in command], "the drill left a process behind"


@pytest.mark.processes
def test_a_script_that_is_over_at_once_is_killed_at_every_kind_of_place(tmp_path: Path) -> None:
    proof = drill_script(tmp_path, SCRIPT)
    assert proof.first_difference is None
    assert proof.bit_exact
    assert not proof.cut_off, "it ended as it would"
    assert proof.steps == 32
    assert proof.mid_epoch
    on_update, between, validation = proof.kills
    assert (on_update.from_step, on_update.step) == (2, 3)
    assert (between.from_step, between.step) == (7, 8), "in the same epoch, with gradients of half an update"
    assert validation.in_validation
    assert (validation.from_step, validation.step) == (8, 16), "from the end of an epoch"
    assert proof.checkpoints_compared >= 6
    assert proof.metric_steps_compared == 32


@pytest.mark.thorough
@pytest.mark.processes
def test_a_script_that_forgets_a_variable_of_its_loop_is_told_which(tmp_path: Path) -> None:
    proof = drill_script(tmp_path, SCRIPT.replace("        run.step(", "        scale *= 1.01\n        run.step("))
    first = proof.first_difference
    assert first is not None
    assert first.part in ("tensor", "optimizer")
    assert "'scale', which the loop changes on line 25 of train.py" in first.cause
    assert "very first step after the resume (step 3)" in first.cause
    assert "run.track(name=…)" in first.cure


@pytest.mark.thorough
@pytest.mark.processes
def test_the_first_and_the_last_of_two_ranks_die_in_turn(tmp_path: Path) -> None:
    proof = drill_script(tmp_path, RANKED_SCRIPT, nproc=2)
    assert proof.first_difference is None
    assert proof.bit_exact
    assert proof.world_size == 2
    assert proof.fingerprint["world_size"] == 2
    assert [(kill.rank, kill.from_step, kill.step, kill.in_validation) for kill in proof.kills] == [
        (1, 2, 3, False), (0, 7, 8, False), (1, 8, 16, True),
    ]  # fmt: skip
    assert proof.metric_steps_compared == 32


@pytest.mark.thorough
@pytest.mark.processes
def test_what_only_rank_1_forgets_is_found(tmp_path: Path) -> None:
    forgetful = "        scale += 0.01 * dist.get_rank()\n        run.step("
    proof = drill_script(tmp_path, RANKED_SCRIPT.replace("        run.step(", forgetful), nproc=2)
    first = proof.first_difference
    assert first is not None
    assert first.part in ("tensor", "optimizer")
    assert "'scale', which the loop changes" in first.cause


@pytest.mark.thorough
@pytest.mark.processes
def test_weights_that_only_the_validation_uses_are_missed_there(tmp_path: Path) -> None:
    proof = drill_script(tmp_path, SCRIPT.replace("average=average, ", ""))
    assert proof.first_difference is not None
    assert proof.first_difference.part == "metric"
    assert "averaged weights" in proof.first_difference.cause


@pytest.mark.thorough
@pytest.mark.processes
def test_a_script_without_epochs_and_of_three_steps_is_killed_twice_at_the_last(tmp_path: Path) -> None:
    steps = SCRIPT[SCRIPT.index("for epoch") :]
    text = SCRIPT.replace(steps, "for step in run.steps(3):\n    optimizer.step()\n    run.step()\n")
    proof = drill_script(tmp_path, text)
    assert proof.bit_exact
    assert [(kill.from_step, kill.step) for kill in proof.kills][:2] == [(2, 3), (2, 3)]


@pytest.mark.thorough
@pytest.mark.processes
def test_a_script_of_one_step_cannot_be_drilled(tmp_path: Path) -> None:
    text = SCRIPT[: SCRIPT.index("for epoch")] + "for step in run.steps(1):\n    run.step()\n"
    with pytest.raises(DrillFailed, match="ends after 1 step, before it can be killed"):
        drill_script(tmp_path, text)


@pytest.mark.thorough
@pytest.mark.processes
def test_an_exact_task_is_bit_exact_at_every_place_and_a_long_one_is_ended(tmp_path: Path) -> None:
    proof = drill(tmp_path, "Exact", workers=1)
    assert proof.first_difference is None
    assert proof.bit_exact
    assert proof.state_digest == proof.uninterrupted_digest
    assert proof.mid_epoch
    assert proof.cut_off
    assert proof.steps == 100
    assert [(kill.from_step, kill.step, kill.in_validation) for kill in proof.kills] == [
        (2, 3, False), (7, 8, False), (16, 16, True),
    ]  # fmt: skip
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


@pytest.mark.thorough
@pytest.mark.processes
def test_a_crash_of_the_task_is_reported_with_its_whole_traceback(tmp_path: Path) -> None:
    with pytest.raises(DrillFailed, match="no third step") as caught:
        drill(tmp_path, "Broken")
    assert caught.value.exit_code == 3
    assert caught.value.traceback is not None
    assert "in step" in caught.value.traceback
