"""The Trainer keeps its loop, and a killed and resumed training still ends with the bits of an uninterrupted one."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.checkpoints.store import CheckpointStore
from relight.metrics.series import read_series
from relight.runs.catalog import find_run
from relight.runs.lock import RunLock
from tests.training.conftest import Fit

pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

SCRIPT = """
import os, random, signal, sys, time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

import relight
from relight.training.transformers_callback import RelightCallback

RANKS = int(os.environ.get("WORLD_SIZE", 1))
DIE_IN_STEP, DIE_IN_VALIDATION = int(os.environ.get("STEP", 0)), int(os.environ.get("VALIDATION", 0))
if os.environ.get("RANK", "0") != os.environ.get("DYING", "0"):
    DIE_IN_STEP = DIE_IN_VALIDATION = -1


class Noisy(Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        x = torch.full((4,), float(index % 5))
        return {"x": x + random.random() + np.random.rand() + torch.randn(4), "labels": index % 2}


class Clean(Noisy):
    def __getitem__(self, index):
        return {"x": torch.full((4,), float(index % 5)), "labels": index % 2}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 2))
        self.calls = self.looks = 0

    def forward(self, x, labels):
        if self.training:
            self.calls += 1
            time.sleep(0.02)  # there is time for a checkpoint in mid-epoch
            if self.calls == DIE_IN_STEP:
                os.kill(os.getpid(), signal.SIGKILL)
        else:
            self.looks += 1
            if self.looks == DIE_IN_VALIDATION:
                os.kill(os.getpid(), signal.SIGKILL)
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


run = relight.init(seed=5, checkpoint_every_steps=1, higher_is_better=False)
workers, accumulate = int(sys.argv[1]), int(sys.argv[2])
arguments = TrainingArguments(
    "trainer", num_train_epochs=3, per_device_train_batch_size=4 // RANKS, per_device_eval_batch_size=8 // RANKS,
    use_cpu=True, dataloader_num_workers=workers, gradient_accumulation_steps=accumulate, learning_rate=0.01,
    logging_steps=1, eval_strategy="epoch", save_strategy="no", report_to=[], disable_tqdm=True,
    metric_for_best_model="loss", greater_is_better=False, lr_scheduler_type="reduce_lr_on_plateau",
    lr_scheduler_kwargs={"patience": 0, "factor": 0.5},
)
trainer = Trainer(
    Model(), arguments, train_dataset=Noisy(), eval_dataset=Clean(),
    callbacks=[EarlyStoppingCallback(9 if "EARLY" not in os.environ else 1, 0.0 if "EARLY" not in os.environ else 9.0)],
)
RelightCallback(run).train(trainer)
"""


@pytest.mark.parametrize(
    ("death", "workers", "accumulate", "ranks"),
    [
        ({"STEP": "9"}, 2, 1, 1),
        ({"STEP": "13"}, 0, 1, 1),
        ({"VALIDATION": "5"}, 0, 1, 1),
        ({"STEP": "10"}, 0, 2, 1),
        ({"STEP": "9", "EARLY": "yes"}, 0, 1, 1),
        ({"STEP": "9"}, 1, 1, 2),
        ({"STEP": "13", "DYING": "1"}, 0, 1, 2),
        ({"VALIDATION": "5", "DYING": "1"}, 0, 1, 2),
        ({"STEP": "10"}, 0, 2, 2),
        ({"STEP": "9", "EARLY": "yes"}, 0, 1, 2),
    ],
    ids=[
        "in mid-epoch", "at an epoch's edge", "inside a validation", "while accumulating", "before it stops early",
        "rank 0 in mid-epoch", "rank 1 at an epoch's edge", "rank 1 inside a validation", "rank 0 while accumulating",
        "rank 0 before both stop early",
    ],
)  # fmt: skip
def test_killed_and_resumed_it_ends_with_the_state_of_an_uninterrupted_one(
    fit: Fit,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    death: dict[str, str],
    workers: int,
    accumulate: int,
    ranks: int,
) -> None:
    if "EARLY" in death:
        monkeypatch.setenv("EARLY", "yes")
    steps = 18 // accumulate
    last_step = 12 if "EARLY" in death else steps

    def read_end(name: str) -> tuple[str, *tuple[list[tuple[int, float]], ...]]:
        layout = find_run(tmp_path / "runs", name)
        with RunLock.acquire(layout, timeout_s=60):
            store = CheckpointStore(layout.checkpoints)
            last = store.list().checkpoints[-1]
            assert (last.step, last.reason) == (last_step, "final")
            assert "validation/eval_loss" in last.metrics
            series = [read_series(layout.metrics, name) for name in ("validation/eval_loss", "train/loss")]
            curves = [list(zip(one.steps.tolist(), one.values.tolist(), strict=True)) for one in series]
            return store.digest(last), *curves

    told = fit("run", "fit.py", "--nproc", str(ranks), "--name", "twin", "--", "0", str(accumulate))
    assert f"finished at step {last_step} of {steps}" in told, told
    told = fit("run", "fit.py", "--nproc", str(ranks), "--name", "killed", "--", str(workers), str(accumulate), **death)
    assert "SIGKILL" in told, told
    told = fit("resume", "killed")
    assert f"finished at step {last_step} of {steps}" in told, told
    twin, killed = read_end("twin"), read_end("killed")
    assert killed[0] == twin[0]
    assert killed[1:] == twin[1:]
    assert [step for step, _ in twin[1]] == list(range(steps // 3, last_step + 1, steps // 3))


def test_another_number_of_ranks_goes_on_in_the_middle_of_the_epoch(fit: Fit, tmp_path: Path) -> None:
    told = fit("run", "fit.py", "--nproc", "2", "--name", "fewer", "--", "0", "1", STEP="9", DYING="1")
    assert "SIGKILL" in told, told
    told = fit("resume", "fewer", "--nproc", "1")
    assert "the number of ranks was 2 and is 1" in told, told
    assert "finished at step 18 of 18" in told, told
    steps = read_series(find_run(tmp_path / "runs", "fewer").metrics, "train/loss").steps.tolist()
    assert steps == list(range(1, 19))


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_drill_finds_it_bit_exact(fit: Fit, ranks: int) -> None:
    told = fit("drill", "fit.py", "--nproc", str(ranks), "--", "0", "1")
    assert "bit-exact: fit.py" in told, told
