"""Writes a safetensors file of weights, and reads it back and compares it before it gets its name."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import xxhash

from relight.checkpoints.dtypes import stored_form
from relight.checkpoints.file_operations import SYSTEM, FileOperations
from relight.checkpoints.file_stream import FileStream
from relight.checkpoints.pack import PackPlan, order_for_pack, plan_pack
from relight.checkpoints.snapshot_header import TensorSpec
from relight.errors import ExportError, UsageError

_CHUNK_BYTES = 8 << 20

ReadChunks = Callable[[str], Iterable[memoryview]]
"""From a tensor's name to its bytes, in pieces."""


@dataclass(frozen=True)
class WrittenFile:
    """A file that is complete and durable."""

    path: Path
    sha256: str
    bytes: int


def write_weights(
    out: Path, tensors: Sequence[TensorSpec], *, read: ReadChunks, metadata: Mapping[str, str]
) -> WrittenFile:
    """Write `tensors` to `out`, in place of a file of that name, in one step.

    The file is read back from the disk and compared tensor by tensor before it gets its name. Raises `ExportError` if
    it cannot be written; an earlier file of that name is then unchanged.
    """
    try:
        with new_file(out, SYSTEM) as temporary:
            stream_weights(temporary, tensors, read=read, metadata=metadata, operations=SYSTEM)
            return publish(temporary, out, SYSTEM)
    except OSError as error:
        raise ExportError(f"{out} was not written: {error.strerror or error}.") from error


@contextmanager
def new_file(out: Path, operations: FileOperations) -> Iterator[Path]:
    """Give the temporary path of a file that will be called `out`. It is deleted at the end unless it got that name."""
    if operations.is_folder(out):
        raise UsageError(f"{out} is a folder. Name a file to export to.")
    temporary = out.parent / f".{out.name}.{secrets.token_hex(4)}.tmp"
    operations.make_folders(out.parent)
    try:
        yield temporary
    finally:
        try:
            operations.remove(temporary)
        except FileNotFoundError:
            pass


def publish(temporary: Path, out: Path, operations: FileOperations) -> WrittenFile:
    """Give a complete, synced file its name in one step, durably."""
    hasher = hashlib.sha256()
    scratch = memoryview(bytearray(_CHUNK_BYTES))
    with _opened(temporary, operations) as file:
        size = operations.size(file)
        for offset in range(0, size, _CHUNK_BYTES):
            hasher.update(scratch[: _read(file, scratch, offset, operations)])
    operations.replace(temporary, out)
    operations.sync_folder(out.parent)
    return WrittenFile(out, hasher.hexdigest(), size)


def stream_weights(
    path: Path,
    tensors: Sequence[TensorSpec],
    *,
    read: ReadChunks,
    metadata: Mapping[str, str],
    operations: FileOperations,
    digests: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write a new, synced safetensors file, and compare what the disk gives back with what was written.

    `digests` (xxh3-128 by name) are those that the tensors must have; without one the bytes that `read` gives count.
    Raises `OSError` if the file cannot be written, `ExportError` if it reads back differently.
    """
    _check_types(tensors)
    ordered = [tensors[index] for index in order_for_pack(tensors)]
    plan = plan_pack(ordered, metadata=metadata)
    expected: list[str] = []
    file = operations.create(path)
    try:
        operations.reserve(file, plan.bytes)
        stream = FileStream(operations, file)
        stream.write(memoryview(plan.header))
        for tensor in ordered:
            hasher = xxhash.xxh3_128()
            known = digests.get(tensor.name)
            for chunk in read(tensor.name):
                stream.write(chunk)
                if known is None:
                    hasher.update(chunk)
            expected.append(hasher.hexdigest() if known is None else known)
        stream.finish()
        operations.sync(file)
        operations.forget_cached(file)
    finally:
        operations.close(file)
    _compare(path, plan, ordered, expected, operations)


def _check_types(tensors: Sequence[TensorSpec]) -> None:
    for tensor in tensors:
        if stored_form(tensor.dtype, tensor.shape) != (tensor.dtype, tensor.shape):
            raise ExportError(
                f"'{tensor.name}' has the type {tensor.dtype}, which safetensors does not know: other programs would "
                "read something else. Export as pth."
            )


def _compare(
    path: Path, plan: PackPlan, tensors: Sequence[TensorSpec], digests: Sequence[str], operations: FileOperations
) -> None:
    scratch = memoryview(bytearray(max(_CHUNK_BYTES, len(plan.header))))
    with _opened(path, operations) as file:
        header = scratch[: len(plan.header)]
        if _read(file, header, 0, operations) != len(header) or header != plan.header:
            raise ExportError(f"The file written to {path.parent} reads back wrong at its header. Check the disk.")
        for tensor, digest, offset in zip(tensors, digests, plan.offsets, strict=True):
            hasher = xxhash.xxh3_128()
            for begin in range(0, tensor.nbytes, _CHUNK_BYTES):
                part = scratch[: min(_CHUNK_BYTES, tensor.nbytes - begin)]
                hasher.update(part[: _read(file, part, offset + begin, operations)])
            if hasher.hexdigest() != digest:
                raise ExportError(
                    f"The file written to {path.parent} reads back wrong at '{tensor.name}'. Check the disk."
                )


@contextmanager
def _opened(path: Path, operations: FileOperations) -> Iterator[int]:
    file = operations.open(path)
    try:
        yield file
    finally:
        operations.close(file)


def _read(file: int, buffer: memoryview, offset: int, operations: FileOperations) -> int:
    """Fill `buffer` as far as the file goes, and return how many bytes that were."""
    done = 0
    while done < len(buffer) and (count := operations.read_into(file, buffer[done:], offset + done)):
        done += count
    return done
