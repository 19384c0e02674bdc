"""`python -m relight.training.weights.pth_export`: writes a checkpoint's model as a plain `state_dict` in a .pth file.

    python -m relight.training.weights.pth_export CHECKPOINTS_FOLDER MANIFEST_FILE_NAME OUT

Any program loads the file with `torch.load(OUT, weights_only=True)`. The last line on stdout is one of

    {"ok": true, "tensors": 12, "bytes": 345678}
    {"ok": false, "error": SENTENCE}
"""

from __future__ import annotations

import json
import math
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from relight.checkpoints.checkpoint_reader import CheckpointReader
from relight.checkpoints.module_parts import find_modules
from relight.checkpoints.snapshot_header import TensorRef
from relight.checkpoints.store import CheckpointStore
from relight.errors import CheckpointNotFound, ExportError, RelightError
from relight.runs.durable_file import sync_folder
from relight.training.state.state_tree import decode_tree
from relight.training.state.stored_tensors import StoredTensors

_PREFIX = "model."


def main(arguments: list[str]) -> int:
    """Export what the arguments name and print the result; return 0 for success, 1 for failure."""
    if len(arguments) != 3:
        sys.stderr.write(f"{__doc__}\n")
        return 2
    folder, manifest, out = arguments
    try:
        answer: dict[str, Any] = {"ok": True, **export_state_dict(Path(folder), manifest, Path(out))}
    except RelightError as error:
        answer = {"ok": False, "error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0 if answer["ok"] else 1


def export_state_dict(folder: Path, manifest: str, out: Path) -> dict[str, int]:
    """Write the weights of the checkpoint with this manifest to `out`, which appears complete or not at all.

    The file is loaded again and compared with the checkpoint before it gets its name. Raise `DamagedCheckpoint`, or
    `ExportError` when the file cannot be written.
    """
    store = CheckpointStore(folder)
    info = next((info for info in store.list().checkpoints if info.path.name == manifest), None)
    if info is None:
        raise CheckpointNotFound(f"There is no checkpoint {manifest} in {folder}.")
    with store.open(info) as reader:
        state = read_state_dict(reader)
    if not state:
        raise ExportError(f"The checkpoint at step {info.step} has no model weights to export.")
    temporary = out.parent / f".{out.name}.{secrets.token_hex(4)}.tmp"
    try:
        _write(state, temporary)
        _compare(state, _load(temporary))
        size = temporary.stat().st_size
        temporary.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return {"tensors": sum(isinstance(value, Tensor) for value in state.values()), "bytes": size}


def read_state_dict(reader: CheckpointReader) -> dict[str, Any]:
    """Return the model's `state_dict()` as it was, with plain values, and with tied parameters as one tensor.

    Every byte is compared with its digest while it is read.
    """
    read = _EachOnce(reader)
    modules = find_modules(reader.state)
    if modules is None:
        names = [name for name in reader.tensor_names if name.startswith(_PREFIX)]
        return {name.removeprefix(_PREFIX): read(name) for name in names}
    state: dict[str, Any] = {}
    for prefix, module in modules.items():
        entries = dict(module["tensors"])
        for first, *others in module.get("tied", ()):
            for other in others:
                if _is_same(reader, entries.get(first), entries.get(other)):
                    entries[other] = entries[first]
        state.update((prefix + key, decode_tree(value, read)) for key, value in entries.items())
    return state


class _EachOnce(StoredTensors):
    """Returns the same tensor when a name is requested again, as for tied parameters."""

    def __init__(self, reader: CheckpointReader) -> None:
        super().__init__(reader)
        self._tensors: dict[str, Tensor] = {}

    def __call__(self, name: str) -> Tensor:
        if name not in self._tensors:
            self._tensors[name] = super().__call__(name)
        return self._tensors[name]


def _is_same(reader: CheckpointReader, one: Any, other: Any) -> bool:
    if not (isinstance(one, TensorRef) and isinstance(other, TensorRef)):
        return False
    return reader.spec(one.name).shape == reader.spec(other.name).shape and (
        reader.list_digests(one.name) == reader.list_digests(other.name)
    )


def _write(state: dict[str, Any], path: Path) -> None:
    with path.open("xb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # PyTorch's writer hides the error of the disk behind one about positions
            cause = error.__cause__ or error.__context__
            raise cause if isinstance(cause, OSError) else ExportError(f"PyTorch cannot write it: {error}") from error
        file.flush()
        os.fsync(file.fileno())


def _load(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True, mmap=True)
    except OSError:
        raise
    except Exception as error:  # anything that PyTorch's restricted loader refuses
        raise ExportError(
            "The model's state has values that a .pth file cannot store without running code when it is loaded "
            f"({str(error).strip().splitlines()[0]}). Export it as safetensors instead."
        ) from error


def _compare(written: Any, loaded: Any, *, where: str = "the state") -> None:
    """Raise `ExportError` at the first value that differs from what was written."""
    same = type(written) is type(loaded)
    if same and isinstance(written, Tensor):
        same = (written.dtype, written.shape) == (loaded.dtype, loaded.shape)
        same = same and torch.equal(_as_bytes(written), _as_bytes(loaded))
    elif same and isinstance(written, dict):
        same = list(written) == list(loaded)
        for key in written if same else ():
            _compare(written[key], loaded[key], where=f"'{key}'")
    elif same and isinstance(written, (list, tuple)):
        same = len(written) == len(loaded)
        for place, value in enumerate(written if same else ()):
            _compare(value, loaded[place], where=f"{where}[{place}]")
    elif same:
        both_nan = isinstance(written, float) and math.isnan(written) and math.isnan(loaded)
        same = both_nan or bool(written == loaded)
    if not same:
        raise ExportError(f"The exported file differs from the checkpoint at {where}. The disk may be failing.")


def _as_bytes(tensor: Tensor) -> Tensor:
    """View a contiguous tensor as bytes, so that NaN equals NaN and types that NumPy lacks can be compared."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
