"""The manifest: the JSON file that is the checkpoint. Its last line is its own digest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import xxhash

from relight.checkpoints.dtypes import ITEM_BYTES, count_bytes
from relight.checkpoints.file_names import CheckpointName, parse_pack_name
from relight.checkpoints.snapshot_header import Slice, SnapshotFacts, TensorSpec
from relight.checkpoints.typed_json import decode_state, encode_state
from relight.errors import DamagedCheckpoint, DamagedFile

VERSION = 2
"""The latest version that this Relight reads."""
WHOLE_VERSION = 1
"""Written as long as one process has everything, so that earlier Relights can read it."""
_TAIL = b'"digest":"%s"}\n'
_TAIL_BYTES = len(_TAIL) - 2 + 32


class LaterVersion(DamagedCheckpoint):
    """The file is not damaged: a later version of Relight wrote it."""


class PackEntry(msgspec.Struct, frozen=True):
    """A pack that holds tensors of the checkpoint. `header_digest` and the tensors' digests cover all its bytes."""

    file: str
    bytes: int
    header_bytes: int
    """Where the tensors begin, after the eight bytes of the length and the padded header."""
    header_digest: str


class TensorEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tensor, or one part of it: where its bytes are, and their digest (xxh3-128)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    pack: int
    """Index into `Manifest.packs`; -1 if the tensor has no bytes."""
    offset: int
    """From the beginning of the file."""
    bytes: int
    digest: str
    slice: Slice | None = None
    """For a part of a tensor; from version 2 on."""

    @property
    def owner(self) -> str:
        """Name by which the state refers to the tensor that this is, or is a part of."""
        return self.name if self.slice is None else self.slice.of

    @property
    def spec(self) -> TensorSpec:
        """What the stored tensor looks like, without where it is."""
        return TensorSpec(self.name, self.dtype, self.shape, self.bytes, self.slice)


class _Head(SnapshotFacts, frozen=True, kw_only=True):
    """What a listing needs. The rest of the file is covered by its digest, and not decoded."""

    format: Literal["relight-checkpoint"] = "relight-checkpoint"
    version: int = WHOLE_VERSION
    name: str
    sequence: int
    parent: str | None
    """Stem of the checkpoint before this one, which may share tensors with it."""
    metrics: msgspec.Raw
    tensor_bytes: int
    packs: tuple[PackEntry, ...]

    @property
    def checkpoint_name(self) -> CheckpointName:
        """The name that the file must have."""
        return CheckpointName(self.sequence, self.step, self.name.rpartition("-")[2])

    def read_metrics(self) -> dict[str, float]:
        """Return the latest values at the step edge, by full name. Raises `DamagedCheckpoint`."""
        metrics = decode_state(self.metrics)
        if type(metrics) is not dict or not all(type(value) is float for value in metrics.values()):
            raise DamagedCheckpoint(f"The metrics of checkpoint {self.name} are not numbers by name.")
        return metrics


class ManifestHead(_Head, frozen=True, kw_only=True):
    """The head of a manifest without the rest."""


class Manifest(_Head, frozen=True, kw_only=True):
    """A whole manifest. `environment` and `state` are typed JSON, not yet decoded."""

    environment: msgspec.Raw
    tensors: tuple[TensorEntry, ...]
    state: msgspec.Raw

    @property
    def is_split(self) -> bool:
        """Whether any tensor may be split over several ranks."""
        return self.version > WHOLE_VERSION


_LINES = (
    *("format", "version", "name", "sequence", "step", "epoch", "attempt", "reason", "time_s", "parent"),
    *("metrics", "score", "tensor_bytes", "packs", "environment", "tensors", "state"),
)
"""The fields in the order of the file."""
_encoder = msgspec.json.Encoder()
_head_decoder = msgspec.json.Decoder(ManifestHead)
_decoder = msgspec.json.Decoder(Manifest)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of the file: one field or tensor per line, and the digest of all that as the last line."""
    lines: list[bytes] = []
    for field in _LINES:
        value = getattr(manifest, field)
        if field in ("packs", "tensors") and value:
            encoded = b"[\n" + _encoder.encode_lines(value)[:-1].replace(b"\n", b",\n") + b"\n]"
        else:
            encoded = msgspec.json.encode(value)
        lines.append(b'"%s":%s,\n' % (field.encode(), encoded))
    body = b"{" + b"".join(lines)
    return body + _TAIL % xxhash.xxh3_128_hexdigest(body).encode()


def decode_manifest(data: bytes, *, file_name: str) -> Manifest:
    """Decode a manifest, and check it against its own digest and its file name. Raises `DamagedCheckpoint`."""
    manifest: Manifest = _decode(_decoder, _check(data, file_name), file_name)
    _check_tensors(manifest, file_name)
    gather_parts(manifest.tensors, what=f"Manifest {file_name}")
    return manifest


def decode_head(data: bytes, *, file_name: str) -> ManifestHead:
    """Decode the head of a manifest, with the same checks but without the cost of the tensors."""
    head: ManifestHead = _decode(_head_decoder, _check(data, file_name), file_name)
    return head


def encode_metrics(metrics: dict[str, float]) -> msgspec.Raw:
    """Encode metrics as typed JSON, which can hold NaN and infinities."""
    return msgspec.Raw(encode_state({name: float(value) for name, value in metrics.items()}, owner="metrics"))


def gather_parts(tensors: Iterable[TensorEntry], *, what: str) -> dict[str, tuple[TensorEntry, ...]]:
    """Return the entries of each tensor by its name, in the order of its rows; a tensor that is not split has one.

    Raises `DamagedCheckpoint`, which begins with `what`, if the parts of one do not make it whole.
    """
    parts: dict[str, list[TensorEntry]] = {}
    for entry in tensors:
        parts.setdefault(entry.owner, []).append(entry)
    for name, found in parts.items():
        if len(found) > 1 or found[0].slice is not None:
            found.sort(key=lambda entry: (entry.slice.row if entry.slice else 0, entry.bytes))
            _check_parts(name, found, what)
    return {name: tuple(found) for name, found in parts.items()}


def _check_parts(name: str, found: Sequence[TensorEntry], what: str) -> None:
    first, row = found[0], 0
    for entry in found:
        place = entry.slice
        if (
            place is None
            or first.slice is None
            or not place.shape
            or len(entry.shape) != len(place.shape)
            or (entry.dtype, place.shape, entry.shape[1:]) != (first.dtype, first.slice.shape, place.shape[1:])
            or place.row != row
        ):
            raise DamagedCheckpoint(f"{what} does not have every row of tensor '{name}' exactly once.")
        row += entry.shape[0]
    assert first.slice is not None
    if row != first.slice.shape[0]:
        raise DamagedCheckpoint(f"{what} has {row:,} of the {first.slice.shape[0]:,} rows of tensor '{name}'.")


def _check(data: bytes, file_name: str) -> bytes:
    if len(data) <= _TAIL_BYTES:
        raise DamagedCheckpoint(f"Manifest {file_name} is cut short: {len(data)} bytes.")
    body, tail = data[:-_TAIL_BYTES], data[-_TAIL_BYTES:]
    if tail != _TAIL % xxhash.xxh3_128_hexdigest(body).encode():
        raise DamagedCheckpoint(f"Manifest {file_name} does not match its own digest.")
    return data


def _decode(decoder: Any, data: bytes, file_name: str) -> Any:
    try:
        head = decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        version = _read_version(data)
        if version > VERSION:
            raise LaterVersion(
                f"Manifest {file_name} has version {version}, written by a later Relight. Update Relight to read it."
            ) from None
        raise DamagedCheckpoint(f"Manifest {file_name} has the wrong content: {error}") from None
    if head.version > VERSION:
        raise LaterVersion(
            f"Manifest {file_name} has version {head.version}, written by a later Relight. Update Relight to read it."
        )
    if head.checkpoint_name.manifest != file_name:
        raise DamagedCheckpoint(f"Manifest {file_name} belongs to checkpoint {head.name}: a renamed or copied file.")
    for pack in head.packs:
        if parse_pack_name(pack.file) is None:
            raise DamagedCheckpoint(f"Manifest {file_name} names '{pack.file}', which is not the name of a pack.")
    try:
        head.read_metrics()
    except DamagedFile as error:
        raise DamagedCheckpoint(f"Manifest {file_name} has the wrong content: {error}") from None
    return head


class _Version(msgspec.Struct):
    version: int = 0


def _read_version(data: bytes) -> int:
    try:
        return msgspec.json.decode(data, type=_Version).version
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return 0


def _check_tensors(manifest: Manifest, file_name: str) -> None:
    for tensor in manifest.tensors:
        pack = manifest.packs[tensor.pack] if 0 <= tensor.pack < len(manifest.packs) else None
        if (
            tensor.dtype not in ITEM_BYTES
            or (tensor.shape and min(tensor.shape) < 0)
            or tensor.bytes != count_bytes(tensor.dtype, tensor.shape)
            or (tensor.bytes and pack is None)
            or (pack is not None and not pack.header_bytes <= tensor.offset <= pack.bytes - tensor.bytes)
        ):
            raise DamagedCheckpoint(f"Manifest {file_name} does not say where tensor '{tensor.name}' is.")
