"""A run as a training script sees it: what `relight.init` returns.

run = relight.init(config=vars(args))
loader = run.loader(train_set, batch_size=64, shuffle=True, num_workers=2)
run.track(model=model, optimizer=optimizer, scheduler=scheduler)      # restored here in a resume
for epoch in run.epochs(20):
    for batch in loader:
        ...
        run.step(loss=loss, accuracy=accuracy)                         # a step edge
    run.evaluated(accuracy=accuracy)                                   # what "best" means
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from relight.errors import UsageError
from relight.training.metric_numbers import Values
from relight.training.ranks.group import RankGroup
from relight.training.script.loop_driver import LoopDriver
from relight.training.script.resumed_enumerate import ResumedEnumerate
from relight.training.script.script_attempt import ScriptAttempt
from relight.training.script.script_loader import ScriptLoader, choose_seed, make_loader
from relight.training.script.trackable import expand
from relight.training.state.rng import seed_everything


class ScriptRun:
    """One run, in one attempt, as its script sees it. Not safe for use by two threads at the same time."""

    def __init__(self, attempt: ScriptAttempt, config: MutableMapping[str, Any]) -> None:
        self.config = config
        """The config passed to `relight.init`, including the values set at the launch."""
        self._attempt = attempt
        if attempt.seed is not None:
            seed_everything(attempt.seed)
        self._driver = LoopDriver(attempt, enumerating=ResumedEnumerate(ScriptLoader))

    @property
    def id(self) -> str:
        """The run's id."""
        return self._attempt.layout.run_id

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._attempt.layout.folder

    @property
    def group(self) -> RankGroup | None:
        """All ranks of the training; None for one process."""
        return self._attempt.group

    @property
    def resumed(self) -> bool:
        """Whether this attempt continues from a checkpoint."""
        return self._attempt.start.from_sequence is not None

    @property
    def steps_done(self) -> int:
        """Step edges of the whole run so far; a resume continues its checkpoint's count once its loops have begun."""
        session = self._driver.session
        return 0 if session is None else session.steps_done

    def loader(self, data: Any, *, name: str | None = None, seed: int | None = None, **options: Any) -> ScriptLoader:
        """Make a loader over the data set `data`, with the options of PyTorch's `DataLoader`; or take over a loader.

        Relight draws the order of the batches, and seeds Python's, NumPy's and torch's global generators for each
        sample, so the loader is exact with any number of workers. Both use `seed`, or the seed of `relight.init`, or
        the one that the script seeded torch with. Raise `TaskError` for data that cannot be resumed exactly.
        """
        self._driver.refuse_children("loader")
        loaders = self._driver.position.loaders
        name = name or f"loader{len(loaders) + 1}"
        if name in loaders:
            raise UsageError(f"There is already a loader called '{name}'. Give each loader its own name.")
        seed = seed if seed is not None else self._attempt.seed
        return make_loader(self._driver, name, data, options, seed=choose_seed(seed))

    def track(self, **things: Any) -> None:
        """Add objects to the training state, by name. In a resume, restore each of them immediately.

        Accepts modules, optimizers, schedules, wrappers of both, anything with `state_dict` and `load_state_dict`,
        generators (torch's, NumPy's, Python's), tensors, and containers of plain values and tensors. A list or
        dictionary of objects tracks each of them as `NAME_KEY`. Ignores None. Raise `TaskError`, which says what to
        track instead, for a thing without a state; raise `StateMismatch` with names if the checkpoint does not fit.
        """
        self._driver.refuse_children("track")
        given = [each for name, thing in things.items() for each in expand(name, thing)]
        for name, thing in sorted(given, key=lambda each: _rank(each[1])):
            self._driver.track(name, thing)

    def epochs(self, count: int) -> Iterator[int]:
        """Yield the epochs from 0 to `count` - 1; a resume starts with the interrupted one.

        Put everything that happens once per epoch into its body: batches, validation, the schedule's step. The end of
        the body is an edge, too.
        """
        return self._driver.iterate("epochs", count)

    def steps(self, count: int) -> Iterator[int]:
        """Yield the steps from 0 to `count` - 1, for a loop without epochs; a resume starts with the next one.

        Call `run.step()` once in each, at the end.
        """
        return self._driver.iterate("steps", count)

    def step(self, values: Values | None = None, /, **more: Any) -> None:
        """Take a step edge: the optimizer and everything else has moved. Call it last in the body of the loop.

        Logs numbers or 0-d tensors by name (from a GPU without waiting for it), may cut a checkpoint, and ends the
        script here if a stop was requested.
        """
        self._driver.step(more if values is None else _merge(values, more))

    def log(self, values: Values | None = None, /, **more: Any) -> None:
        """Log more values of the last finished step."""
        self._driver.refuse_children("log")
        self._driver.log(more if values is None else _merge(values, more))

    def evaluated(self, values: Values | None = None, /, **more: Any) -> bool:
        """Log what a validation measured with the current weights; return whether that is the best so far.

        The first name decides what `best` means, unless `relight.init(best=…)` does.
        """
        self._driver.refuse_children("evaluated")
        return self._driver.evaluated(more if values is None else _merge(values, more))

    def evaluating(self) -> AbstractContextManager[None]:
        """Return a context manager for a validation that swaps weights: averaged ones, or those of schedule-free.

        Inside the block the weights may differ from those of the last step edge, if they are put back at its end. Then
        a stop or a crash after the block can still save that edge. A stop inside the block waits for its end, and a
        crash inside falls back to the newest checkpoint.
        """
        self._driver.refuse_children("evaluating")
        return self._driver.evaluating()

    def finish(self) -> None:
        """Save the final state and finish the run. Otherwise the end of the script does that."""
        self._driver.refuse_children("finish")
        self._attempt.finish()


def _rank(thing: Any) -> int:
    """Order modules first, because optimizers use their parameters' names, and schedules last."""
    if isinstance(thing, nn.Module):
        return 0
    return 1 if isinstance(thing, Optimizer) else 2


def _merge(values: Values, more: Values) -> Values:
    """Merge both; `values` must have names."""
    if not isinstance(values, Mapping):
        raise UsageError(
            f"Values need names, but this is a {type(values).__name__} without one. Write run.step(loss=loss), or pass "
            "a dictionary."
        )
    return {**values, **more}
