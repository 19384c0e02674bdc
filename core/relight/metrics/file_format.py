"""The bytes of a metric file: one header line, then records of one fixed width.

    {"format":"relight-metrics","version":1,"stream":"train","attempt":1,"columns":["loss","lr"],"record_bytes":32} \\n
    int64 step | float64 time_s | float64 loss | float64 lr
    int64 step | ...

The header is JSON, padded with spaces so that it ends with a newline at a multiple of 64 bytes. Everything after it is
little-endian. Bytes after the last complete record were being written when the process ended; readers ignore them.
Files are named `<attempt>-<stream>.rlm`; when the set of names changes within an attempt, the second set goes to
`<attempt>-<stream>.2.rlm`. The header is what counts; the file name only gives the order.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

SUFFIX = ".rlm"
VERSION = 1
HEADER_ALIGNMENT_BYTES = 64
HEADER_LIMIT_BYTES = 1 << 20
_FORMAT = "relight-metrics"
_FILE_NAME = re.compile(r"^(?P<attempt>\d{4,})-(?P<stream>[^.]+)(?:\.(?P<part>\d+))?\.rlm$")
_PLAIN = re.compile(r"[A-Za-z0-9_-]")
_STREAM_CHARACTERS = 80
_LAST_ATTEMPT = 2**63 - 1


class MetricFormatError(ValueError):
    """The bytes are not those of a metric file. The message says why, without the path."""


@dataclass(frozen=True)
class MetricHeader:
    """The header of a metric file. `columns` are names without their stream."""

    stream: str
    attempt: int
    columns: tuple[str, ...]

    @property
    def record_bytes(self) -> int:
        """Size of one record."""
        return 16 + 8 * len(self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Full names: "train/loss"."""
        return tuple(f"{self.stream}/{column}" for column in self.columns)

    def record_struct(self) -> struct.Struct:
        """Return the struct that packs one record: step, time, values."""
        return struct.Struct(f"<qd{len(self.columns)}d")


@dataclass(frozen=True, order=True)
class MetricFileName:
    """A parsed metric file name. `stream` is spelled as in the name, which may be escaped."""

    attempt: int
    stream: str
    part: int


class _HeaderLine(msgspec.Struct, kw_only=True):
    format: str
    version: int
    stream: str
    attempt: int
    columns: tuple[str, ...]
    record_bytes: int


def encode_header(header: MetricHeader) -> bytes:
    """Return the padded header line."""
    line = msgspec.json.encode(
        _HeaderLine(
            format=_FORMAT,
            version=VERSION,
            stream=header.stream,
            attempt=header.attempt,
            columns=header.columns,
            record_bytes=header.record_bytes,
        )
    )
    padding = -(len(line) + 1) % HEADER_ALIGNMENT_BYTES
    return line + b" " * padding + b"\n"


def decode_header(start: bytes) -> tuple[MetricHeader, int]:
    """Return the header at the start of a file, and the offset of the records. Raises `MetricFormatError`."""
    end = start.find(b"\n")
    if end < 0:
        raise MetricFormatError("it is empty" if not start else "its header is cut off")
    try:
        line = msgspec.json.decode(start[:end], type=_HeaderLine)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MetricFormatError(f"its header is not valid: {error}") from error
    if line.format != _FORMAT:
        raise MetricFormatError(f"its format is {line.format!r}")
    if line.version > VERSION:
        raise MetricFormatError(f"a later version of Relight wrote it (format version {line.version})")
    if not 0 <= line.attempt <= _LAST_ATTEMPT:
        raise MetricFormatError(f"{line.attempt} is not the number of an attempt")
    header = MetricHeader(line.stream, line.attempt, line.columns)
    if (end + 1) % HEADER_ALIGNMENT_BYTES or line.record_bytes != header.record_bytes:
        raise MetricFormatError("the sizes in its header do not match")
    return header, end + 1


def metric_file_name(stream: str, *, attempt: int, part: int = 1) -> str:
    """Return the file name for a stream with any name: special characters become %XX, long names are shortened."""
    escaped = "".join(
        character if _PLAIN.match(character) else "".join(f"%{byte:02X}" for byte in character.encode())
        for character in stream
    )
    if len(escaped) > _STREAM_CHARACTERS:
        escaped = f"{escaped[: _STREAM_CHARACTERS - 9]}~{zlib.crc32(stream.encode()):08x}"
    return f"{attempt:04d}-{escaped or '%'}{'' if part == 1 else f'.{part}'}{SUFFIX}"


def parse_file_name(name: str) -> MetricFileName | None:
    """Parse a file name; None when it is not that of a metric file."""
    match = _FILE_NAME.match(name)
    if match is None:
        return None
    return MetricFileName(int(match["attempt"]), match["stream"], int(match["part"] or 1))


def split_name(name: str) -> tuple[str, str]:
    """Return stream and column of a full name: ("train", "loss"). A name without "/" is a column of the stream ""."""
    stream, slash, column = name.partition("/")
    return (stream, column) if slash else ("", name)


def check_columns(columns: Sequence[str]) -> None:
    """Assert that the format can hold these column names. The callers choose them, so a failure is a bug."""
    assert columns, "a record needs at least one value"
    assert len(set(columns)) == len(columns), f"names repeat: {columns}"
