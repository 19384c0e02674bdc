"""Reads and writes the JSON records of a run folder; every kind of damage becomes one error, `DamagedFile`."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from relight.errors import DamagedFile
from relight.runs.durable_file import write_durably
from relight.runs.json_digest import add_digest, has_wrong_digest
from relight.runs.records import Record

R = TypeVar("R", bound=Record)

_CHUNK_BYTES = 64 << 10


class _Version(msgspec.Struct):
    version: int = 1


def read_record(path: Path, kind: type[R]) -> R:
    """Return the record in `path`.

    Raises `FileNotFoundError` when it is missing, and `DamagedFile` when it is empty, truncated, of another kind,
    written by a later version of Relight, or unreadable.
    """
    try:
        data = _read_bytes(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(*error.args) from error
    except OSError as error:
        raise DamagedFile(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error
    return decode_record(data, kind, path=path)


def read_record_if_there(path: Path, kind: type[R]) -> R | None:
    """Return the record in `path`, or None when it is missing. Raises `DamagedFile` as `read_record` does."""
    try:
        return read_record(path, kind)
    except FileNotFoundError:
        return None


def read_record_or_none(path: Path, kind: type[R]) -> R | None:
    """Return the record in `path`, or None when it is missing or damaged: for a record that is useful, not needed."""
    try:
        return read_record(path, kind)
    except (FileNotFoundError, DamagedFile):
        return None


def write_record(path: Path, record: Record, *, replace: bool = True, durable: bool = True) -> None:
    """Write `record` atomically as indented JSON. With `replace=False`, an existing file raises `FileExistsError`."""
    write_durably(path, encode_record(record), replace=replace, durable=durable)


def encode_record(record: Record) -> bytes:
    """Return the bytes of a record file: indented JSON that ends with its digest, and a newline."""
    return add_digest(msgspec.json.format(msgspec.json.encode(record), indent=2))


def decode_record(data: bytes, kind: type[R], *, path: Path) -> R:
    """Return the record in `data`; `path` only names the file in the `DamagedFile` that damage raises."""
    try:
        record: R = _decoder(kind).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _refuse_later_version(data, kind, path)
        problem = "it is empty" if not data.strip(b"\0 \r\n\t") else str(error).strip().rstrip(".")
        raise DamagedFile(
            f"{str(path)!r} is damaged: {problem}. Restore a good copy, or move the file away."
        ) from error
    if record.version > _known_version(kind):
        raise _later_version(path, record.version)
    if has_wrong_digest(data):
        raise DamagedFile(
            f"{str(path)!r} is damaged: its content does not match its digest. Restore a good copy, or move the file "
            "away. If you edited it by hand, delete its last line, `digest`, and the comma before it."
        )
    return record


def _read_bytes(path: Path) -> bytes:
    """Read as `Path.read_bytes`, in half the system calls: a list of 200 runs reads more than a thousand records."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        chunks = [os.read(descriptor, _CHUNK_BYTES)]
        while len(chunks[-1]) == _CHUNK_BYTES:
            chunks.append(os.read(descriptor, _CHUNK_BYTES))
        return b"".join(chunks)
    finally:
        os.close(descriptor)


@functools.cache
def _decoder(kind: type[Record]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


@functools.cache
def _known_version(kind: type[Record]) -> int:
    return next(int(field.default) for field in msgspec.structs.fields(kind) if field.name == "version")


def _refuse_later_version(data: bytes, kind: type[Record], path: Path) -> None:
    try:
        version = msgspec.json.decode(data, type=_Version).version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if version > _known_version(kind):
        raise _later_version(path, version)


def _later_version(path: Path, version: int) -> DamagedFile:
    return DamagedFile(
        f"{str(path)!r} was written by a later version of Relight (format version {version}). "
        "Update Relight to read it."
    )
