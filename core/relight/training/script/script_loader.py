"""A script's loader: iterated like PyTorch's, and resumable at every batch, in any loop and any number of times."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from relight.errors import TaskError, UsageError
from relight.training.data.adopted_loader import ResumableLoader, adopt_loader
from relight.training.data.loader import Loader
from relight.training.data.sampler import Sampler
from relight.training.script.loop_driver import LoopDriver
from relight.training.script.loop_leaving import is_left_by_choice
from relight.training.script.loop_source import find_consumer
from relight.training.script.loops import Loop
from relight.training.script.resumed_enumerate import BatchCount

_log = logging.getLogger("relight")
_AS_IT_IS = ("persistent_workers",)  # workers persist from one pass to the next anyway


class ScriptLoader:
    """Batches of one data set. Each `for` over it is one pass: the next epoch of its order, from the beginning.

    After a resume the interrupted pass continues. The order and the random numbers of the samples
    depend on the seed and on how many passes there were, not on the generators, and not on the number of workers.
    """

    def __init__(self, driver: LoopDriver, name: str, inner: ResumableLoader, *, source: DataLoader[Any]) -> None:
        self.name = name
        self.dataset: Dataset[Any] = source.dataset
        self.batch_size = source.batch_size
        self.drop_last = source.drop_last
        self.num_workers = source.num_workers
        self.skipped = 0
        """Batches of the current pass that were consumed before a resume."""
        self._driver = driver
        self._inner = inner
        self._pass: Loop | None = None

    @property
    def inner(self) -> ResumableLoader:
        """The loader behind this one."""
        return self._inner

    @property
    def batch(self) -> int:
        """Batches of the current pass that have been yielded; also right after a resume."""
        return BatchCount(self._inner.batch)

    def __len__(self) -> int:
        """Return the batches of one pass. Raise `TypeError`, as PyTorch does, if the data has no length."""
        return len(self._inner)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of one pass."""
        return self._iterate(is_new=self._driver.loops.has_arrived)

    def _iterate(self, *, is_new: bool) -> Iterator[Any]:
        """Yield the batches of one pass.

        After a resume, an iterator created before the place was reached continues the pass that was
        under way, as its earlier self would have; one that `is_new` since begins another. But a generator that the
        script made before, such as an endless `while True: yield from loader`, creates its iterator only now.
        """
        driver, inner = self._driver, self._inner
        if threading.current_thread() is not threading.main_thread():
            driver.position.in_step = False
        if self._pass is not None:  # the script has kept the iterator of an earlier pass, which ends here
            driver.loops.leave(self._pass)
            inner.next_epoch()
            self._pass = None
        elif is_new and inner.consumed and not driver.is_kept(sys._getframe(1)):
            inner.next_epoch()
        loop = driver.loops.enter("batches", self.name, consumer=find_consumer(sys._getframe(1)))
        if loop is None:
            return
        if driver.loops.is_on_the_way(loop):  # loops inside this one have not reached their places yet
            driver.send_to_place(self.name)
        if driver.loops.replaying:
            inner.take_seen()  # of an earlier pass, which ran again
        self._pass = loop
        self.skipped = inner.batch
        whole, chosen = False, True
        try:
            for batch in inner:
                driver.loops.advance(loop, inner.consumed)
                yield batch
                driver.note_next()
                if self._pass is not loop:
                    raise UsageError(
                        f"The loader '{self.name}' is iterated twice at the same time. Make a loader for each iterator."
                    )
            whole = True
        except GeneratorExit:
            chosen = is_left_by_choice()
            raise
        except BaseException:
            chosen = False
            raise
        finally:
            if self._pass is loop:
                self._pass = None
                if not driver.is_leaving:
                    if not whole:
                        inner.next_epoch()
                    driver.end_pass(loop, broken=chosen and not whole)


def make_loader(driver: LoopDriver, name: str, data: Any, options: dict[str, Any], *, seed: int) -> ScriptLoader:
    """Make a loader over a data set, with the options of PyTorch's `DataLoader`; or take over a `DataLoader`.

    Raises `TaskError` where a resume could not be exact, saying what and why.
    """
    if isinstance(data, DataLoader):
        if options:
            raise TaskError("run.loader() takes no options with a DataLoader. Set them on the DataLoader.")
        source = data
    else:
        known = {key: value for key, value in options.items() if key not in _AS_IT_IS}
        try:
            source = DataLoader(data, **known)
        except TypeError as error:
            raise TaskError(f"run.loader() takes the options of PyTorch's DataLoader: {error}.") from None
    inner = adopt_loader(source, seed=seed)
    order = inner.sampler if isinstance(inner, Loader) else None
    if driver.has_ranks and isinstance(order, Sampler) and order.shuffle:
        _log.warning(
            "Every rank trains with the same batches of '%s'. To deal them, give the loader "
            "sampler=DistributedSampler(data), as for any distributed training.", name,
        )  # fmt: skip
    driver.position.add(name, inner)
    return ScriptLoader(driver, name, inner, source=source)


def choose_seed(seed: int | None) -> int:
    """Return the seed of a loader's order: the given one, or the one that the script seeded PyTorch with."""
    return seed if seed is not None else torch.initial_seed() % 2**63
