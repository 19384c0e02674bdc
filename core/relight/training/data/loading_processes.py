"""The data-loading processes: how they start, how they treat signals, and how they end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import get_worker_info

from relight.errors import TaskError

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PR_SET_PDEATHSIG = 1
_REAPED_WITHIN_S = 5.0


@dataclass(frozen=True)
class WorkerOptions:
    """How batches are loaded; no option changes their contents."""

    workers: int = 0
    pin_memory: bool = False
    prefetch: int | None = None
    """Batches that each worker loads ahead."""
    timeout_s: float = 0
    context: Any = None
    """The start method, as `multiprocessing` names it."""
    prepare: Callable[[int], None] | None = None
    """Called first in each worker with its number."""


class WorkerStart:
    """The first thing that each worker runs; a class, so that it can be sent to a spawned process.

    Create it in the thread that starts the workers.
    """

    def __init__(self, prepare: Callable[[int], None] | None) -> None:
        self._prepare = prepare
        self._by_main = threading.current_thread() is threading.main_thread()

    def __call__(self, worker: int) -> None:
        _prepare_worker(by_main=self._by_main)
        if self._prepare is not None:
            self._prepare(worker)


def _prepare_worker(*, by_main: bool) -> None:
    """Leave signals to the trainer (a terminal sends Ctrl-C to all processes), and end when the trainer is killed.

    Linux ends a process with the *thread* that has started it. If that is not the main thread, it may end long before
    the trainer, so such workers wait for PyTorch to notice the trainer's end, which it does within five seconds.
    """
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    if sys.platform == "linux" and by_main:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # killed between the two lines
            os._exit(1)


def share_tensors(batch: Any) -> None:
    """In a worker, move the tensors of a batch that it has loaded to shared memory.

    Otherwise PyTorch does it in a thread of the worker; when that fails, the batch is lost and the trainer waits for it
    forever. Raises `TaskError` when there is not enough shared memory.
    """
    if get_worker_info() is None:
        return
    if isinstance(batch, (list, tuple, Mapping)):
        for inner in batch.values() if isinstance(batch, Mapping) else batch:
            share_tensors(inner)
    if not isinstance(batch, torch.Tensor) or batch.device.type != "cpu" or batch.layout is not torch.strided:
        return
    try:
        batch.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if "shared memory" not in str(error) and "No space left" not in str(error) and "torch_" not in str(error):
            raise
        raise TaskError(
            "The data-loading processes have no shared memory left for a batch (/dev/shm is full). Train with 0 "
            "workers, or give the machine more shared memory: for a container, --shm-size=1g."
        ) from error


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Hold back stop signals while workers are started: each unblocks them once it ignores them."""
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def end_workers(iterator: Any) -> None:
    """End the processes behind a DataLoader's iterator now, not when Python happens to collect it.

    They ignore the SIGTERM that PyTorch and Python send to workers that do not respond, so they are killed.
    """
    workers = list(getattr(iterator, "_workers", ()))
    if workers:
        iterator._shutdown_workers()
    alive = [worker for worker in workers if worker.is_alive()]
    for worker in alive:
        worker.kill()
    for worker in alive:
        worker.join(_REAPED_WITHIN_S)
