"""The training of one cell, as a process of its own runs it: a small loop around a session, and where it dies."""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from exactness.cells import BATCHES, Cell, Kill
from relight.checkpoints.writer_client import WriterClient
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock
from relight.runs.records import AttemptStart, Objective
from relight.training.best_metric import BestMetric
from relight.training.checkpoint_cutter import CheckpointCutter, CutPolicy
from relight.training.data.adopted_loader import adopt_loader
from relight.training.data.loader import Loader, ValidationLoader
from relight.training.progress_meter import Totals
from relight.training.session_parts import SessionParts
from relight.training.state.rng import seed_everything
from relight.training.stopping import Stopping
from relight.training.task_attempt import close_in_children
from relight.training.training_session import TrainingSession

EPOCHS = 2
BATCH_SIZE = 4
SEED = 11
DURABLE_S = 120.0


class Augmented(Dataset[Any]):
    """Draws from the generators of Python, NumPy and torch, as people's augmentation does."""

    def __init__(self, points: Tensor, labels: Tensor) -> None:
        self.points, self.labels = points, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = 0.1 * random.gauss(0, 1) + 0.1 * float(np.random.randn()) + 0.1 * torch.randn(())
        return self.points[index] + noise, self.labels[index]


class Net(nn.Module):
    """Three layers, with the property that the cell is about."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.second = nn.Linear(6, 6)
        self.third = nn.Linear(6, 6)
        self.last = nn.Linear(6, 3)
        self.norm: nn.Module = nn.BatchNorm1d(6) if kind in ("batch norm", "ema", "frozen") else nn.Identity()
        self.drop: nn.Module = nn.Dropout(0.3) if kind in ("dropout", "accumulate 4") else nn.Identity()
        if kind == "spectral norm":
            self.second = nn.utils.parametrizations.spectral_norm(self.second)
        if kind == "tied":
            self.third.weight = self.second.weight
        if kind == "frozen":
            self.first.requires_grad_(False)
            self.norm.eval()
            self.norm.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(F.relu(self.norm(self.first(x))))
        hidden = self.third(torch.tanh(self.second(hidden)))
        noise = 0.001 * random.random() + 0.001 * float(np.random.rand())  # a model may draw from these as well
        return self.last(hidden) + noise


def train(layout: RunLayout, start: AttemptStart, cell: Cell, kill: Kill | None) -> None:
    """Train to the end, or to where the process kills itself. Holds the run's lock, and so does the writer."""
    lock = RunLock.acquire(layout, timeout_s=60)
    close_in_children((lock.fileno(),))
    attempt = layout.attempt(start.attempt)
    writer = WriterClient(layout.checkpoints, inherit_fds=(lock.fileno(),))
    cutter = CheckpointCutter(attempt, policy=CutPolicy(every_s=0, every_steps=1), writer=writer)
    best = BestMetric(Objective("validation/loss", higher_is_better=False))
    parts = SessionParts(cutter, best, environment={})
    session = TrainingSession(layout, start, parts, stopping=Stopping(layout, start.attempt))
    _Loop(session, cutter, cell, kill).run()
    session.close()


class _Loop:
    """The loop that a person would write around a session."""

    def __init__(self, session: TrainingSession, cutter: CheckpointCutter, cell: Cell, kill: Kill | None) -> None:
        self._session, self._cutter, self._cell, self._kill = session, cutter, cell, kill
        seed_everything(SEED)
        points = torch.randn(BATCH_SIZE * BATCHES - 2, 3)
        labels = (points[:, 0] > 0).long() + (points[:, 1] > 0).long()
        self._loader = _make_loader(Augmented(points, labels), cell.workers)
        self._validation = ValidationLoader(TensorDataset(points[:16], labels[:16]), batch_size=8, seed=SEED)
        self._model = Net(cell.model)
        self._steps_total = EPOCHS * -(-BATCHES // cell.accumulate)
        self._optimizers = _make_optimizers(cell.optimizer, self._model)
        self._schedule = _make_schedule(cell.schedule, self._optimizers[0], steps_total=self._steps_total)
        self._average = (
            AveragedModel(self._model, multi_avg_fn=get_ema_multi_avg_fn(0.9)) if cell.model == "ema" else None
        )
        session.track("model", self._model)
        for number, optimizer in enumerate(self._optimizers):
            session.track(f"optimizer{number}", optimizer)
        session.track("schedule", self._schedule)
        if self._average is not None:
            session.track("average", self._average)
        session.track("loader", self._loader)

    def run(self) -> None:
        session = self._session
        session.begin(Totals(self._steps_total, EPOCHS, BATCHES))
        while True:
            if session.steps_done < self._steps_total:
                self._train_epoch()
            if session.evaluated_step != session.steps_done:
                self._validate()
            if session.steps_done >= self._steps_total:
                break
        session.finish()

    def _train_epoch(self) -> None:
        session, loader = self._session, self._loader
        group: list[Any] = []
        for batch in loader:
            group.append(batch)
            self._die_if_due(validating=False)
            if len(group) < self._cell.accumulate and loader.remaining:
                continue
            loss = self._update(group)
            group = []
            session.step({"loss": loss})
            self._wait_until_durable()
            if session.steps_done >= self._steps_total:
                return

    def _update(self, group: list[Any]) -> Tensor:
        self._session.begin_update()

        def gather() -> Tensor:
            total = torch.zeros(())
            self._optimizers[0].zero_grad()
            for x, y in group:
                loss = F.cross_entropy(self._model(x), y) / len(group)
                loss.backward()
                total += loss.detach()
            return total

        if isinstance(self._optimizers[0], torch.optim.LBFGS):
            loss = torch.as_tensor(self._optimizers[0].step(gather)).detach()
        else:
            loss = gather()
            for optimizer in self._optimizers:
                optimizer.step()
        if not isinstance(self._schedule, lr_scheduler.ReduceLROnPlateau):
            self._schedule.step()
        if self._average is not None:
            self._average.update_parameters(self._model)
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        return loss

    def _validate(self) -> None:
        model = self._model if self._average is None else self._average
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        losses = []
        with self._session.evaluating(), torch.no_grad():
            for number, ((x, y), _) in enumerate(self._validation):
                losses.append(float(F.cross_entropy(model(x), y)))
                if number == 1:
                    self._die_if_due(validating=True)
        for module, training in modes:
            module.training = training
        if isinstance(self._schedule, lr_scheduler.ReduceLROnPlateau):
            self._session.begin_update()
            self._schedule.step(sum(losses))
        self._session.evaluated({"loss": sum(losses)})

    def _wait_until_durable(self) -> None:
        """Let the writer catch up before the step that is to survive, so that its checkpoint is cut; and after it."""
        kill = self._kill
        if kill is not None and self._session.steps_done in (
            last := kill.step(accumulate=self._cell.accumulate),
            last - 1,
        ):
            assert self._cutter.drain(DURABLE_S)

    def _die_if_due(self, *, validating: bool) -> None:
        """`kill -9` this process, in the middle of a step."""
        kill, loader = self._kill, self._loader
        if kill is None or kill.validating != validating:
            return
        here = (loader.epoch - 1, kill.batch) if validating else (loader.epoch, loader.batch - 1)
        if here == (kill.epoch, kill.batch):
            os.kill(os.getpid(), signal.SIGKILL)


def _make_loader(dataset: Dataset[Any], workers: str) -> Loader:
    if workers == "2 persistent":
        theirs: DataLoader[Any] = DataLoader(
            dataset, BATCH_SIZE, shuffle=True, num_workers=2, persistent_workers=True, prefetch_factor=3
        )
        adopted = adopt_loader(theirs, seed=SEED, epochs=EPOCHS)
        assert isinstance(adopted, Loader)
        return adopted
    return Loader(dataset, batch_size=BATCH_SIZE, seed=SEED, epochs=EPOCHS, workers=int(workers))


def _make_optimizers(kind: str, model: nn.Module) -> list[torch.optim.Optimizer]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if kind == "sgd":
        return [torch.optim.SGD(trained, lr=0.05, momentum=0.9, nesterov=True)]
    if kind == "adamw":
        return [torch.optim.AdamW(trained, lr=torch.tensor(0.02), foreach=False)]  # the rate as a tensor
    if kind == "adamw fused":
        return [torch.optim.AdamW(trained, lr=0.02, fused=True)]
    if kind == "adamw foreach":
        return [torch.optim.AdamW(trained, lr=0.02, foreach=True, amsgrad=True)]
    if kind == "adafactor":
        return [torch.optim.Adafactor(trained, lr=0.02)]
    if kind == "lbfgs":
        return [torch.optim.LBFGS(trained, lr=0.1, max_iter=3, history_size=4)]
    muon = torch.optim.Muon([parameter for parameter in trained if parameter.ndim == 2], lr=0.02)
    return [muon, torch.optim.AdamW([parameter for parameter in trained if parameter.ndim != 2], lr=0.02)]


def _make_schedule(kind: str, optimizer: torch.optim.Optimizer, *, steps_total: int) -> Any:
    make = {
        "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.95**step),
        "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.95),
        "step": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
        "multi step": lambda o: lr_scheduler.MultiStepLR(o, [2, 8], 0.5),
        "constant": lambda o: lr_scheduler.ConstantLR(o, 0.5, total_iters=9),
        "linear": lambda o: lr_scheduler.LinearLR(o, 0.5, total_iters=9),
        "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.95),
        "sequential": lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.5, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 12)], [3]
        ),
        "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 16, 2.0),
        "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 16),
        "chained": lambda o: lr_scheduler.ChainedScheduler(
            [lr_scheduler.ConstantLR(o, 0.5, total_iters=4), lr_scheduler.ExponentialLR(o, 0.9)]
        ),
        "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.5),
        "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.005, 0.05, step_size_up=3, cycle_momentum=False),
        "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.05, total_steps=steps_total + 1, cycle_momentum=False),
        "warm restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
        "swa": lambda o: SWALR(o, 0.01, anneal_epochs=9),
    }
    return make[kind](optimizer)
