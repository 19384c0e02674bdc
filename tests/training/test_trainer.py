"""The training loop computes what a plain PyTorch loop computes, and logs what it measured."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from relight import Data, Task, TaskConfig
from relight.checkpoints.retention import BestRule, RetentionPolicy
from relight.checkpoints.store import CheckpointStore
from relight.checkpoints.writer_client import WriterClient
from relight.errors import TaskError
from relight.metrics.series import read_series
from relight.runs.layout import RunLayout
from relight.runs.progress import read_progress
from relight.runs.records import AttemptStart, Objective
from relight.training.best_metric import BestMetric
from relight.training.checkpoint_cutter import CheckpointCutter, CutPolicy
from relight.training.data.sampler import Sampler
from relight.training.session_parts import SessionParts
from relight.training.stopping import Stopping
from relight.training.trainer import Trainer
from relight.training.training_session import TrainingSession


class Line(Task):
    """Fits a line. It has no batch norm, so accumulated batches equal one large batch."""

    best_metric = "loss"
    validated = True

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def build_data(self) -> Data:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(44, 3, generator=generator)
        data = TensorDataset(x, x.sum(1, keepdim=True))
        return Data(train=data, validation=TensorDataset(x[:10], x[:10, :1]) if self.validated else None)

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        return {"loss": F.mse_loss(model(x), y), "size": torch.tensor(float(len(x)))}


LOWER_IS_BETTER = RetentionPolicy(best=(BestRule(higher_is_better=False),))


class Here:
    """One attempt of a run in this process."""

    def __init__(self, folder: Path, attempt: int = 1, **start: Any) -> None:
        self.layout = RunLayout(folder)
        self.layout.attempt(attempt).folder.mkdir(parents=True)
        reason = "resume" if attempt > 1 else "launch"
        self.writer = WriterClient(self.layout.checkpoints, policy=LOWER_IS_BETTER)
        self.session = TrainingSession(
            self.layout,
            AttemptStart(attempt=attempt, time_s=0.0, **{"reason": reason, **start}),
            SessionParts(
                CheckpointCutter(self.layout.attempt(attempt), policy=CutPolicy(0.0, 0), writer=self.writer),
                BestMetric(Objective("validation/loss", higher_is_better=False)),
                environment={},
            ),
            stopping=Stopping(self.layout, attempt),
        )
        self.trainer: Trainer | None = None

    def train(self, task: Task) -> nn.Module:
        try:
            self.trainer = Trainer(task, self.session, device=torch.device("cpu"))
            self.trainer.run()
        finally:
            self.session.close()
        self.writer._process.wait(30)
        return self.trainer._model

    def values(self, name: str) -> list[float]:
        return read_series(self.layout.metrics, name).values.tolist()

    def steps(self, name: str) -> list[int]:
        return read_series(self.layout.metrics, name).steps.tolist()


@pytest.fixture
def here(tmp_path: Path) -> Callable[..., Here]:
    return lambda name="run", **start: Here(tmp_path / name, **start)


def plain_loop(task: Task, *, steps: int, batch_size: int) -> tuple[nn.Module, list[float]]:
    """Train with the loop that most people would write."""
    torch.manual_seed(task.config.seed)
    data = task.build_data()
    torch.manual_seed(task.config.seed)
    model = task.build_model()
    optimizer = task.build_optimizer(model)
    schedule = task.build_scheduler(optimizer, steps_total=steps)
    sampler = Sampler(44, batch_size=batch_size, seed=task.config.seed)
    losses: list[float] = []
    for epoch in range(100):
        for key in sampler.keys(epoch=epoch):
            rows = torch.from_numpy(key.indices.astype(np.int64))
            loss = task.step(model, [tensor[rows] for tensor in data.train.tensors])["loss"]
            optimizer.zero_grad()
            loss.backward()
            if task.config.clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), task.config.clip_norm)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if len(losses) == steps:
                return model, losses
    raise AssertionError


@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_the_loop_computes_bit_for_bit_what_a_plain_loop_computes(here: Callable[..., Here], clip_norm: float) -> None:
    task = Line(TaskConfig(epochs=3, batch_size=8, clip_norm=clip_norm, warmup_steps=2))
    run = here()
    model = run.train(task)
    expected, losses = plain_loop(task, steps=18, batch_size=8)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert run.values("train/loss") == losses
    assert run.steps("train/loss") == list(range(1, 19))
    assert run.values("train/lr")[:2] == [0.0005, 0.001]
    assert len(run.values("train/grad_norm") if clip_norm else []) == (18 if clip_norm else 0)


def test_accumulated_batches_train_like_one_large_batch_also_at_the_end_of_an_epoch(here: Callable[..., Here]) -> None:
    run = here()
    ours = run.train(Line(TaskConfig(epochs=2, batch_size=4, accumulate=4, optimizer="sgd", lr=0.1)))
    theirs, losses = plain_loop(
        Line(TaskConfig(epochs=2, batch_size=16, optimizer="sgd", lr=0.1)), steps=6, batch_size=16
    )
    assert run.steps("train/loss") == [1, 2, 3, 4, 5, 6]  # 11 batches: 4, 4 and 3
    assert run.values("train/loss") == pytest.approx(losses, rel=1e-5)
    assert run.values("train/size") == [4.0] * 6
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_a_validation_weighs_every_sample_the_same_and_leaves_the_model_as_it_was(here: Callable[..., Here]) -> None:
    run = here()
    run.train(Line(TaskConfig(epochs=2, batch_size=8)))
    assert run.steps("validation/loss") == [6, 12]
    assert run.values("validation/size") == pytest.approx([(8 * 8 + 2 * 2) / 10] * 2)
    assert run.trainer is not None
    assert run.trainer._model.training


def test_a_validation_that_draws_random_numbers_changes_no_step(here: Callable[..., Here]) -> None:
    class Noisy(Line):
        def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
            values = super().step(model, batch)
            noise = random.random() + np.random.randn() + float(torch.rand(()))
            return {"loss": values["loss"] * (1 + noise)}

    with_validation, without = here("with"), here("without")
    with_validation.train(Noisy(TaskConfig(epochs=3, batch_size=8)))
    task = Noisy(TaskConfig(epochs=3, batch_size=8))
    task.validated = False
    without.train(task)
    assert with_validation.values("train/loss") == without.values("train/loss")


def test_max_steps_ends_inside_an_epoch_with_a_validation(here: Callable[..., Here]) -> None:
    run = here()
    run.train(Line(TaskConfig(epochs=100, batch_size=8, max_steps=8)))
    assert run.steps("train/loss")[-1] == 8
    assert run.steps("validation/loss") == [6, 8]
    progress = read_progress(run.layout.attempt(1).progress)
    assert progress is not None
    assert (progress.step, progress.steps_total, progress.phase) == (8, 8, "finished")
    assert (progress.epoch, progress.batch, progress.batches) == (1, 2, 6)


def test_without_validation_data_the_run_finishes_and_nothing_is_the_best(here: Callable[..., Here]) -> None:
    run = here()
    task = Line(TaskConfig(epochs=1, batch_size=8))
    task.validated = False
    run.train(task)
    last = CheckpointStore(run.layout.checkpoints).list().checkpoints[-1]
    assert (last.step, last.reason, last.score) == (6, "final", None)


def test_the_best_checkpoint_has_the_score_that_was_measured_on_it(here: Callable[..., Here]) -> None:
    run = here()
    run.train(Line(TaskConfig(epochs=6, batch_size=8, lr=0.05, schedule="constant")))
    losses = run.values("validation/loss")
    best = CheckpointStore(run.layout.checkpoints).find("best", objective=Objective(higher_is_better=False))
    assert best.score == min(losses)
    assert best.step == 6 * (losses.index(min(losses)) + 1)
    assert best.metrics["validation/loss"] == best.score
    assert best.epoch == losses.index(min(losses)) + 1


def test_a_metric_that_is_not_a_number_is_never_the_best(here: Callable[..., Here]) -> None:
    class Broken(Line):
        def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
            values = super().step(model, batch)
            return values if model.training else {"loss": values["loss"] * math.nan}

    run = here()
    run.train(Broken(TaskConfig(epochs=2, batch_size=8)))
    assert all(math.isnan(value) for value in run.values("validation/loss"))
    progress = read_progress(run.layout.attempt(1).progress)
    assert progress is not None
    assert progress.best_step == -1
    assert all(one.score is None for one in CheckpointStore(run.layout.checkpoints).list().checkpoints)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_a_task_measures_besides_its_loss_never_costs_a_step(here: Callable[..., Here], accumulate: int) -> None:
    class Odd(Line):
        def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
            odd: dict[Any, Any] = {
                "none": None, "text": "n/a", "many": torch.ones(len(batch[0])), "huge": 10**400, "imaginary": 1j,
                "meta": torch.ones((), device="meta"), 5: 1.0, "\ud800": torch.ones(()),
            }  # fmt: skip
            return super().step(model, batch) | odd

    run = here()
    run.train(Odd(TaskConfig(epochs=2, batch_size=8, accumulate=accumulate)))
    steps = 12 // accumulate
    for stream, count in (("train", steps), ("validation", 2)):
        for name in ("none", "text", "many", "huge", "imaginary", "meta"):
            assert [math.isnan(value) for value in run.values(f"{stream}/{name}")] == [True] * count
        assert run.values(f"{stream}/5") == run.values(f"{stream}/�") == [1.0] * count


def test_a_schedule_that_follows_the_validation_is_stepped_by_it(here: Callable[..., Here]) -> None:
    class Plateau(Line):
        def build_scheduler(self, optimizer: torch.optim.Optimizer, *, steps_total: int) -> Any:
            return ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=10.0, threshold_mode="abs")

    run = here()
    run.train(Plateau(TaskConfig(epochs=3, batch_size=8, lr=0.1)))
    rates = run.values("train/lr")
    assert rates == [0.1] * 6 + [0.1] * 6 + [0.05] * 6


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ({}, 'returned no "loss", only an empty dict'),
        ({"cost": torch.ones(())}, 'returned no "loss", only cost'),
        (torch.ones(()), "returned a Tensor: it must return a dict"),
        ({"loss": torch.ones(2)}, "is a tensor of shape \\[2\\]"),
        ({"loss": 1.0}, "is a float"),
    ],
)
def test_a_wrong_answer_of_step_is_one_sentence(here: Callable[..., Here], returned: Any, sentence: str) -> None:
    class Wrong(Line):
        def step(self, model: nn.Module, batch: Any) -> Any:
            return returned

    with pytest.raises(TaskError, match=sentence):
        here().train(Wrong(TaskConfig(epochs=1)))


@pytest.mark.parametrize(
    ("method", "returned", "sentence"),
    [
        ("build_data", None, r"build_data\(\) returned nothing \(None\): it must return relight\.Data\("),
        ("build_data", [], r"build_data\(\) returned a list: it must return relight\.Data\("),
        ("build_model", None, r"build_model\(\) returned nothing \(None\): it must return a torch\.nn\.Module\."),
    ],
)
def test_what_a_task_builds_of_another_kind_is_one_sentence(
    here: Callable[..., Here], method: str, returned: Any, sentence: str
) -> None:
    with pytest.raises(TaskError, match=sentence):
        here().train(type("Other", (Line,), {method: lambda self: returned})(TaskConfig(epochs=1)))


def test_a_branch_with_another_batch_size_trains_the_rest_of_its_epochs(here: Callable[..., Here]) -> None:
    parent = here()
    parent.train(Line(TaskConfig(epochs=4, batch_size=8, max_steps=9)))  # 6 steps, then 3 of the second epoch
    store = CheckpointStore(parent.layout.checkpoints)
    last = store.list().checkpoints[-1]
    child = Here(parent.layout.folder, attempt=2, from_sequence=last.sequence, from_step=9, reason="branch")
    child.train(Line(TaskConfig(epochs=4, batch_size=4, accumulate=2, lr=0.5, schedule="constant")))
    # 20 samples of the second epoch are left: 5 batches, 3 steps; then two epochs of 11 batches, 6 steps each.
    assert child.steps("train/loss")[-1] == 9 + 3 + 12
    assert set(child.values("train/lr")[9:]) == {0.5}


def test_a_branch_with_data_of_another_length_begins_its_epoch_anew(here: Callable[..., Here]) -> None:
    class Longer(Line):
        def build_data(self) -> Data:
            x = torch.ones(60, 3)
            return Data(train=TensorDataset(x, x[:, :1]))

    parent = here()
    parent.train(Line(TaskConfig(epochs=4, batch_size=8, max_steps=9)))  # 6 steps, then 3 of the second epoch
    last = CheckpointStore(parent.layout.checkpoints).list().checkpoints[-1]
    child = Here(parent.layout.folder, attempt=2, from_sequence=last.sequence, from_step=9, reason="branch")
    child.train(Longer(TaskConfig(epochs=3, batch_size=10)))
    assert child.steps("train/loss")[-1] == 9 + 6 + 6, "the second epoch and the third, of the longer data"


def test_weights_only_starts_a_training_anew_from_the_weights(here: Callable[..., Here]) -> None:
    parent = here()
    trained = parent.train(Line(TaskConfig(epochs=1, batch_size=8)))
    last = CheckpointStore(parent.layout.checkpoints).list().checkpoints[-1]
    child = Here(parent.layout.folder, attempt=2, from_sequence=last.sequence, reason="branch", weights_only=True)
    begun: list[Tensor] = []

    class Watching(Line):
        def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
            begun.append(next(model.parameters()).detach().clone())
            return super().step(model, batch)

    child.train(Watching(TaskConfig(epochs=2, batch_size=8)))
    assert torch.equal(begun[0], next(trained.parameters()))
    assert child.steps("train/loss")[-1] == 12


def test_weights_draw_the_training_samples(here: Callable[..., Here]) -> None:
    class Weighted(Line):
        def build_data(self) -> Data:
            return replace(super().build_data(), weights=[1.0] + [0.0] * 43)

    class First(Line):
        def build_data(self) -> Data:
            data = super().build_data()
            return replace(data, train=Subset(data.train, [0] * 44))

    weighted, first = here("weighted"), here("first")
    weighted.train(Weighted(TaskConfig(epochs=1, batch_size=8)))
    first.train(First(TaskConfig(epochs=1, batch_size=8)))
    assert weighted.values("train/loss") == first.values("train/loss")


def test_a_task_may_hand_over_a_data_loader_of_its_own(here: Callable[..., Here]) -> None:
    class Handed(Line):
        def build_data(self) -> Data:
            data = super().build_data()
            return replace(data, train=DataLoader(data.train, 8))

    class Sorted(Line):
        def build_data(self) -> Data:
            data = super().build_data()
            return replace(data, train=DataLoader(data.train, sampler=range(44), batch_size=8))

    handed, sorted_ = here("handed"), here("sorted")
    handed.train(Handed(TaskConfig(epochs=2, batch_size=64)))
    sorted_.train(Sorted(TaskConfig(epochs=2, batch_size=64)))
    assert handed.values("train/loss") == sorted_.values("train/loss")
    assert handed.steps("train/loss") == list(range(1, 13))


def test_an_iterable_data_set_has_no_place_in_a_task(here: Callable[..., Here]) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            pass

    class Streaming(Line):
        def build_data(self) -> Data:
            return Data(train=DataLoader(Stream(), 8))

    with pytest.raises(TaskError, match="Stream is an iterable data set, and the steps of a task"):
        here().train(Streaming(TaskConfig(epochs=2)))
