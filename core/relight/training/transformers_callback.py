"""Makes a Hugging Face training a run of Relight: checkpoints at step edges, stops, and resumes exact mid-epoch.

    run = relight.init(config=vars(args))
    callback = RelightCallback(run)
    trainer = Trainer(model, training_arguments, train_dataset=train_set, eval_dataset=validation_set)
    callback.train(trainer)                                            # instead of trainer.train()

The Trainer keeps its loop. The model, its optimizer, schedule and loss scale, the loop's progress, the stateful
callbacks and the position in the data become part of Relight's training state. A resume restores them before the first
batch. A step ends when the Trainer asks for the next batch: what it logs and evaluates until then belongs to the step.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler

from relight.errors import RelightError, TaskError
from relight.training.framework_parts import EpochLoader, OuterSteps, check_ranks
from relight.training.metric_numbers import to_numbers
from relight.training.script.run import ScriptRun

try:
    from transformers import TrainerCallback  # type: ignore[import-not-found, unused-ignore]
    from transformers.trainer_callback import (  # type: ignore[import-not-found, unused-ignore]
        ExportableState,
        TrainerState,
    )
except ImportError:
    raise RelightError("transformers is not installed. Run: pip install 'transformers[torch]'") from None

_STATE_FILE = "trainer_state.json"
_KEPT = ("global_step", "epoch", "num_input_tokens_seen", "best_metric", "best_global_step")


class RelightCallback(TrainerCallback):  # type: ignore[misc, unused-ignore]
    """Connects one training of a `Trainer` to the run that `relight.init` returned.

    `validation` is the prefix of the names of validation metrics. `relight.init(best=…)` names the one that decides
    which checkpoint is the best; without it, that is the Trainer's `metric_for_best_model`, or else the loss.
    """

    def __init__(self, run: ScriptRun, *, validation: str = "eval_") -> None:
        self._run = run
        self._validation = validation
        self._steps: OuterSteps | None = None
        self._trainer: Any = None
        self._loader: EpochLoader | None = None
        self._edges = 0
        self._logged: dict[str, float] = {}
        self._measured: dict[str, float] = {}

    def train(self, trainer: Any, *, seed: int | None = None) -> Any:
        """Train from the start or from the run's checkpoint; return what `Trainer.train` returns.

        Raises `TaskError` with the reason if a resume of this training could not be exact.
        """
        _refuse(trainer)
        check_ranks(self._run, "The Trainer", processes=trainer.args.world_size)
        self._trainer = trainer
        self._loader = EpochLoader(_read_loader(trainer), self._run, seed=seed, before_batch=self._next_batch)
        accumulated = trainer.args.gradient_accumulation_steps
        if len(self._loader) % accumulated:
            raise TaskError(
                f"An epoch has {len(self._loader)} batches, which is not a multiple of gradient_accumulation_steps="
                f"{accumulated}, so the Trainer could not resume in the middle of an epoch. Change the batch size or "
                "gradient_accumulation_steps."
            )
        trainer.get_train_dataloader = lambda: self._loader
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        progress = _Progress(trainer)
        self._run.track(trainer=progress)
        try:
            if not progress.state:
                return trainer.train()
            # The Trainer reads its progress from a file and its weights from the same folder. The weights are already
            # there, so it must not load any.
            trainer._load_from_checkpoint = lambda folder, model=None: None
            trainer.args.ignore_data_skip = True
            with tempfile.TemporaryDirectory(prefix="relight-trainer-") as folder:
                progress.write(Path(folder) / _STATE_FILE)
                return trainer.train(resume_from_checkpoint=folder)
        finally:
            self._loader.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Track what the Trainer trains. In a resume this restores it."""
        trainer = self._trainer
        optimizer = trainer.optimizer
        self._run.track(
            model=trainer.model,
            optimizer=getattr(optimizer, "optimizer", optimizer),  # accelerate wraps it
            scheduler=trainer.lr_scheduler,
            scaler=getattr(trainer.accelerator, "scaler", None),
            batches=self._loader,
            callbacks=_CallbackStates(trainer),
        )
        self._edges = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Correct the epoch: in a resumed epoch the Trainer counts only the batches since the resume."""
        assert self._loader is not None
        state.epoch = state.global_step * args.gradient_accumulation_steps / len(self._loader)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Keep the values that belong to the current step."""
        for name, value in (logs or {}).items():
            if not name.startswith((self._validation, "train_")) and name not in ("epoch", "total_flos"):
                self._logged[name] = value

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        """Keep what the validation measured, without the time that it took."""
        begin = self._validation
        found = {name: value for name, value in metrics.items() if name.startswith(begin)}
        timing = tuple(f"{begin}{name}" for name in ("runtime", "samples_per_second", "steps_per_second", "model_prep"))
        first = args.metric_for_best_model or "loss"
        first = first if first.startswith(begin) else begin + first
        kept = to_numbers({name: value for name, value in found.items() if not name.startswith(timing)})
        self._measured = {name: kept[name] for name in sorted(kept, key=lambda name: name != first)}

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the last step's edge."""
        self._edge(last=True)

    def _next_batch(self) -> None:
        """The Trainer asks for a batch, so everything that belongs to the step before is done."""
        if self._steps is None:
            self._begin()
        else:
            self._edge()

    def _begin(self) -> None:
        """Begin the run's loop. In a resume this restores the generators."""
        self._steps = OuterSteps(self._run.steps(self._trainer.state.max_steps))
        self._report()

    def _edge(self, *, last: bool = False) -> None:
        if self._steps is None or self._trainer.state.global_step == self._edges:
            return
        self._edges = self._trainer.state.global_step
        logged, self._logged = self._logged, {}
        self._report()  # of this step: a checkpoint has both
        self._run.step(logged)
        if last:
            self._steps.leave()
        else:
            self._steps.advance()

    def _report(self) -> None:
        measured, self._measured = self._measured, {}
        if measured:
            self._run.evaluated(measured)


class _Progress:
    """The Trainer's progress, which it reads from a file when it resumes."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.state: dict[str, Any] = {}
        """The restored progress; empty at the start of a run."""

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self._trainer.state, name) for name in _KEPT}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = dict(state)

    def write(self, path: Path) -> None:
        """Write the progress in the Trainer's own file format."""
        arguments = self._trainer.args
        intervals = {
            name: int(value)
            for name in ("logging_steps", "eval_steps", "save_steps")
            if (value := getattr(arguments, name)) is not None and value >= 1
        }
        TrainerState(**self.state, **intervals, train_batch_size=self._trainer._train_batch_size).save_to_json(
            str(path)
        )


class _CallbackStates:
    """The states of the callbacks that keep one, such as early stopping's patience."""

    def __init__(self, trainer: Any) -> None:
        self._callbacks = [one for one in trainer.callback_handler.callbacks if isinstance(one, ExportableState)]

    def state_dict(self) -> dict[str, Any]:
        return {str(number): one.state()["attributes"] for number, one in enumerate(self._callbacks)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for number, one in enumerate(self._callbacks):
            for name, value in state.get(str(number), {}).items():
                setattr(one, name, value)


def _refuse(trainer: Any) -> None:
    """Raise `RelightError` for settings with which a resume could not be exact."""
    arguments = trainer.args
    if arguments.n_gpu > 1:
        raise RelightError(
            f"The Trainer would train on {arguments.n_gpu} GPUs in one process. Start one process for each: relight "
            "run FILE --nproc auto. Or choose one GPU with CUDA_VISIBLE_DEVICES."
        )
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise RelightError("Relight's callback does not support DeepSpeed or FSDP: turn them off.")
    if arguments.load_best_model_at_end:
        raise RelightError(
            "Set load_best_model_at_end=False. To get the best model, run: relight export RUN --which best"
        )
    if arguments.auto_find_batch_size:
        raise RelightError("Set auto_find_batch_size=False: a resume needs the same batch size.")


def _read_loader(trainer: Any) -> DataLoader[Any]:
    """Return the Trainer's own loader, without the wrapper of accelerate."""
    found = trainer.get_train_dataloader()
    if isinstance(found.dataset, IterableDataset):
        raise TaskError(
            "The Trainer's data set is a stream, which cannot be resumed in the middle of an epoch: use a map-style "
            "data set, with __len__ and __getitem__."
        )
    batches = found.batch_sampler
    if type(batches).__name__ == "BatchSamplerShard":  # with several ranks
        batches = batches.batch_sampler
    if type(batches) is BatchSampler and isinstance(batches.sampler, RandomSampler):
        batches = BatchSampler(RandomSampler(found.dataset), batches.batch_size, batches.drop_last)
    return DataLoader(
        found.dataset, batch_sampler=batches, collate_fn=found.collate_fn, num_workers=found.num_workers,
        pin_memory=found.pin_memory, prefetch_factor=found.prefetch_factor,
        multiprocessing_context=found.multiprocessing_context,
    )  # fmt: skip
