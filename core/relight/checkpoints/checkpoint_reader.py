"""Reads one checkpoint, and checks every byte against its digest while reading it."""

from __future__ import annotations

import contextlib
import errno
import mmap
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import xxhash

from relight.checkpoints.digest import state_digest
from relight.checkpoints.dtypes import count_bytes
from relight.checkpoints.file_names import StoreLayout
from relight.checkpoints.file_operations import DIRECT_ALIGNMENT, UNREADABLE, FileOperations
from relight.checkpoints.manifest import Manifest, PackEntry, TensorEntry, gather_parts
from relight.checkpoints.snapshot_header import TensorSpec
from relight.checkpoints.typed_json import decode_state
from relight.errors import DamagedCheckpoint, DamagedFile

_CHUNK_BYTES = 8 << 20

OnRead = Callable[[int], None]
"""Called with the number of bytes just read."""


class CheckpointReader:
    """One open checkpoint. Its packs stay open, so it can be read to the end even if the retention deletes it.

    Methods raise `DamagedCheckpoint`, with the names of tensor and pack, if the disk does not hold what the manifest
    says.
    """

    def __init__(self, manifest: Manifest, *, layout: StoreLayout, operations: FileOperations) -> None:
        self.manifest = manifest
        self._layout = layout
        self._operations = operations
        self._parts = gather_parts(manifest.tensors, what=f"Manifest {manifest.name}")
        self._files: list[int] = []
        self._direct: set[int] = set()
        """Those of the files whose reads pass the page cache by."""
        try:
            for pack in manifest.packs:
                self._files.append(self._open(pack))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> CheckpointReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the packs. The reader cannot be used after that."""
        for file in self._files:
            self._operations.close(file)
        self._files.clear()

    @cached_property
    def state(self) -> Any:
        """The state tree, with a `TensorRef` in place of each tensor. Each reader decodes its own."""
        return self._decode(self.manifest.state, "state")

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, device and flags with which the checkpoint was made."""
        environment = self._decode(self.manifest.environment, "environment")
        return environment if isinstance(environment, dict) else {"environment": environment}

    @property
    def tensor_names(self) -> list[str]:
        """Names of all tensors, in the order of the snapshot."""
        return list(self._parts)

    def spec(self, name: str) -> TensorSpec:
        """Return the type and shape of a tensor, put together if it is split. `KeyError` if there is none."""
        first, *_ = parts = self._parts[name]
        if first.slice is None:
            return first.spec
        return TensorSpec(name, first.dtype, first.slice.shape, sum(part.bytes for part in parts))

    def is_split(self, name: str) -> bool:
        """Tell whether several ranks have saved the tensor, each its own rows."""
        return self._parts[name][0].slice is not None

    def list_digests(self, name: str) -> list[str]:
        """Return the digests (xxh3-128) that the tensor's bytes must have, one for each of its parts in order."""
        return [part.digest for part in self._parts[name]]

    def digest(self, name: str) -> str:
        """Return the digest (xxh3-128) that the tensor's bytes have. One that is split is read for that."""
        if not self.is_split(name):
            return self._parts[name][0].digest
        hasher = xxhash.xxh3_128()
        for chunk in self.read_chunks(name):
            hasher.update(chunk)
        return hasher.hexdigest()

    def state_digest(self) -> str:
        """Return the state digest, which does not depend on how the tensors are split. They are read if they are."""
        specs = [(self.spec(name), self.digest(name)) for name in self._parts]
        tensors = [(spec.name, spec.dtype, spec.shape, digest) for spec, digest in specs]
        return state_digest(self.manifest, tensors=tensors)

    def read(self, name: str) -> bytearray:
        """Return a copy of the bytes of a tensor."""
        data = bytearray(self.spec(name).nbytes)
        self.read_into(name, data)
        return data

    def read_into(self, name: str, buffer: bytearray | memoryview) -> None:
        """Read a tensor into `buffer`, which has its size. After `DamagedCheckpoint` do not use the buffer."""
        spec = self.spec(name)
        assert memoryview(buffer).nbytes == spec.nbytes, (memoryview(buffer).nbytes, spec)
        self.read_range_into(name, buffer, begin=0)

    def read_rows_into(self, name: str, buffer: bytearray | memoryview, *, row: int) -> None:
        """Read the rows of a tensor from `row` on, as many as `buffer` has room for.

        Only the parts that have some of these rows are read, but those to their ends, for their digests. After
        `DamagedCheckpoint` do not use the buffer.
        """
        spec = self.spec(name)
        self.read_range_into(name, buffer, begin=row * count_bytes(spec.dtype, spec.shape[1:]))

    def read_range_into(self, name: str, buffer: bytearray | memoryview, *, begin: int) -> None:
        """Read the bytes of a tensor from `begin` on, as `read_rows_into` does."""
        if not memoryview(buffer).nbytes:
            return
        view, position = memoryview(buffer).cast("B"), -begin
        for part in self._parts[name]:
            if position >= 0 and position + part.bytes <= len(view):
                self._read_part(part, view[position : position + part.bytes])
            elif position < len(view) and position + part.bytes > 0:
                self._read_some(part, view, position)
            position += part.bytes
        assert position >= len(view), (name, begin, len(view))

    def _read_part(self, entry: TensorEntry, view: memoryview) -> None:
        hasher = xxhash.xxh3_128()
        for begin in range(0, entry.bytes, _CHUNK_BYTES):
            part = view[begin : begin + _CHUNK_BYTES]
            self._read(entry.pack, part, entry.offset + begin, entry.name)
            hasher.update(part)
        if hasher.hexdigest() != entry.digest:
            raise self._mismatch(entry)

    def _read_some(self, entry: TensorEntry, view: memoryview, position: int) -> None:
        """Read a part that begins at `position` of `view`, and take what fits into it."""
        for chunk in self._read_entry(entry):
            begin, end = max(position, 0), min(position + len(chunk), len(view))
            if begin < end:
                view[begin:end] = chunk[begin - position : end - position]
            position += len(chunk)

    def read_chunks(self, name: str) -> Iterator[memoryview]:
        """Yield the bytes of a tensor in pieces. Each is valid until the next one is read.

        The digest of a part can only be checked after its last piece: `DamagedCheckpoint` is raised then.
        """
        for entry in self._parts[name]:
            yield from self._read_entry(entry)

    def _read_entry(self, entry: TensorEntry) -> Iterator[memoryview]:
        scratch = memoryview(bytearray(min(entry.bytes, _CHUNK_BYTES)))
        hasher = xxhash.xxh3_128()
        for begin in range(0, entry.bytes, _CHUNK_BYTES):
            part = scratch[: min(_CHUNK_BYTES, entry.bytes - begin)]
            self._read(entry.pack, part, entry.offset + begin, entry.name)
            hasher.update(part)
            yield part
        if hasher.hexdigest() != entry.digest:
            raise self._mismatch(entry)

    def check(self, *, from_disk: bool = False, on_read: OnRead | None = None) -> list[tuple[Path, str]]:
        """Read everything, compare it with its digests, and return (pack, sentence) for all damage. Changes nothing.

        With `from_disk` the page cache is passed by, or emptied of these packs before and after.
        """
        if from_disk:
            for file in self._files:
                self._operations.forget_cached(file)
            self._direct = {file for file in self._files if self._set_direct(file, True)}
        try:
            return self._check(on_read)
        finally:
            for file in self._files if from_disk else ():
                if file in self._direct:
                    self._leave_direct(file)
                else:
                    self._operations.forget_cached(file)

    def _check(self, on_read: OnRead | None) -> list[tuple[Path, str]]:
        damaged: list[tuple[Path, str]] = []
        for index, pack in enumerate(self.manifest.packs):
            try:
                if self._hash(index, 0, pack.header_bytes, "the header", None) != pack.header_digest:
                    raise DamagedCheckpoint(f"The header of pack {pack.file} does not match its digest.")
            except DamagedCheckpoint as error:
                damaged.append((self._path(index), str(error)))
        for run in self._runs():
            try:
                broken = self._check_many(run, on_read) if len(run) > 1 else self._check_one(run[0], on_read)
            except DamagedCheckpoint as error:
                damaged.append((self._path(run[0].pack), str(error)))
                continue
            damaged.extend((self._path(entry.pack), str(self._mismatch(entry))) for entry in broken)
        return damaged

    def _check_one(self, entry: TensorEntry, on_read: OnRead | None) -> list[TensorEntry]:
        return [] if self._hash(entry.pack, entry.offset, entry.bytes, entry.name, on_read) == entry.digest else [entry]

    def _hash(self, index: int, offset: int, nbytes: int, what: str, on_read: OnRead | None) -> str:
        """Return the digest of bytes of a pack."""
        hasher = xxhash.xxh3_128()
        for begin in range(0, nbytes, _CHUNK_BYTES):
            part = self._read_scratch(index, min(_CHUNK_BYTES, nbytes - begin), offset + begin, what)
            hasher.update(part)
            if on_read is not None:
                on_read(len(part))
        return hasher.hexdigest()

    def _check_many(self, run: list[TensorEntry], on_read: OnRead | None) -> list[TensorEntry]:
        begin = run[0].offset
        part = self._read_scratch(run[0].pack, run[-1].offset + run[-1].bytes - begin, begin, run[0].name)
        if on_read is not None:
            on_read(sum(entry.bytes for entry in run))
        return [
            entry
            for entry in run
            if xxhash.xxh3_128_hexdigest(part[entry.offset - begin : entry.offset - begin + entry.bytes])
            != entry.digest
        ]

    def _runs(self) -> Iterator[list[TensorEntry]]:
        """Yield all tensors; those that are adjacent on the disk together, as long as they fit into one read."""
        run: list[TensorEntry] = []
        for entry in sorted(self.manifest.tensors, key=lambda entry: (entry.pack, entry.offset, entry.bytes)):
            if not entry.bytes:
                continue
            end = run[-1].offset + run[-1].bytes if run else 0
            if run and (
                entry.pack != run[0].pack
                or entry.offset not in (end, run[-1].offset)
                or entry.offset + entry.bytes - run[0].offset > _CHUNK_BYTES
            ):
                yield run
                run = []
            run.append(entry)
        if run:
            yield run

    def _decode(self, data: msgspec.Raw, what: str) -> Any:
        try:
            return decode_state(data)
        except DamagedFile as error:
            raise DamagedCheckpoint(f"The {what} of checkpoint {self.manifest.name} cannot be read. {error}") from None

    def _path(self, index: int) -> Path:
        return self._layout.packs / self.manifest.packs[index].file

    def _open(self, pack: PackEntry) -> int:
        try:
            file = self._operations.open(self._layout.packs / pack.file)
        except OSError as error:
            raise _explain(error, f"Pack {pack.file} cannot be opened") from error
        try:
            size = self._operations.size(file)
            if size != pack.bytes:
                raise DamagedCheckpoint(f"Pack {pack.file} has {size:,} bytes instead of {pack.bytes:,}.")
        except BaseException:
            self._operations.close(file)
            raise
        return file

    def _read(self, index: int, buffer: memoryview, offset: int, what: str) -> None:
        while len(buffer):
            try:
                read = self._operations.read_into(self._files[index], buffer, offset)
            except InterruptedError:
                continue
            except OSError as error:
                raise self._explain_read(error, index, what) from error
            if read == 0:
                raise self._ends_within(index, what)
            buffer = buffer[read:]
            offset += read

    def _read_scratch(self, index: int, nbytes: int, offset: int, what: str) -> memoryview:
        """Return up to `_CHUNK_BYTES` of a pack, valid until the next call.

        Direct reads need aligned addresses, offsets and lengths, so up to two pages more are read then.
        """
        file = self._files[index]
        lead = offset % DIRECT_ALIGNMENT if file in self._direct else 0
        begin, got, needed = offset - lead, 0, lead + nbytes
        while got < needed:
            whole = needed + -needed % DIRECT_ALIGNMENT if file in self._direct else needed
            try:
                read = self._operations.read_into(file, self._scratch[got:whole], begin + got)
            except InterruptedError:
                continue
            except OSError as error:
                if error.errno == errno.EINVAL and file in self._direct:
                    self._leave_direct(file)
                    continue
                raise self._explain_read(error, index, what) from error
            if read == 0:
                raise self._ends_within(index, what)
            got += read
            if got % DIRECT_ALIGNMENT and got < needed and file in self._direct:
                self._leave_direct(file)
        return self._scratch[lead:needed]

    @cached_property
    def _scratch(self) -> memoryview:
        memory = mmap.mmap(-1, _CHUNK_BYTES + 2 * DIRECT_ALIGNMENT)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):
                memory.madvise(mmap.MADV_HUGEPAGE)
        return memoryview(memory)

    def _set_direct(self, file: int, on: bool) -> bool:
        try:
            return self._operations.set_direct(file, on)
        except OSError:
            return False

    def _leave_direct(self, file: int) -> None:
        self._direct.discard(file)
        self._set_direct(file, False)

    def _explain_read(self, error: OSError, index: int, what: str) -> Exception:
        return _explain(error, f"Pack {self.manifest.packs[index].file} cannot be read at '{what}'")

    def _ends_within(self, index: int, what: str) -> DamagedCheckpoint:
        return DamagedCheckpoint(f"Pack {self.manifest.packs[index].file} ends in the middle of '{what}'.")

    def _mismatch(self, entry: TensorEntry) -> DamagedCheckpoint:
        file = self.manifest.packs[entry.pack].file
        return DamagedCheckpoint(f"Tensor '{entry.name}' in pack {file} does not match its digest.")


def _explain(error: OSError, what: str) -> Exception:
    """Return `DamagedCheckpoint` if the disk cannot give back what was written. Too many open files are no damage."""
    if error.errno in UNREADABLE:
        return DamagedCheckpoint(f"{what}: {error.strerror}.")
    return error
