"""Makes a Lightning training a run of Relight: checkpoints at step edges, stops, and resumes that are exact mid-epoch.

    run = relight.init(config=vars(args))
    callback = RelightCallback(run)
    trainer = lightning.Trainer(max_epochs=20, callbacks=[callback])
    trainer.fit(module, callback.loader(DataLoader(train_set, 64, shuffle=True)), validation_loader)

Lightning keeps its loops. Their progress, the module, its optimizers, schedules and loss scale, the states of the other
callbacks and the loader's position become part of Relight's training state. A resume restores them before the first
batch.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from relight.errors import RelightError
from relight.training.framework_parts import EpochLoader, check_ranks
from relight.training.metric_numbers import to_numbers
from relight.training.script.run import ScriptRun

try:
    from lightning.pytorch.callbacks import Callback, Checkpoint  # type: ignore[import-not-found, unused-ignore]
    from lightning.pytorch.strategies import DDPStrategy  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    try:
        from pytorch_lightning.callbacks import Callback, Checkpoint  # type: ignore[import-not-found, unused-ignore]
        from pytorch_lightning.strategies import DDPStrategy  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise RelightError("Lightning is not installed. Run: pip install lightning") from None

_ENDLESS = 2**62
_VALIDATED = "epoch_loop.val_loop.batch_progress"
_log = logging.getLogger("relight")


class RelightCallback(Checkpoint):  # type: ignore[misc, unused-ignore]
    """Connects one `Trainer.fit` to the run that `relight.init` returned.

    It derives from Lightning's checkpoint callback because Lightning calls those last, after early stopping has seen
    the epoch. `validation` is the prefix of the names of validation metrics. The first of them decides which checkpoint
    is the best one, unless `relight.init(best=…)` names another.
    """

    def __init__(self, run: ScriptRun, *, validation: str = "val") -> None:
        self._run = run
        self._validation = validation
        self._loaders: list[EpochLoader] = []
        self._steps: Iterator[int] | None = None
        self._step = 0
        self._loops: _LoopState | None = None
        self._last: dict[str, Any] | None = None
        self._measured: dict[str, float] = {}

    def loader(self, loader: DataLoader[Any], *, seed: int | None = None) -> EpochLoader:
        """Take over the train loader, so that a resume continues with its next batch.

        With several ranks its samples are dealt, as Lightning would. Raises `TaskError` if that is not possible.
        """
        taken = EpochLoader(loader, self._run, seed=seed)
        self._loaders.append(taken)
        return taken

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Track what Lightning trains. In a resume this restores it."""
        # A step edge comes after everything that the other callbacks do. A new list, because Lightning is iterating
        # over the old one.
        trainer.callbacks = [*(callback for callback in trainer.callbacks if callback is not self), self]
        check_ranks(self._run, "Lightning", processes=trainer.world_size)
        if trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
            raise RelightError(
                f'Relight\'s callback trains several ranks with strategy="ddp", not with '
                f"{type(trainer.strategy).__name__}."
            )
        things: dict[str, Any] = {"model": pl_module}
        for number, optimizer in enumerate(trainer.optimizers):
            things[f"optimizer{number}"] = optimizer
        for number, config in enumerate(trainer.lr_scheduler_configs):
            things[f"scheduler{number}"] = config.scheduler
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        things["scaler"] = scaler
        for number, loader in enumerate(self._loaders):
            things[f"loader{number}"] = loader
        things["callbacks"] = _CallbackStates(trainer, self)
        things["lightning"] = self._loops = _LoopState(trainer)
        self._run.track(**things)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin the run's loop before Lightning asks for the first batch. In a resume this restores the generators."""
        if not all(hasattr(one, "load_state_dict") for one in _flatten(trainer.train_dataloader)):
            _log.warning(
                "The train loader has no position, so a resume in the middle of an epoch shuffles the data again. "
                "Pass callback.loader(loader) to trainer.fit()."
            )
        planned = trainer.estimated_stepping_batches
        self._steps = iter(self._run.steps(int(planned) if 0 < planned < float("inf") else _ENDLESS))
        next(self._steps, None)
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Make a step edge of each batch after which an optimizer has moved, except for the epoch's last batch.

        That one waits for the epoch's validation. Lightning does not validate again when it resumes from the end of an
        epoch, so a run that dies during the validation resumes from the step before, and no validation is lost.
        """
        if trainer.global_step == self._step or self._steps is None:
            return
        self._step = trainer.global_step
        values = self._find_metrics(trainer, outputs)
        if trainer.is_last_batch:
            self._last = values
        else:
            self._edge(values)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Report what the validation measured."""
        if trainer.sanity_checking or self._steps is None:
            return
        self._measured = to_numbers(
            {name: value for name, value in trainer.callback_metrics.items() if name.startswith(self._validation)}
        )
        if self._last is None:
            self._report()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the epoch's validation, and make the step edge of its last batch: a checkpoint has both."""
        if self._last is not None:
            values, self._last = self._last, None
            self._edge(values)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End the data-loading processes."""
        for loader in self._loaders:
            loader.close()

    def _edge(self, values: dict[str, Any]) -> None:
        assert self._steps is not None and self._loops is not None
        self._loops.restored = None
        self._report()
        self._run.step(values)
        next(self._steps, None)

    def _report(self) -> None:
        measured, self._measured = self._measured, {}
        if measured:
            self._run.evaluated(measured)

    def _find_metrics(self, trainer: Any, outputs: Any) -> dict[str, Any]:
        found = outputs.get("loss") if isinstance(outputs, dict) else outputs
        values: dict[str, Any] = {}
        if isinstance(found, torch.Tensor) and found.numel() == 1:
            values["loss"] = found.detach()
        for name, value in trainer.callback_metrics.items():
            if not name.startswith(self._validation) and name not in values:
                values[name] = value
        return values


class _LoopState:
    """The progress of Lightning's loops, without the loaders' positions, which Lightning restores mid-epoch only.

    No step edge is inside a validation, so how far the last one came is left out, too: a resume does not know it.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.restored: dict[str, Any] | None = None
        """The progress that a resume begins with: Lightning moves its own on before the first batch."""

    def state_dict(self) -> dict[str, Any]:
        if self.restored is not None:
            return self.restored
        state: dict[str, Any] = self._trainer.fit_loop.state_dict()
        state["state_dict"].pop("combined_loader", None)
        validated = state[_VALIDATED]
        validated["current"] = dict.fromkeys(validated["current"], 0)
        validated["is_last_batch"] = False
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.restored = copy.deepcopy(state)
        self._trainer.fit_loop.load_state_dict(state)


class _CallbackStates:
    """The states of all other callbacks: early stopping's patience, averages, …"""

    def __init__(self, trainer: Any, own: Callback) -> None:
        self._callbacks = [callback for callback in trainer.callbacks if callback is not own]

    def state_dict(self) -> dict[str, Any]:
        states = {callback.state_key: callback.state_dict() for callback in self._callbacks}
        return {key: state for key, state in states.items() if state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for callback in self._callbacks:
            if callback.state_key in state:
                callback.load_state_dict(state[callback.state_key])


def _flatten(loader: Any) -> list[Any]:
    if isinstance(loader, dict):
        return [one for value in loader.values() for one in _flatten(value)]
    if isinstance(loader, (list, tuple)):
        return [one for value in loader for one in _flatten(value)]
    return [loader]
