"""How other libraries save and find their newest checkpoint, as their documentation and most scripts do it."""

from __future__ import annotations

import logging
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relight.checkpoints.snapshot_header import SnapshotHeader

_STEP = "step"


class Peer(ABC):
    """One library. A state is the step and the tensors by name. torch is imported at the first use."""

    @abstractmethod
    def save(self, folder: Path, step: int, state: dict[str, Any]) -> None:
        """Save. When this returns, a script considers the checkpoint saved."""

    @abstractmethod
    def load(self, path: Path, like: dict[str, Any]) -> dict[str, Any]:
        """Load the state in `path`, which has the structure of `like`."""

    def newest(self, folder: Path) -> Path | None:
        """Return the checkpoint with the highest number, as scripts that resume do."""
        found = [path for path in folder.iterdir() if path.stem.removeprefix("step-").isdecimal()]
        return max(found, key=lambda path: int(path.stem.removeprefix("step-")), default=None)

    def remove(self, folder: Path, step: int) -> None:
        """Remove the checkpoint of a step, if there is one."""
        for path in folder.glob(f"step-{step}.*"):
            path.unlink()

    def load_library(self) -> None:
        """Import everything that saving needs."""
        import torch

        torch.set_num_threads(1)

    def build_state(self, snapshot: tuple[SnapshotHeader, Sequence[memoryview]]) -> dict[str, Any]:
        """Return the snapshot as a dictionary of tensors."""
        import torch

        header, buffers = snapshot
        types = {"F32": torch.float32, "BF16": torch.bfloat16, "I64": torch.int64}
        state = {
            spec.name: torch.frombuffer(bytearray(data), dtype=types[spec.dtype]).reshape(spec.shape)
            for spec, data in zip(header.tensors, buffers, strict=True)
        }
        return {**state, _STEP: torch.tensor(header.step)}

    def same(self, one: dict[str, Any], other: dict[str, Any]) -> bool:
        """Tell whether two states have the same bits."""
        return one.keys() == other.keys() and all(_bits(one[name]) == _bits(other[name]) for name in one)


class TorchSave(Peer):
    """`torch.save` under the final name."""

    def save(self, folder: Path, step: int, state: dict[str, Any]) -> None:
        import torch

        torch.save(state, folder / f"step-{step}.pt")

    def load(self, path: Path, like: dict[str, Any]) -> dict[str, Any]:
        import torch

        loaded: dict[str, Any] = torch.load(path, weights_only=True)
        return loaded


class TorchSaveOver(TorchSave):
    """`torch.save` over the same file each time."""

    def save(self, folder: Path, step: int, state: dict[str, Any]) -> None:
        super().save(folder, 0, state)

    def remove(self, folder: Path, step: int) -> None:
        """Do nothing: there is only one file."""


class TorchSaveSynced(TorchSave):
    """`torch.save` to another name, fsync, rename, fsync of the folder: what careful engineers write by hand."""

    def save(self, folder: Path, step: int, state: dict[str, Any]) -> None:
        import torch

        temporary = folder / "new.tmp"
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(folder / f"step-{step}.pt")
        names = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(names)
        finally:
            os.close(names)


class Safetensors(Peer):
    """`safetensors.torch.save_file` (0.8 writes to a temporary name and renames)."""

    def save(self, folder: Path, step: int, state: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        save_file(state, folder / f"step-{step}.safetensors")

    def load(self, path: Path, like: dict[str, Any]) -> dict[str, Any]:
        from safetensors.torch import load_file

        loaded = load_file(path)
        return {name: tensor.clone() for name, tensor in loaded.items()}

    def load_library(self) -> None:
        super().load_library()
        import safetensors.torch  # noqa: F401


class Dcp(Peer):
    """`torch.distributed.checkpoint`: a folder for each step, the newest by its number."""

    def save(self, folder: Path, step: int, state: dict[str, Any]) -> None:
        import torch.distributed.checkpoint as dcp

        dcp.save(state, checkpoint_id=folder / f"step-{step}", no_dist=True)

    def load(self, path: Path, like: dict[str, Any]) -> dict[str, Any]:
        import torch
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.api import CheckpointException

        state = {name: torch.zeros_like(tensor) for name, tensor in like.items()}
        logging.disable(logging.CRITICAL)
        try:
            dcp.load(state, checkpoint_id=path, no_dist=True)
        except CheckpointException as error:  # it does not derive from Exception
            raise OSError(str(error).splitlines()[-1]) from error
        finally:
            logging.disable(logging.NOTSET)
        return state

    def remove(self, folder: Path, step: int) -> None:
        shutil.rmtree(folder / f"step-{step}", ignore_errors=True)

    def load_library(self) -> None:
        super().load_library()
        import torch.distributed.checkpoint  # noqa: F401


class DcpWithMetadata(Dcp):
    """The same, but only folders with a `.metadata` file count."""

    def newest(self, folder: Path) -> Path | None:
        found = [path for path in folder.iterdir() if (path / ".metadata").exists()]
        return max(found, key=lambda path: int(path.name.removeprefix("step-")), default=None)


PEERS: dict[str, Peer] = {
    "torch.save over one file": TorchSaveOver(),
    "torch.save": TorchSave(),
    "torch.save, fsync, rename": TorchSaveSynced(),
    "safetensors save_file": Safetensors(),
    "DCP, highest number": Dcp(),
    "DCP, with .metadata": DcpWithMetadata(),
}


def _bits(tensor: Any) -> bytes:
    import torch

    data: bytes = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return data
