"""Reads and writes the JSON records of a run folder; every kind of damage becomes one error, `DamagedFile`."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from relight.errors import ConfigError, DamagedFile
from relight.regular_file import read_regular
from relight.runs.durable_file import write_durably
from relight.runs.json_digest import add_digest, has_wrong_digest
from relight.runs.records import Record

R = TypeVar("R", bound=Record)

MOST_NESTED = 200
"""Deepest nesting of a record. JSON of any depth would overflow the stack of code that walks it."""
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')


class LaterVersion(DamagedFile):
    """A later version of Relight wrote the record, so this one cannot read it, and must not replace it."""


class _Version(msgspec.Struct):
    version: int = 1


def read_record(path: Path, kind: type[R]) -> R:
    """Return the record in `path`.

    Raises `FileNotFoundError` when it is missing, and `DamagedFile` when it is empty, truncated, of another kind,
    written by a later version of Relight, or unreadable.
    """
    return decode_record(_read_bytes(path), kind, path=path)


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`, which is not a record. Raises as `read_record` does."""
    found: dict[str, Any] = _decode(_read_bytes(path), dict[str, Any], path)
    return found


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
    """Return the bytes of a record file: indented JSON that ends with its digest, and a newline.

    Raises `ConfigError` for values that are nested so deeply that no reader would take the file.
    """
    try:
        encoded = msgspec.json.encode(record)
        flat = not is_nested_too_deeply(encoded)
    except RecursionError:
        flat = False
    if not flat:
        raise ConfigError(f"A config may be nested at most {MOST_NESTED} levels deep. Make it flatter.")
    return add_digest(msgspec.json.format(encoded, indent=2))


def decode_record(data: bytes, kind: type[R], *, path: Path) -> R:
    """Return the record in `data`; `path` only names the file in the `DamagedFile` that damage raises."""
    try:
        record: R = _decode(data, kind, path)
    except DamagedFile:
        _refuse_later_version(data, kind, path)
        raise
    if record.version > _known_version(kind):
        raise _later_version(path, record.version)
    return record


def _read_bytes(path: Path) -> bytes:
    try:
        return read_regular(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(*error.args) from error
    except OSError as error:
        raise DamagedFile(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error


def _decode(data: bytes, kind: Any, path: Path) -> Any:
    try:
        if is_nested_too_deeply(data):
            raise DamagedFile(
                f"{str(path)!r} is damaged: it is nested more than {MOST_NESTED} levels deep. Restore a good copy, or "
                "move the file away."
            )
        found = _decoder(kind).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = "it is empty" if not data.strip(b"\0 \r\n\t") else str(error).strip().rstrip(".")
        raise DamagedFile(
            f"{str(path)!r} is damaged: {problem}. Restore a good copy, or move the file away."
        ) from error
    if has_wrong_digest(data):
        raise DamagedFile(
            f"{str(path)!r} is damaged: its content does not match its digest. Restore a good copy, or move the file "
            "away. If you edited it by hand, delete its last line, `digest`, and the comma before it."
        )
    return found


def is_nested_too_deeply(data: bytes) -> bool:
    """Return whether lists and objects in JSON are nested more than `MOST_NESTED` levels deep."""
    if data.count(b"[") + data.count(b"{") <= MOST_NESTED:
        return False
    depth = 0
    for match in _BRACKETS.finditer(data):
        first = match[0][:1]
        depth += 1 if first in b"[{" else -1 if first in b"]}" else 0
        if depth > MOST_NESTED:
            return True
    return False


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


@functools.cache
def _known_version(kind: type[Record]) -> int:
    return next(int(field.default) for field in msgspec.structs.fields(kind) if field.name == "version")


def _refuse_later_version(data: bytes, kind: type[Record], path: Path) -> None:
    if is_nested_too_deeply(data):
        return
    try:
        version = msgspec.json.decode(data, type=_Version).version
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    if version > _known_version(kind):
        raise _later_version(path, version)


def _later_version(path: Path, version: int) -> LaterVersion:
    return LaterVersion(
        f"{str(path)!r} was written by a later version of Relight (format version {version}). "
        "Update Relight to read it."
    )
