"""`python -m relight.training.weights.weight_import`: a first checkpoint, or a safetensors file, of foreign weights.

One JSON object on stdin says what to do:

    {"source": PATH, "part": NAME or null, "checkpoints": FOLDER, "prepared": PreparedTask}    a run's first checkpoint
    {"source": PATH, "part": NAME or null, "out": PATH}                                    a safetensors file

The last line on stdout is one of

    {"ok": true, "imported_from": {…}, "tensors": 12, "parameters": 3456, "notes": [SENTENCE], …}
    {"ok": false, "error": SENTENCE, "traceback": WHOLE or null}

What the task's own code prints goes to stderr. No code from the source is ever run.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import torch
from torch import Tensor, nn

from relight.checkpoints.snapshot_header import SnapshotHeader
from relight.checkpoints.store import CheckpointStore
from relight.checkpoints.weights_file import write_weights
from relight.errors import DamagedCheckpoint, RelightError, TaskError
from relight.runs.records import ImportedFrom, PreparedTask
from relight.tasks.parsing import parse_config
from relight.training.best_metric import BestMetric
from relight.training.device import choose_device
from relight.training.environment import describe_environment, prepare_determinism
from relight.training.state.snapshot import copy_tensors, describe_tensors
from relight.training.state.training_state import MODEL, CapturedState, TrainingState
from relight.training.task_loading import load_task_class
from relight.training.trainer import Trainer
from relight.training.training_session import TrainingSession
from relight.training.weights.found_weights import FoundWeights, find_weights
from relight.training.weights.weight_fit import WeightFit, load_into, strip_wrappers
from relight.training.weights.weight_source import WeightSource, open_weights

_ENVIRONMENT = ("relight", "torch", "python", "cuda", "device", "gpu")
_CHUNK_BYTES = 8 << 20


class ImportOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The parent process's request: a first checkpoint in `checkpoints` for a task, or the file `out`."""

    source: str
    part: str | None = None
    out: str | None = None
    checkpoints: str | None = None
    prepared: PreparedTask | None = None


def main() -> int:
    """Read the request from stdin and answer on stdout; return 0 for success, 1 for failure."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=ImportOrder)
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)  # a print in the task's file must not mix with the answer
        result = _answer(order)
        answer.write(msgspec.json.encode(result) + b"\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if result["ok"] else 1)  # whatever threads the task's file started end here


def import_checkpoint(source: Path, folder: Path, prepared: PreparedTask, *, part: str | None = None) -> dict[str, Any]:
    """Commit the task at step 0 with these weights to the store in `folder`, as the first checkpoint of a run.

    Everything except the weights is as in a fresh start, so a resume continues from this checkpoint as from any other.
    Every byte is read back. Raise `WeightsRefused` when the weights do not fit the task's model.
    """
    opened = open_weights(source)
    found = find_weights(opened, part=part)
    start = _Start()
    device = _build(prepared, start)
    model = start.models[MODEL]
    fit = load_into(model, found.tensors, file=opened.path.name, task=prepared.reference.name)
    imported = _describe_source(opened, found)
    best = BestMetric(prepared.objective)
    start.state.record_edge({"step": 0, "evaluated_step": None, "best": best.state})
    captured = start.state.capture(at_edge=True)
    assert captured is not None
    path = prepared.reference.path
    code_folder = Path(path).parent if path else None
    environment = describe_environment(device, code_folder=code_folder)
    header = SnapshotHeader(
        step=0,
        epoch=0,
        reason="import",
        time_s=time.time(),
        tensors=describe_tensors(captured.tensors),
        state=captured.tree,
        environment={
            **{key: environment[key] for key in _ENVIRONMENT},
            "work_s": 0.0,
            "imported_from": msgspec.to_builtins(imported),
        },
        attempt=0,
    )
    store = CheckpointStore(folder)
    info = store.commit(header, _view_tensors(captured))
    damaged = store.check(info, from_disk=True)
    if damaged:
        raise DamagedCheckpoint(f"The new checkpoint reads back wrong: {damaged[0].reason} The disk may be failing.")
    store.mark_verified(info)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "imported_from": imported,
        "tensors": len(found.tensors) - len(fit.outside),
        "parameters": parameters,
        "digest": store.digest(info),
        "notes": _word_fit(fit, found),
    }


def convert(source: Path, out: Path, *, part: str | None = None) -> dict[str, Any]:
    """Write the weights in `source` to the safetensors file `out`, which appears complete, read back and compared.

    Wrapper prefixes are removed from names. Raise `WeightsRefused`, or `ExportError` if the file cannot be written.
    """
    opened = open_weights(source)
    found = find_weights(opened, part=part)
    bare = {name: found.tensors[given] for given, name in strip_wrappers(found.tensors).items()}
    imported = _describe_source(opened, found)
    written = write_weights(
        out,
        describe_tensors(bare),
        read=lambda name: _read_chunks(bare[name]),
        metadata={"format": "pt", "imported_from": imported.name, "imported_sha256": imported.sha256},
    )
    return {
        "imported_from": imported,
        "tensors": len(bare),
        "parameters": sum(tensor.numel() for tensor in bare.values()),
        "sha256": written.sha256,
        "bytes": written.bytes,
        "notes": [f"'{found.prefix}' was removed from all names."] if found.prefix else [],
    }


class _Start:
    """Stands in for the trainer's session while nothing is trained: it only collects what is tracked."""

    def __init__(self) -> None:
        self.state = TrainingState()
        self.models: dict[str, nn.Module] = {}

    def track(self, name: str, tracked: Any) -> None:
        """Make `tracked` part of the training state."""
        self.state.track(name, tracked)
        if isinstance(tracked, nn.Module):
            self.models[name] = tracked

    def read_position(self) -> tuple[int, dict[str, Any]]:
        """Return the beginning."""
        return 0, {}


def _build(prepared: PreparedTask, start: _Start) -> torch.device:
    """Build model, data, optimizer and schedule as an attempt of the run would, on its device."""
    task_class = load_task_class(prepared.reference)
    config = parse_config(task_class.Config, prepared.config)
    device = choose_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    prepare_determinism(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    Trainer(task_class(config), cast("TrainingSession", start), device=device)
    return device


def _view_tensors(captured: CapturedState) -> list[memoryview]:
    """Return the bytes of each tensor: in place if it is row-major CPU memory, else a copy."""
    views = []
    for tensor in captured.tensors.values():
        if tensor.device.type == "cpu" and tensor.is_contiguous() and not (tensor.is_conj() or tensor.is_neg()):
            views.append(_as_bytes(tensor))
        else:
            copy = memoryview(bytearray(tensor.nbytes))
            copy_tensors({"": tensor}, [copy])
            views.append(copy)
    return views


def _as_bytes(tensor: Tensor) -> memoryview:
    if not tensor.nbytes:
        return memoryview(b"")
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def _read_chunks(tensor: Tensor) -> Iterator[memoryview]:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    data = _as_bytes(plain)
    for begin in range(0, len(data), _CHUNK_BYTES):
        yield data[begin : begin + _CHUNK_BYTES]


def _describe_source(opened: WeightSource, found: FoundWeights) -> ImportedFrom:
    return ImportedFrom(
        name=opened.path.name,
        path=str(opened.path),
        kind=found.kind,
        sha256=opened.sha256,
        files=opened.files,
        part=found.part,
        not_taken=found.not_taken,
    )


def _word_fit(fit: WeightFit, found: FoundWeights) -> list[str]:
    """Return sentences about everything that was done to the weights on their way into the model."""
    notes = []
    prefix = found.prefix + fit.prefix
    if prefix:
        notes.append(f"'{prefix}' was removed from the file's names.")
    if fit.added:
        notes.append(f"'{fit.added}' was put before the file's names.")
    notes += [f"Numbers were converted from {what}." for what in fit.converted]
    if fit.tied:
        notes.append(f"The model ties {', '.join(fit.tied)} to a tensor that the file has under another name.")
    if fit.outside:
        names = ", ".join(fit.outside[:8]) + (f" and {len(fit.outside) - 8} more" if len(fit.outside) > 8 else "")
        notes.append(f"Not part of the model, so not imported: {names}.")
    return notes


def _answer(order: ImportOrder) -> dict[str, Any]:
    source = Path(order.source)
    try:
        if order.out is not None:
            return {"ok": True, **convert(source, Path(order.out), part=order.part)}
        assert order.checkpoints is not None and order.prepared is not None
        return {"ok": True, **import_checkpoint(source, Path(order.checkpoints), order.prepared, part=order.part)}
    except RelightError as error:
        return {
            "ok": False,
            "error": str(error),
            "traceback": error.traceback if isinstance(error, TaskError) else None,
        }
    except MemoryError:
        return {"ok": False, "error": f"There is not enough memory to import {source.name}.", "traceback": None}
    except Exception as error:  # the task's own code runs here too
        sentence = f"{source.name} was not imported: {type(error).__name__}: {error}"
        return {"ok": False, "error": sentence, "traceback": traceback.format_exc()}


if __name__ == "__main__":
    sys.exit(main())
