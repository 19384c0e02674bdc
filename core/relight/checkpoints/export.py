"""Exports the weights of a checkpoint to a file, which is read back and compared before it gets its name."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from relight.checkpoints.checkpoint_reader import CheckpointReader
from relight.checkpoints.file_operations import FileOperations
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.module_parts import find_modules
from relight.checkpoints.snapshot_header import TensorRef, TensorSpec
from relight.checkpoints.store import CheckpointStore
from relight.checkpoints.weights_file import new_file, publish, stream_weights
from relight.errors import DamagedFile, ExportError
from relight.runs.durable_file import write_durably
from relight.runs.json_digest import add_digest
from relight.runs.layout import RunLayout
from relight.runs.run_record import read_run_record
from relight.version import __version__

Format = Literal["safetensors", "pth"]
FORMATS: tuple[Format, ...] = ("safetensors", "pth")
EXPORTED = "exported"
BEST_MODEL = "best_model"
"""Stem of the file that always has the best weights, for people and programs that need a fixed path."""
_PREFIX = "model."


@dataclass(frozen=True)
class Exported:
    """A finished export: the file, its SHA-256, and the card that says where the weights come from."""

    path: Path
    card: Path
    sha256: str
    bytes: int
    tensors: int


def export_weights(
    store: CheckpointStore, info: CheckpointInfo, out: Path, *, format: Format = "safetensors"
) -> Exported:
    """Write the model's weights of a checkpoint to `out`, in place of a file of that name, in one step.

    The names are those of the model's own `state_dict()`. The file is read back and compared with the checkpoint tensor
    by tensor before it gets its name, so `out` is always complete. Its card is written next to it, as `<out>.json`.
    Raises `DamagedCheckpoint`, or `ExportError` if the file cannot be written.
    """
    try:
        # The checkpoint first: an export must not make folders in the place of a run that has gone.
        with store.open(info) as reader, new_file(out, store.operations) as temporary:
            names, left_out = _list_weights(reader)
            if not names:
                raise ExportError(f"The checkpoint at step {info.step} has no model weights to export.")
            if format == "pth":
                _write_pth(store, info, temporary)
            else:
                _write_safetensors(reader, names, info, temporary, store.operations)
            written = publish(temporary, out, store.operations)
            facts: dict[str, Any] = {"format": format, "sha256": written.sha256, "bytes": written.bytes}
            if left_out and format == "safetensors":
                facts["left_out"] = left_out
            facts = _describe(store, info, reader, names) | facts
        card = out.with_name(out.name + ".json")
        text = json.dumps({"file": out.name, **facts}, indent=2, default=str)
        write_durably(card, add_digest(text.encode()))
    except OSError as error:
        raise ExportError(f"The weights were not exported to {out}: {error.strerror or error}.") from error
    try:
        store.add_label(info, EXPORTED)
    except OSError:
        pass  # It is only a note for listings. You can export from a read-only run folder too.
    return Exported(out, card, written.sha256, written.bytes, len(names))


def export_best(
    store: CheckpointStore, info: CheckpointInfo, folder: Path, *, format: Format = "safetensors"
) -> Sequence[Exported]:
    """Update `folder`/best_model.FORMAT. The earlier file is replaced in one step, so the path always exists.

    If there is a best_model of the other format, it is updated too, so that both are of the same checkpoint. Returns
    the exports, the one of `format` first.
    """
    paths = {each: folder / f"{BEST_MODEL}.{each}" for each in FORMATS}
    others = (each for each in FORMATS if each != format and store.operations.exists(paths[each]))
    return [export_weights(store, info, paths[each], format=each) for each in (format, *others)]


def export_to_run(
    layout: RunLayout, store: CheckpointStore, info: CheckpointInfo, *, best: bool, format: Format
) -> Sequence[Exported]:
    """Export to the run's own folder: the best weights as `export_best` does, others to RUN-stepSTEP.FORMAT."""
    if best:
        return export_best(store, info, layout.exports, format=format)
    return [export_weights(store, info, layout.exports / f"{layout.run_id}-step{info.step}.{format}", format=format)]


def _list_weights(reader: CheckpointReader) -> tuple[dict[str, str], list[str]]:
    """Return the checkpoint's tensors by name in the model's `state_dict()`, and the names there without a tensor.

    If the state does not have the structure that `relight.training` makes, these are all tensors called "model.…".
    """
    modules = find_modules(reader.state)
    if modules is not None:
        entries = {prefix + key: value for prefix, part in modules.items() for key, value in part["tensors"].items()}
        tensors = {key: value.name for key, value in entries.items() if isinstance(value, TensorRef)}
        return tensors, [key for key in entries if key not in tensors]
    names = [name for name in reader.tensor_names if name.startswith(_PREFIX)]
    return {name.removeprefix(_PREFIX): name for name in names}, []


def _write_safetensors(
    reader: CheckpointReader, names: Mapping[str, str], info: CheckpointInfo, path: Path, operations: FileOperations
) -> None:
    specs = {key: reader.spec(name) for key, name in names.items()}
    stream_weights(
        path,
        [TensorSpec(key, spec.dtype, spec.shape, spec.nbytes) for key, spec in specs.items()],
        read=lambda key: reader.read_chunks(names[key]),
        metadata={"format": "pt", "relight_checkpoint": info.name.stem},
        digests={key: reader.digest(name) for key, name in names.items() if not reader.is_split(name)},
        operations=operations,
    )


def _write_pth(store: CheckpointStore, info: CheckpointInfo, path: Path) -> None:
    """Let a child process with torch write the `state_dict`, sync it, load it back and compare it."""
    finished = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "relight.training.weights.pth_export",
            str(store.layout.folder),
            info.path.name,
            str(path),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode == 0:
        return
    lines = finished.stdout.strip().splitlines()
    try:
        said = msgspec.json.decode(lines[-1] if lines else "", type=dict[str, Any])
    except msgspec.MsgspecError:
        said = {}
    why = said.get("error") or finished.stderr.strip() or f"its process ended with code {finished.returncode}"
    raise ExportError(f"The weights were not exported as .pth: {why}")


def _describe(
    store: CheckpointStore, info: CheckpointInfo, reader: CheckpointReader, names: Mapping[str, str]
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "step": info.step,
        "epoch": info.epoch,
        "metrics": {name: value if abs(value) < float("inf") else str(value) for name, value in info.metrics.items()},
        "score": info.score,
        "checkpoint": info.name.stem,
        "state_digest": reader.state_digest(),
        "tensors": len(names),
        "environment": reader.environment,
        "exported_s": time.time(),
        "relight": __version__,
    }
    try:
        record = read_run_record(RunLayout(store.layout.folder.parent))
    except DamagedFile:
        return facts
    about: dict[str, Any] = {
        "run": record.run,
        "name": record.name,
        "task": record.task.name,
        "best_metric": record.best_metric,
        "config": record.config,
    }
    if record.imported_from is not None:
        about["imported_from"] = msgspec.to_builtins(record.imported_from)
    return about | facts
