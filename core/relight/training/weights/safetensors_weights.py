"""Reads a foreign safetensors file: tensors are mapped from the file, not copied."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from relight.checkpoints.pack import MAX_HEADER_BYTES
from relight.training.weights.weight_errors import WeightsRefused


def is_safetensors(path: Path) -> bool:
    """Tell whether the file starts like safetensors: a length, then a JSON object."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name. Raise `WeightsRefused` when it is not complete."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or length == 0:
        raise WeightsRefused(f"{path.name} is not a safetensors file: it ends before its header.")
    if length > MAX_HEADER_BYTES:
        raise WeightsRefused(f"{path.name} claims a header of {length:,} bytes; safetensors has at most 100 MB.")
    if length > size - 8:
        raise WeightsRefused(f"{path.name} is truncated: its header has {length:,} bytes, the whole file {size:,}.")
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is not a dictionary
    except SafetensorError as error:
        raise WeightsRefused(f"{path.name} is not a complete safetensors file: {_clean(error)}.") from error
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:  # a type that PyTorch lacks
        raise WeightsRefused(f"{path.name} cannot be read by PyTorch: {_clean(error)}.") from error


def _clean(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return (said[0] if said else type(error).__name__).removeprefix("Error while deserializing header: ").rstrip(".")
