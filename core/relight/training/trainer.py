"""The training loop: epochs of steps, validation after each, over a task and a session."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from relight.errors import TaskError
from relight.metrics.metric_direction import word_guess
from relight.training.data.adopted_loader import adopt_loader
from relight.training.data.loader import Loader, ValidationLoader, move_batch
from relight.training.device import explain_choice
from relight.training.metric_numbers import is_one_number, to_number
from relight.training.precision import Precision
from relight.training.progress_meter import Totals
from relight.training.ranks.data_parallel import DataParallel
from relight.training.ranks.rank_state import move_generators_apart
from relight.training.state.rng import RngRecorder, restore_rng, seed_everything
from relight.training.task import Data, Task
from relight.training.training_session import TrainingSession
from relight.wording import count

Kind = TypeVar("Kind")
_log = logging.getLogger("relight")


class Trainer:
    """Trains one task on one device. The constructor builds everything; `run` trains to the end."""

    def __init__(
        self, task: Task, session: TrainingSession, *, device: torch.device, ranks: DataParallel | None = None
    ) -> None:
        """Build the training; with `ranks`, this rank's part of it."""
        config = task.config
        self._task = task
        self._ranks = ranks
        if ranks is not None and config.batch_size < ranks.deal.world_size:
            raise TaskError(
                f"batch_size={config.batch_size} is less than the {ranks.deal.world_size} ranks that share each batch."
            )
        self._session = session
        self._device = device
        self._precision = Precision(config.precision, device=device)
        self._accumulate: int = config.accumulate
        self._clip_norm: float = config.clip_norm
        _log.info("%s", explain_choice(config.device, device))
        seed_everything(config.seed)
        data = _check_kind(task.build_data(), Data, task=task, method="build_data")
        seed_everything(config.seed)  # so that the weights do not depend on what the data drew
        self._model: nn.Module = _check_kind(task.build_model(), nn.Module, task=task, method="build_model").to(device)
        self._loader, self._validation = self._build_loaders(data)
        self._steps_total = self._count_steps()
        self._optimizer = task.build_optimizer(self._model)
        self._replica = self._model if ranks is None else ranks.wrap(self._model)
        self._scheduler = task.build_scheduler(self._optimizer, steps_total=self._steps_total)
        # This PyTorch schedule follows the validation instead of the steps.
        self._plateau = self._scheduler if isinstance(self._scheduler, ReduceLROnPlateau) else None
        self._trained = _list_trained(self._model, self._optimizer)
        self._track()
        self._describe(data)
        if ranks is not None:
            move_generators_apart(ranks.rank)

    def run(self) -> None:
        """Train from the run's current step to its end. Raise `TrainingStopped` when a stop is requested."""
        session, config = self._session, self._task.config
        resumed = session.begin(Totals(self._steps_total, config.epochs, self._loader.batches))
        if resumed is not None:
            _log.info("Resumed from step %d of %d.", resumed.step, self._steps_total)
        while True:
            if session.steps_done < self._steps_total:
                self._train_epoch()
            if self._validation is not None and session.evaluated_step != session.steps_done:
                self._validate(self._validation)
            if session.steps_done >= self._steps_total:
                break
        session.finish()
        _log.info("Finished after %s.", count(session.steps_done, "step"))

    def close(self) -> None:
        """End the processes that load the validation data."""
        if self._validation is not None:
            self._validation.close()

    def _count_steps(self) -> int:
        """Count the steps of the whole run: the finished ones, and those that its config adds.

        A branch may have another batch size than its parent; for all others this is epochs times steps.
        """
        config, loader = self._task.config, self._loader
        done, position = self._session.read_position()
        same_data = position.get("length", loader.sampler.length) == loader.sampler.length
        epoch, consumed = position.get("epoch", 0), position.get("consumed", 0) if same_data else 0
        of_epoch = math.ceil(loader.batches / self._accumulate)
        batches_left = math.ceil(max(0, loader.sampler.samples - consumed) / loader.sampler.batch_size)
        of_rest = math.ceil(batches_left / self._accumulate)
        steps = done + (of_rest + (config.epochs - epoch - 1) * of_epoch if epoch < config.epochs else 0)
        return min(steps, config.max_steps) if config.max_steps else steps

    def _train_epoch(self) -> None:
        """Train the rest of the loader's epoch."""
        task, model, session, loader, ranks = self._task, self._replica, self._session, self._loader, self._ranks
        device, accumulate, steps_total = self._device, self._accumulate, self._steps_total
        autocast, scaler = self._precision.autocast, self._precision.scaler
        plain, stays = self._precision.name == "fp32", device.type == "cpu"
        group = micro = 0
        sums: dict[str, Any] = {}
        weight, begun = 1.0, loader.consumed
        for batch in loader:
            if micro == 0:  # the loader has counted this batch already
                group = min(accumulate, loader.remaining + 1)
            moved = batch if stays else move_batch(batch, device)
            if ranks is not None:
                ranks.average_next(gradients=micro + 1 == group)
                weight, begun = ranks.deal.weight(loader.consumed - begun), loader.consumed
            if plain:
                values = task.step(model, moved)
            else:
                with autocast():
                    values = task.step(model, moved)
            loss = _find_loss(values, task)
            if weight != 1.0:  # the ranks' parts of this batch are not equal
                loss = loss * weight
                values = {name: value * weight for name, value in values.items()}
            if group > 1:
                loss = loss / group
            (loss if scaler is None else scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
            micro += 1
            if group > 1:
                _add(sums, values)
                if micro < group:
                    continue
                values, sums = {name: total / group for name, total in sums.items()}, {}
            micro = 0
            session.step(self._update(values))
            if session.steps_done >= steps_total:
                return

    def _update(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Update the parameters, the schedule and the loss scale; return everything that the step measured."""
        optimizer, scaler = self._optimizer, self._precision.scaler
        measured = dict(values) if self._ranks is None else self._ranks.average(values)
        self._session.begin_update()
        if self._clip_norm:
            if scaler is not None:
                scaler.unscale_(optimizer)
            measured["grad_norm"] = nn.utils.clip_grad_norm_(self._trained, self._clip_norm)
        rate = optimizer.param_groups[0]["lr"]
        measured["lr"] = rate.clone() if isinstance(rate, Tensor) else rate
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        if self._plateau is None:
            self._scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        return measured

    def _validate(self, validation: ValidationLoader) -> None:
        """Average each metric over the validation samples. Flags and generators are unchanged afterwards."""
        task, model, session, device = self._task, self._model, self._session, self._device
        ranks, totals = self._ranks, dict[str, Any]()
        weight = 0
        if ranks is not None:
            ranks.share_buffers(model)
        with session.evaluating(), _untouched(model), torch.no_grad():
            for batch, samples in validation:
                with self._precision.autocast():
                    values = task.step(model, move_batch(batch, device))
                share = samples if ranks is None else ranks.deal.count(samples)
                _add_weighted(totals, values, share, on_device=device.type == "cuda")
                weight += samples
                session.check_stop()
            totals = totals if ranks is None else ranks.add(totals)
            means = {name: to_number(name, total) / weight for name, total in totals.items()}
        if self._plateau is not None:
            session.begin_update()
            self._plateau.step(_find_metric(means, task))
        session.evaluated(means)
        self._report(means)

    def _report(self, means: Mapping[str, float]) -> None:
        session, config = self._session, self._task.config
        epoch = self._loader.epoch + (self._loader.consumed > 0)
        values = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        best = "  best so far" if session.best.step == session.steps_done else ""
        _log.info(
            "Epoch %d/%d, step %d/%d: validation %s%s",
            epoch, config.epochs, session.steps_done, self._steps_total, values, best,
        )  # fmt: skip

    def _build_loaders(self, data: Data) -> tuple[Loader, ValidationLoader | None]:
        config = self._task.config
        pin_memory = self._device.type == "cuda"
        loader = self._build_train_loader(data)
        if data.validation is None:
            return loader, None
        return loader, ValidationLoader(
            data.validation, batch_size=config.batch_size, seed=config.seed, workers=config.workers,
            collate=data.collate, pin_memory=pin_memory, deal=None if self._ranks is None else self._ranks.deal,
        )  # fmt: skip

    def _build_train_loader(self, data: Data) -> Loader:
        config = self._task.config
        if isinstance(data.train, DataLoader):
            if self._ranks is not None:
                raise TaskError(
                    "build_data() returned a DataLoader, and only a data set can be dealt to several ranks. Return one."
                )
            adopted = adopt_loader(data.train, seed=config.seed, epochs=config.epochs)
            if not isinstance(adopted, Loader):
                raise TaskError(
                    f"{type(data.train.dataset).__name__} is an iterable data set, and the steps of a task are counted "
                    "by its length: give it __len__ and an integer index, or write a script around relight.init()."
                )
            return adopted
        return Loader(
            data.train, batch_size=config.batch_size, seed=config.seed, epochs=config.epochs, workers=config.workers,
            collate=data.collate, weights=data.weights, drop_last=data.drop_last,
            pin_memory=self._device.type == "cuda", deal=None if self._ranks is None else self._ranks.deal,
        )  # fmt: skip

    def _track(self) -> None:
        session = self._session
        session.track("model", self._model)
        session.track("optimizer", self._optimizer)
        session.track("scheduler", self._scheduler)
        if self._precision.scaler is not None:
            session.track("scaler", self._precision.scaler)
        session.track("loader", self._loader)

    def _describe(self, data: Data) -> None:
        parameters = sum(parameter.numel() for parameter in self._model.parameters())
        loader = self._loader
        size = "" if isinstance(data.train, DataLoader) else f" of {loader.sampler.batch_size}"
        _log.info("Model: %s, %s parameters, %s.", type(self._model).__name__, f"{parameters:,}", self._precision.name)
        held_out = (
            "no validation data" if self._validation is None else f"{self._validation.sampler.length:,} for validation"
        )
        _log.info(
            "Data: %s samples for training, %s; %s%s an epoch, %s in all.",
            f"{loader.sampler.length:,}", held_out, count(loader.batches, "batch", "batches"), size,
            count(self._steps_total, "step"),
        )  # fmt: skip
        if self._validation is not None and (objective := self._task.objective()).guessed:
            _log.warning("%s", word_guess(objective.metric or "", is_script=False))
        if self._validation is None:
            _log.info("There is no validation data, so no checkpoint will be the best one.")


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Switch to eval mode inside the block; restore every module's mode and all generators afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    rng = RngRecorder().capture()
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        restore_rng(rng)


def _list_trained(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the parameters of all groups in the model's order, then those that the model does not have.

    A plain loop clips `model.parameters()`, and the order of the terms decides the last bits of the norm.
    """
    places = {parameter: place for place, parameter in enumerate(model.parameters())}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return sorted(trained, key=lambda parameter: places.get(parameter, len(places)))


def _check_kind(built: Any, kind: type[Kind], *, task: Task, method: str) -> Kind:
    if isinstance(built, kind):
        return built
    what = "nothing (None)" if built is None else f"a {type(built).__name__}"
    wanted = "relight.Data(train=..., validation=...)" if kind is Data else f"a torch.nn.{kind.__name__}"
    raise TaskError(f"{type(task).__name__}.{method}() returned {what}: it must return {wanted}.")


def _find_loss(values: Any, task: Task) -> Tensor:
    loss = values.get("loss") if type(values) is dict or isinstance(values, Mapping) else None
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    name = f"{type(task).__name__}.step()"
    if not isinstance(values, Mapping):
        raise TaskError(f'{name} returned a {type(values).__name__}: it must return a dict such as {{"loss": loss}}.')
    if loss is None:
        raise TaskError(f'{name} returned no "loss", only {", ".join(map(str, values)) or "an empty dict"}.')
    what = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
    raise TaskError(f'The "loss" of {name} is {what}: it must be one number, as a tensor of the model\'s output.')


def _find_metric(means: Mapping[str, float], task: Task) -> float:
    name = task.best_metric.rpartition("/")[2]
    if name not in means:
        raise TaskError(f"The schedule follows the best metric '{name}', which the validation does not measure.")
    return means[name]


def _add(sums: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        number = value.detach() if is_one_number(value) else to_number(name, value)
        sums[name] = sums[name] + number if name in sums else number


def _add_weighted(totals: dict[str, Any], values: Mapping[str, Any], samples: int, *, on_device: bool) -> None:
    """Add each value, weighted by its samples: on a CUDA device without waiting, else as Python floats."""
    for name, value in values.items():
        if on_device and is_one_number(value):
            weighted: Any = value.detach().double() * samples
        else:
            weighted = to_number(name, value) * samples
        totals[name] = totals[name] + weighted if name in totals else weighted
