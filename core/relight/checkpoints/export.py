"""Exports the weights of a checkpoint as a file of their own, read back and compared before it gets its name."""

from __future__ import annotations

import hashlib
import json
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import xxhash

from relight.checkpoints.digest import state_digest
from relight.checkpoints.errors import ExportError
from relight.checkpoints.file_operations import SYSTEM
from relight.checkpoints.file_stream import FileStream
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.pack import PackPlan, order_for_pack, plan_pack
from relight.checkpoints.reader import CheckpointReader
from relight.checkpoints.snapshot import TensorSpec
from relight.checkpoints.store import CheckpointStore
from relight.errors import DamagedFile, UsageError
from relight.runs.durable_file import write_durably
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record_if_there
from relight.runs.records import RunRecord
from relight.version import __version__

Format = Literal["safetensors", "pth"]
EXPORTED = "exported"
_PREFIX = "model."
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Exported:
    """A finished export: the file, its SHA-256, and the card that says where the weights are from."""

    path: Path
    card: Path
    sha256: str
    bytes: int
    tensors: int


def export_weights(
    store: CheckpointStore, info: CheckpointInfo, out: Path, *, format: Format = "safetensors"
) -> Exported:
    """Write the model's weights of a checkpoint to `out`, replacing a file of that name in one step.

    The names are those of the model's own `state_dict()`. The file is read back and compared with the checkpoint
    tensor by tensor before it gets its name, so whoever sees `out` sees it whole. Beside it comes `<out>.json`.
    Raises `DamagedCheckpoint`, or `ExportError` when the file cannot be written.
    """
    if out.is_dir():
        raise UsageError(f"{out} is a folder. Name a file to export to.")
    temporary = out.parent / f".{out.name}.{secrets.token_hex(4)}.tmp"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with store.open(info) as reader:
            names = [name for name in reader.tensor_names if name.startswith(_PREFIX)]
            if not names:
                raise ExportError(f"The checkpoint at step {info.step} has no model weights to export.")
            try:
                if format == "pth":
                    _write_pth(store, info, temporary)
                else:
                    _write_safetensors(reader, names, info, temporary)
                digest = _hash_file(temporary)
                size = temporary.stat().st_size
                temporary.replace(out)
                SYSTEM.sync_folder(out.parent)
            finally:
                temporary.unlink(missing_ok=True)
            card = out.with_name(out.name + ".json")
            facts = _describe(store, info, reader, names) | {"format": format, "sha256": digest, "bytes": size}
            write_durably(card, json.dumps({"file": out.name, **facts}, indent=2, default=str).encode() + b"\n")
    except OSError as error:
        raise ExportError(f"The weights were not exported to {out}: {error.strerror or error}.") from error
    try:
        store.add_label(info, EXPORTED)
    except OSError:
        pass  # A note for the listing; a read-only run folder can be exported all the same.
    return Exported(out, card, digest, size, len(names))


def _write_safetensors(reader: CheckpointReader, names: list[str], info: CheckpointInfo, path: Path) -> None:
    specs = [reader.spec(name) for name in names]
    order = order_for_pack(specs)
    renamed = [_rename(specs[i]) for i in order]
    plan = plan_pack(renamed, metadata={"format": "pt", "relight_checkpoint": info.name.stem})
    file = SYSTEM.create(path)
    try:
        SYSTEM.reserve(file, plan.bytes)
        stream = FileStream(SYSTEM, file)
        stream.write(memoryview(plan.header))
        for i in order:
            for chunk in reader.read_chunks(names[i]):
                stream.write(chunk)
        stream.finish()
        SYSTEM.sync(file)
        SYSTEM.forget_cached(file)
    finally:
        SYSTEM.close(file)
    _compare(path, plan, [(spec, reader.digest(names[i])) for spec, i in zip(renamed, order, strict=True)])


def _rename(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name.removeprefix(_PREFIX), spec.dtype, spec.shape, spec.nbytes)


def _compare(path: Path, plan: PackPlan, expected: list[tuple[TensorSpec, str]]) -> None:
    with path.open("rb") as file:
        if file.read(len(plan.header)) != plan.header:
            raise ExportError(f"What was written to {path.parent} reads back wrong at its header. The disk is failing.")
        for (spec, digest), offset in zip(expected, plan.offsets, strict=True):
            file.seek(offset)
            hasher = xxhash.xxh3_128()
            left = spec.nbytes
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                hasher.update(chunk)
                left -= len(chunk)
            if left or hasher.hexdigest() != digest:
                raise ExportError(
                    f"What was written to {path.parent} reads back wrong at '{spec.name}'. The disk is failing."
                )


def _write_pth(store: CheckpointStore, info: CheckpointInfo, path: Path) -> None:
    """Have a child with torch write the `state_dict`, sync it, load it back and compare it; it prints one JSON line."""
    finished = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "relight.training.pth_export",
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


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _describe(
    store: CheckpointStore, info: CheckpointInfo, reader: CheckpointReader, names: list[str]
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "step": info.step,
        "epoch": info.epoch,
        "metrics": {name: value if abs(value) < float("inf") else str(value) for name, value in info.metrics.items()},
        "score": info.score,
        "checkpoint": info.name.stem,
        "state_digest": state_digest(reader.manifest),
        "tensors": len(names),
        "environment": reader.environment,
        "exported_s": time.time(),
        "relight": __version__,
    }
    try:
        record = read_record_if_there(RunLayout(store.layout.folder.parent).record, RunRecord)
    except DamagedFile:
        record = None
    if record is None:
        return facts
    about = {
        "run": record.run,
        "name": record.name,
        "task": record.task.name,
        "best_metric": record.best_metric,
        "config": record.config,
    }
    return about | facts
