"""Checks a pack while it is sent: what goes elsewhere is what was verified here."""

from __future__ import annotations

from collections.abc import Iterator

import xxhash

from relight.checkpoints.manifest import Manifest, PackEntry
from relight.errors import DamagedCheckpoint


class PackCheck:
    """Takes the bytes of one pack in order, and compares each part that the manifest names with its digest."""

    def __init__(self, manifest: Manifest, pack: PackEntry) -> None:
        self._file = pack.file
        self._parts = _list_parts(manifest, pack)
        self._part = next(self._parts, None)
        self._hasher = xxhash.xxh3_128()
        self._position = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes. Raises `DamagedCheckpoint` at the end of a part that does not match."""
        view = memoryview(data)
        while view and self._part is not None:
            begin, end, _, _ = self._part
            if self._position < begin:
                taken = min(begin - self._position, len(view))
            else:
                taken = min(end - self._position, len(view))
                self._hasher.update(view[:taken])
            view = view[taken:]
            self._position += taken
            while self._part is not None and self._position == self._part[1]:
                self._end_part(*self._part[2:])
        self._position += len(view)

    def finish(self) -> None:
        """Raise `DamagedCheckpoint` if the pack has ended too early."""
        if self._part is not None:
            raise DamagedCheckpoint(f"Pack {self._file} ends in the middle of {self._part[3]}.")

    def _end_part(self, digest: str, what: str) -> None:
        if self._hasher.hexdigest() != digest:
            raise DamagedCheckpoint(f"{what[:1].upper()}{what[1:]} in pack {self._file} does not match its digest.")
        self._hasher.reset()
        self._part = next(self._parts, None)


def _list_parts(manifest: Manifest, pack: PackEntry) -> Iterator[tuple[int, int, str, str]]:
    """Yield (begin, end, digest, name) of the header and of each tensor, once, in the order of the file."""
    yield 0, pack.header_bytes, pack.header_digest, "the header"
    index = manifest.packs.index(pack)
    end = 0
    for entry in sorted(
        (one for one in manifest.tensors if one.pack == index and one.bytes), key=lambda one: one.offset
    ):
        if entry.offset >= end:  # else it shares its bytes with the one before: tied weights
            end = entry.offset + entry.bytes
            yield entry.offset, end, entry.digest, f"tensor '{entry.name}'"
