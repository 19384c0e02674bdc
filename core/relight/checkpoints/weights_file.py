"""Writes a safetensors file of weights: streamed, read back and compared before it gets its name."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash

from relight.checkpoints.dtypes import stored_form
from relight.checkpoints.file_operations import SYSTEM
from relight.checkpoints.file_stream import FileStream
from relight.checkpoints.pack import PackPlan, order_for_pack, plan_pack
from relight.checkpoints.snapshot_header import TensorSpec
from relight.errors import ExportError, UsageError

_CHUNK_BYTES = 8 << 20

ReadChunks = Callable[[str], Iterable[memoryview]]
"""From a tensor's name to its bytes, in pieces."""


@dataclass(frozen=True)
class WrittenFile:
    """A file that is there, whole."""

    path: Path
    sha256: str
    bytes: int


def write_weights(
    out: Path, tensors: Sequence[TensorSpec], *, read: ReadChunks, metadata: Mapping[str, str]
) -> WrittenFile:
    """Write `tensors` to `out`, replacing a file of that name in one step.

    What was written is read back from the disk and compared tensor by tensor before it gets its name. Raises
    `ExportError` when it cannot be written; a file that was there before is then untouched.
    """
    try:
        with new_file(out) as temporary:
            stream_weights(temporary, tensors, read=read, metadata=metadata)
            return publish(temporary, out)
    except OSError as error:
        raise ExportError(f"{out} was not written: {error.strerror or error}.") from error


@contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """The temporary path of a file that is being made for `out`; it is gone at the end unless it got its name."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder. Name a file to export to.")
    temporary = out.parent / f".{out.name}.{secrets.token_hex(4)}.tmp"
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, out: Path) -> WrittenFile:
    """Give a whole, synced file its name in one step, durably."""
    with temporary.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = temporary.stat().st_size
    temporary.replace(out)
    SYSTEM.sync_folder(out.parent)
    return WrittenFile(out, digest, size)


def stream_weights(
    path: Path,
    tensors: Sequence[TensorSpec],
    *,
    read: ReadChunks,
    metadata: Mapping[str, str],
    digests: Mapping[str, str] | None = None,
) -> None:
    """Write a new, synced safetensors file, and compare what the disk gives back with what it was given.

    `digests` (xxh3-128 by name) are what the tensors must have; without them what `read` gives counts. `OSError` when
    it cannot be written, `ExportError` when it reads back otherwise.
    """
    _check_types(tensors)
    ordered = [tensors[index] for index in order_for_pack(tensors)]
    plan = plan_pack(ordered, metadata=metadata)
    expected: list[str] = []
    file = SYSTEM.create(path)
    try:
        SYSTEM.reserve(file, plan.bytes)
        stream = FileStream(SYSTEM, file)
        stream.write(memoryview(plan.header))
        for tensor in ordered:
            hasher = xxhash.xxh3_128()
            for chunk in read(tensor.name):
                stream.write(chunk)
                if digests is None:
                    hasher.update(chunk)
            expected.append(hasher.hexdigest() if digests is None else digests[tensor.name])
        stream.finish()
        SYSTEM.sync(file)
        SYSTEM.forget_cached(file)
    finally:
        SYSTEM.close(file)
    _compare(path, plan, ordered, expected)


def _check_types(tensors: Sequence[TensorSpec]) -> None:
    for tensor in tensors:
        if stored_form(tensor.dtype, tensor.shape) != (tensor.dtype, tensor.shape):
            raise ExportError(
                f"'{tensor.name}' is of the type {tensor.dtype}, which safetensors does not know: other programs would "
                "read something else. Export as pth."
            )


def _compare(path: Path, plan: PackPlan, tensors: Sequence[TensorSpec], digests: Sequence[str]) -> None:
    with path.open("rb") as file:
        if file.read(len(plan.header)) != plan.header:
            raise ExportError(f"What was written to {path.parent} reads back wrong at its header. The disk is failing.")
        for tensor, digest, offset in zip(tensors, digests, plan.offsets, strict=True):
            file.seek(offset)
            hasher = xxhash.xxh3_128()
            left = tensor.nbytes
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                hasher.update(chunk)
                left -= len(chunk)
            if left or hasher.hexdigest() != digest:
                raise ExportError(
                    f"What was written to {path.parent} reads back wrong at '{tensor.name}'. The disk is failing."
                )
