"""Ways to save a training state, each used as it should be: Relight's writer process, and what people use today."""

from __future__ import annotations

import os
import time
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch

from measuring.states import State, make_header

_SILENCE_S = 300.0


class RelightWriter:
    """Relight as a training uses it: the loop copies into shared memory, and another process makes that durable."""

    def __init__(self, folder: Path) -> None:
        from relight.checkpoints.writer_client import WriterClient

        self._client = WriterClient(folder)
        self._process = psutil.Process(self._client.pid)
        self._step = 0
        self._begun_s = self._begun_processor_s = 0.0
        self._verified = True
        self.durable_s: float | None = None
        """From the beginning of the last save until it was durable; None if it is not yet."""

    def begin(self, state: State) -> None:
        """Stage a snapshot and hand it over: what blocks the loop."""
        from relight.training.state.page_locking import find_register
        from relight.training.state.snapshot import copy_tensors

        self._step += 1
        self._verified, self.durable_s = False, None
        self._begun_s = time.monotonic()
        self._begun_processor_s = self._processor_s()
        memory = self._client.stage(make_header(state, self._step), register=find_register(state.values()))
        copy_tensors(state, memory, on_copied=self._client.note_copied)
        self._client.submit()

    def is_finished(self) -> bool:
        """Tell whether the last save was read back, after asking the writer what has happened."""
        from relight.checkpoints.writer_channel import Durable, SaveFailed, Verified

        for event in self._client.poll():
            if isinstance(event, SaveFailed):
                raise SystemExit(event.sentence)
            if isinstance(event, Durable):
                self.durable_s = event.at_s - self._begun_s
            self._verified = self._verified or isinstance(event, Verified)
        return self._verified

    def wait(self) -> float:
        """Wait until the last save is durable, and return that moment; then until it was read back."""
        deadline, durable = time.monotonic() + _SILENCE_S, 0.0
        while not self.is_finished() or not durable:
            if self.durable_s is not None and not durable:
                durable = time.perf_counter()
            if time.monotonic() > deadline:
                raise SystemExit(f"The checkpoint writer has not reported anything for {_SILENCE_S:.0f} s.")
            time.sleep(0.001)
        return durable

    def spent_s(self) -> float:
        """Return the processor seconds that the writer has used since the last save began."""
        return self._processor_s() - self._begun_processor_s

    def close(self) -> None:
        """End the writer."""
        self._client.close(timeout_s=30)

    def _processor_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)


class Peer(Protocol):
    """Another way to save. `begin` blocks the loop as long as it must."""

    def begin(self, state: State, folder: Path) -> None:
        """Begin to save into an empty folder."""

    def is_finished(self) -> bool:
        """Tell whether everything that `begin` started is done."""

    def finished_at(self) -> float | None:
        """Return when that was, as `time.perf_counter` counts."""


class TorchSafely:
    """torch.save, fsync, rename, fsync of the folder."""

    def __init__(self) -> None:
        self._finished: float | None = None

    def begin(self, state: State, folder: Path) -> None:
        save_torch_safely(state, folder)
        self._finished = time.perf_counter()

    def is_finished(self) -> bool:
        return True

    def finished_at(self) -> float | None:
        return self._finished


class SafetensorsSafely(TorchSafely):
    """safetensors.save_file, fsync, rename, fsync of the folder."""

    def begin(self, state: State, folder: Path) -> None:
        save_safetensors_safely(state, folder)
        self._finished = time.perf_counter()


class DcpAsync:
    """torch.distributed.checkpoint.async_save with a stager that keeps its memory from one save to the next."""

    def __init__(self) -> None:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        options = StagingOptions(
            use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
        )
        self._stager = DefaultStager(options)
        self._future: Future[Any] | None = None
        self._finished: float | None = None

    def begin(self, state: State, folder: Path) -> None:
        import torch.distributed.checkpoint as dcp

        self._finished = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that there is no process group
            future: Any = dcp.async_save(state, checkpoint_id=folder / "dcp", async_stager=self._stager)
        self._future = getattr(future, "upload_completion", future)
        self._future.add_done_callback(self._note)

    def is_finished(self) -> bool:
        if self._future is not None and self._future.done():
            self._future.result()
        return self._finished is not None

    def finished_at(self) -> float | None:
        return self._finished

    def _note(self, _: Future[Any]) -> None:
        self._finished = time.perf_counter()


class LightningAsync:
    """Lightning's AsyncCheckpointIO around its own TorchCheckpointIO. It never calls fsync."""

    def __init__(self) -> None:
        from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

        notes = self

        class Noting(TorchCheckpointIO):
            def save_checkpoint(self, *args: Any, **options: Any) -> None:
                super().save_checkpoint(*args, **options)
                notes._finished = time.perf_counter()

        self._plugin: Any = AsyncCheckpointIO(Noting())
        self._finished: float | None = None

    def begin(self, state: State, folder: Path) -> None:
        self._finished = None
        self._plugin.save_checkpoint({"state": state}, folder / "state.ckpt")

    def is_finished(self) -> bool:
        return self._finished is not None

    def finished_at(self) -> float | None:
        return self._finished


def save_torch_safely(state: State, folder: Path) -> None:
    """Save with torch.save as one should."""
    torch.save(state, folder / "state.tmp")
    _commit(folder / "state.tmp", folder / "state.pt")


def save_safetensors_safely(state: State, folder: Path) -> None:
    """Save with safetensors as one should."""
    from safetensors.torch import save_file

    save_file(state, folder / "state.tmp")
    _commit(folder / "state.tmp", folder / "state.safetensors")


def sync_path(path: Path) -> None:
    """Sync a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _commit(temporary: Path, final: Path) -> None:
    sync_path(temporary)
    temporary.replace(final)
    sync_path(final.parent)
