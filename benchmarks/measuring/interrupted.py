"""Trains a small network as a framework's guide shows: `python -m measuring.interrupted WAY FOLDER LIFE …`.

Each life of the training uses the same network on the same 320 samples for two epochs, saves every ten steps, and
resumes from what it finds in its folder. A LIFE is `NAME`, or `NAME!STEP` for a life that kills itself with SIGKILL in
the middle of that step, or either with `+augment`. NAME is its folder below FOLDER; lives with the same name follow
each other. A life writes the samples of each step to samples.jsonl, one line per step, and its last weights to
weights.npz.

Each life is its own process, forked from one that has imported everything and trained nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import random
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from relight import Data, Task, TaskConfig, option

SAMPLES, BATCH_SIZE, EPOCHS, SAVE_EVERY = 320, 8, 2, 10
STEPS_OF_EPOCH = SAMPLES // BATCH_SIZE
SEED, LEARNING_RATE = 0, 0.01
_DURABLE_S = 60.0


class Diary:
    """A record of the samples that each step got. It kills the process at the step where that is planned."""

    def __init__(self, folder: Path, die_at: int) -> None:
        self.path = folder / "samples.jsonl"
        self._folder = folder
        self._die_at = die_at
        self._calls = 0

    def note(self, indices: Tensor) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(indices.tolist()) + "\n")
        self._calls += 1
        if self._die_at and self._calls > 1 and (self._calls - 1) % SAVE_EVERY == 0:
            _wait_for_manifest(self._folder, self._calls - 1)
        if self._calls == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)


class Samples(Dataset[Any]):
    """Points of three classes. Augmentation moves each a little, with all three of the usual generators."""

    def __init__(self, *, augment: bool) -> None:
        generator = torch.Generator().manual_seed(1)
        self.points = torch.randn(SAMPLES, 8, generator=generator)
        self.labels = (self.points[:, 0] > 0).long() + (self.points[:, 1] > 0).long()
        self.augment = augment

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        point = self.points[index]
        if self.augment:
            point = point + 0.1 * random.gauss(0, 1) + 0.1 * float(np.random.randn()) + 0.1 * torch.randn(8)
        return {"x": point, "labels": self.labels[index], "index": torch.tensor(index)}


class Net(nn.Module):
    """Two layers with dropout, with the signature that the HF Trainer expects."""

    def __init__(self, diary: Diary) -> None:
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(8, 32), nn.Dropout(0.2), nn.Linear(32, 3)
        self._diary = (diary,)  # in a tuple, so that no checkpoint contains it

    def forward(self, x: Tensor, labels: Tensor, index: Tensor) -> dict[str, Tensor]:
        if self.training:
            self._diary[0].note(index)
        logits = self.last(self.drop(F.relu(self.first(x))))
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def train_recipe(folder: Path, diary: Diary, *, augment: bool) -> nn.Module:
    """Train, saving and loading as tutorials do: model, optimizer, epoch and step in one file."""
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)
    model = Net(diary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    loader = DataLoader(Samples(augment=augment), BATCH_SIZE, shuffle=True)
    path, epoch, step = folder / "checkpoint.pt", 0, 0
    if path.exists():
        saved = torch.load(path)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        epoch, step = saved["epoch"], saved["step"]
    for current in range(epoch, EPOCHS):
        for batch in loader:
            optimizer.zero_grad()
            model(**batch)["loss"].backward()
            optimizer.step()
            step += 1
            if step % SAVE_EVERY == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**state, "epoch": current, "step": step}, path)
    return model


def train_lightning(folder: Path, diary: Diary, *, augment: bool, stateful: bool = False) -> nn.Module:
    """Train with Lightning and its checkpoints; `stateful` uses the loader that has a state."""
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net(diary)

        def training_step(self, batch: Any, number: int) -> Tensor:
            loss: Tensor = self.net(**batch)["loss"]
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=LEARNING_RATE)

    lightning.seed_everything(SEED, workers=True)
    module = Module()
    loader_class: Any = DataLoader
    if stateful:
        from torchdata.stateful_dataloader import StatefulDataLoader

        loader_class = StatefulDataLoader
    loader = loader_class(Samples(augment=augment), BATCH_SIZE, shuffle=True)
    saved = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=EPOCHS, logger=False, enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(dirpath=folder, every_n_train_steps=SAVE_EVERY, save_top_k=-1)],
    )  # fmt: skip
    trainer.fit(module, loader, ckpt_path=str(saved[-1]) if saved else None, weights_only=False)
    return module.net


def train_huggingface(folder: Path, diary: Diary, *, augment: bool) -> nn.Module:
    """Train with the HF Trainer and `resume_from_checkpoint`."""
    from transformers import Trainer, TrainingArguments, set_seed

    set_seed(SEED)
    model = Net(diary)
    arguments = TrainingArguments(
        output_dir=str(folder / "hf"), num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE, lr_scheduler_type="constant", save_strategy="steps", save_steps=SAVE_EVERY,
        seed=SEED, use_cpu=True, report_to=[], disable_tqdm=True, remove_unused_columns=False, logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=Samples(augment=augment))
    trainer.train(resume_from_checkpoint=any((folder / "hf").glob("checkpoint-*")))
    return model


def train_accelerate(folder: Path, diary: Diary, *, augment: bool, how: str = "") -> nn.Module:
    """Train with Accelerate's `save_state` and `load_state`; `how` adds what its guide shows for mid-epoch resumes."""
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration, set_seed

    set_seed(SEED)
    accelerator = Accelerator(
        cpu=True,
        dataloader_config=DataLoaderConfiguration(
            use_stateful_dataloader=how == "stateful", use_seedable_sampler=how == "skip"
        ),
    )
    model = Net(diary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    loader = DataLoader(Samples(augment=augment), BATCH_SIZE, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    step = max((int(path.name) for path in folder.glob("[0-9]*")), default=0)
    if step:
        accelerator.load_state(str(folder / str(step)))
    first, skipped = divmod(step, STEPS_OF_EPOCH)
    for epoch in range(first, EPOCHS):
        active = loader
        if how == "skip" and epoch == first and skipped:
            active = accelerator.skip_first_batches(loader, skipped)
        if how == "skip" and hasattr(active, "set_epoch"):
            active.set_epoch(epoch)
        for batch in active:
            optimizer.zero_grad()
            accelerator.backward(model(**batch)["loss"])
            optimizer.step()
            step += 1
            if step % SAVE_EVERY == 0:
                accelerator.save_state(str(folder / str(step)))
    return model


class Interrupted(Task):
    """The same training, as a task for Relight."""

    class Config(TaskConfig):
        """The settings from the command line of this file."""

        folder: str = option("", "Folder for the diary.")
        augment: bool = option(False, "Move the samples at random.")
        die_at: int = option(0, "Step at which the process kills itself; 0 for never.", ge=0)

    def build_model(self) -> nn.Module:
        return Net(Diary(Path(self.config.folder), self.config.die_at))

    def build_data(self) -> Data:
        return Data(train=DataLoader(Samples(augment=self.config.augment), BATCH_SIZE, shuffle=True))

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"loss": model(**batch)["loss"]}


def train_relight(folder: Path, diary: Diary, *, augment: bool) -> nn.Module:
    """Train the task above, with the same calls as `python -m relight.training`."""
    from relight.checkpoints.recovery import find_newest_good
    from relight.checkpoints.store import CheckpointStore
    from relight.runs.catalog import create_run, list_layouts
    from relight.runs.lock import RunLock
    from relight.runs.record_file import read_record
    from relight.runs.records import AttemptStart, Objective, PreparedTask, RunRecord
    from relight.supervision.attempt_start import begin_attempt
    from relight.tasks.reference import resolve_task
    from relight.training.assembly import build_trainer
    from relight.training.stopping import Stopping

    layouts = list_layouts(folder / "runs")
    start = AttemptStart(attempt=1, time_s=time.time(), reason="launch")
    if layouts:
        layout = layouts[0]
        with RunLock.acquire(layout, timeout_s=_DURABLE_S):
            good, _ = find_newest_good(CheckpointStore(layout.checkpoints))
        assert good is not None
        start = AttemptStart(
            attempt=2, time_s=time.time(), reason="resume", from_sequence=good.sequence, from_step=good.step
        )
    else:
        config = {
            "folder": str(folder), "augment": augment, "die_at": diary._die_at, "epochs": EPOCHS, "seed": SEED,
            "batch_size": BATCH_SIZE, "threads": 1, "device": "cpu", "schedule": "constant", "clip_norm": 0.0,
            "checkpoint_every_s": 0.0, "checkpoint_every_steps": SAVE_EVERY,
        }  # fmt: skip
        reference = resolve_task(f"{__file__}:Interrupted")
        layout = create_run(folder / "runs", PreparedTask(reference, config, Objective("validation/loss"))).layout
    lock = RunLock.acquire(layout, timeout_s=_DURABLE_S)
    begin_attempt(layout, start)
    record = read_record(layout.record, RunRecord)
    if start.attempt > 1:
        record.config["die_at"] = 0
    trainer, session = build_trainer(
        layout, record, start, stopping=Stopping(layout, start.attempt), inherit_fds=(lock.fileno(),)
    )
    trainer.run()
    session.close()
    return trainer._model


WAYS: dict[str, Callable[..., nn.Module]] = {
    "recipe": train_recipe,
    "lightning": train_lightning,
    "lightning-stateful": lambda *args, **options: train_lightning(*args, **options, stateful=True),
    "huggingface": train_huggingface,
    "accelerate": train_accelerate,
    "accelerate-skip": lambda *args, **options: train_accelerate(*args, **options, how="skip"),
    "accelerate-stateful": lambda *args, **options: train_accelerate(*args, **options, how="stateful"),
    "relight": train_relight,
}


PACKAGES: dict[str, tuple[str, ...]] = {
    "recipe": (),
    "lightning": ("lightning",),
    "lightning-stateful": ("lightning", "torchdata.stateful_dataloader"),
    "huggingface": ("transformers.trainer",),
    "accelerate": ("accelerate",),
    "accelerate-skip": ("accelerate",),
    "accelerate-stateful": ("accelerate", "torchdata.stateful_dataloader"),
    "relight": ("relight.training.assembly",),
}


def main() -> None:
    """Import once, then live one life after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("way", choices=list(WAYS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("life", nargs="+")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for package in ("torch._dynamo", *PACKAGES[options.way]):
        importlib.import_module(package)
    for life in options.life:
        name, _, die_at = life.removesuffix("+augment").partition("!")
        pid = os.fork()
        if pid == 0:
            _live(options.way, options.folder / name, int(die_at or 0), augment=life.endswith("+augment"))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != (-signal.SIGKILL if die_at else 0):
            sys.exit(f"{options.way}: the life {life} ended with {code}")


def _live(way: str, folder: Path, die_at: int, *, augment: bool) -> None:
    code = 1
    try:
        folder.mkdir(exist_ok=True)
        os.chdir(folder)
        torch.set_num_threads(1)
        model = WAYS[way](folder, Diary(folder, die_at), augment=augment)
        np.savez(folder / "weights.npz", **{n: p.detach().numpy() for n, p in model.named_parameters()})
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait_for_manifest(folder: Path, step: int) -> None:
    """Wait until Relight's writer process has made that step durable. The other ways block until they have saved."""
    deadline = time.monotonic() + _DURABLE_S
    while (folder / "runs").exists() and not any(folder.glob(f"runs/*/checkpoints/manifests/*-s{step}-*.json")):
        if time.monotonic() > deadline:
            sys.exit(f"the checkpoint of step {step} did not become durable")
        time.sleep(0.01)


if __name__ == "__main__":
    main()
