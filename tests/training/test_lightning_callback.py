"""Lightning keeps its loops, and a killed and resumed training still ends with the bits of an uninterrupted one."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.checkpoints.store import CheckpointStore
from relight.metrics.series import read_series
from relight.runs.catalog import find_run
from relight.runs.lock import RunLock
from tests.training.conftest import Fit

pytest.importorskip("lightning", reason="Lightning is not installed")
pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

SCRIPT = """
import os, random, signal, sys

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import relight
from relight.training.lightning_callback import RelightCallback

RANKS = int(os.environ.get("WORLD_SIZE", 1))
DIE_IN_STEP, DIE_IN_VALIDATION = int(os.environ.get("STEP", 0)), int(os.environ.get("VALIDATION", -1))
if os.environ.get("RANK", "0") != os.environ.get("DYING", "0"):
    DIE_IN_STEP = DIE_IN_VALIDATION = -1


class Noisy(Dataset):
    def __len__(self):
        return int(sys.argv[2])

    def __getitem__(self, index):
        x = torch.full((4,), float(index % 5))
        return x + random.random() + np.random.rand() + torch.randn(4), index % 2


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 2))
        self.calls = 0

    def training_step(self, batch, number):
        self.calls += 1
        if self.calls == DIE_IN_STEP:
            os.kill(os.getpid(), signal.SIGKILL)
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, number):
        if self.trainer.current_epoch == DIE_IN_VALIDATION and not self.trainer.sanity_checking:
            os.kill(os.getpid(), signal.SIGKILL)
        self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 4), "interval": "step"}]


run = relight.init(seed=5, checkpoint_every_steps=1, higher_is_better=False)
callback = RelightCallback(run)
trainer = lightning.Trainer(
    max_epochs=3, accelerator="cpu", devices=RANKS, strategy="ddp" if RANKS > 1 else "auto", logger=False,
    enable_progress_bar=False, enable_model_summary=False, callbacks=[callback, EarlyStopping("val_loss", patience=9)],
)
loader = callback.loader(DataLoader(Noisy(), 4 // RANKS, shuffle=True, num_workers=int(sys.argv[1])))
trainer.fit(Module(), loader, DataLoader(Noisy(), 8))
"""


@pytest.mark.parametrize(
    ("death", "workers", "ranks"),
    [
        ({"STEP": "9"}, 2, 1),
        ({"STEP": "13"}, 0, 1),
        ({"VALIDATION": "1"}, 0, 1),
        ({"STEP": "9"}, 1, 2),
        ({"STEP": "13", "DYING": "1"}, 0, 2),
        ({"VALIDATION": "1", "DYING": "1"}, 0, 2),
    ],
    ids=[
        "in mid-epoch", "at an epoch's edge", "inside a validation", "rank 0 in mid-epoch",
        "rank 1 at an epoch's edge", "rank 1 inside a validation",
    ],
)  # fmt: skip
def test_killed_and_resumed_it_ends_with_the_state_of_an_uninterrupted_one(
    fit: Fit, tmp_path: Path, death: dict[str, str], workers: int, ranks: int
) -> None:
    samples = "22" if ranks == 1 else "24"  # a batch norm needs two samples in the last batch of each rank

    def read_digest(name: str) -> str:
        layout = find_run(tmp_path / "runs", name)
        with RunLock.acquire(layout, timeout_s=60):
            store = CheckpointStore(layout.checkpoints)
            last = store.list().checkpoints[-1]
            assert (last.step, last.reason) == (18, "final")
            return store.digest(last)

    told = fit("run", "fit.py", "--nproc", str(ranks), "--name", "twin", "--", "0", samples)
    assert "finished at step 18 of 18" in told, told
    told = fit("run", "fit.py", "--nproc", str(ranks), "--name", "killed", "--", str(workers), samples, **death)
    assert "SIGKILL" in told, told
    told = fit("resume", "killed")
    assert "finished at step 18 of 18" in told, told
    assert read_digest("killed") == read_digest("twin")


def test_another_number_of_ranks_goes_on_in_the_middle_of_the_epoch(fit: Fit, tmp_path: Path) -> None:
    told = fit("run", "fit.py", "--nproc", "2", "--name", "fewer", "--", "0", "24", STEP="9", DYING="1")
    assert "SIGKILL" in told, told
    told = fit("resume", "fewer", "--nproc", "1")
    assert "the number of ranks was 2 and is 1" in told, told
    assert "finished at step 18 of 18" in told, told
    steps = read_series(find_run(tmp_path / "runs", "fewer").metrics, "train/loss").steps.tolist()
    assert steps == list(range(1, 19))


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_drill_finds_it_bit_exact(fit: Fit, ranks: int) -> None:
    told = fit("drill", "fit.py", "--nproc", str(ranks), "--", "0", "24")
    assert "bit-exact: fit.py" in told, told
