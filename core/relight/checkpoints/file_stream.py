"""Streams memory into a file at the speed of the disk: past the page cache if possible, and with at most one copy."""

from __future__ import annotations

import ctypes
import errno
import mmap
from collections.abc import Iterable
from functools import cached_property

from relight.checkpoints.file_operations import DIRECT_ALIGNMENT, FileOperations

_GATHER_BYTES = 4 << 20
_WRITE_BYTES = 32 << 20
_LARGE_BYTES = 256 << 10
_LARGE_CACHED_BYTES = 16 << 10
"""From this size on a separate write is faster than a copy: to the disk itself, and to the page cache."""


class FileStream:
    """Writes buffers one after the other, from the beginning of a new file.

    Direct writes need aligned addresses, offsets and lengths. A buffer whose address and offset in the file are equal
    modulo `DIRECT_ALIGNMENT` is written from where it is; a staged snapshot has the layout of its pack for that reason.
    All other bytes go through one small aligned buffer.
    """

    def __init__(self, operations: FileOperations, file: int, *, direct: bool = True) -> None:
        self._operations = operations
        self._file = file
        self._direct = direct and operations.set_direct(file, True)
        self._filled = 0
        self._position = 0

    def write(self, data: memoryview) -> None:
        """Append `data`, a flat view of bytes."""
        while len(data):
            if len(data) >= (_LARGE_BYTES if self._direct else _LARGE_CACHED_BYTES) and self._is_aligned(data):
                # Up to the next boundary through the buffer, from there on directly.
                lead = -self._filled % DIRECT_ALIGNMENT if self._direct else 0
                self._gather(data[:lead])
                self._flush()
                data = data[lead:]
                whole = len(data) - (len(data) % DIRECT_ALIGNMENT if self._direct else 0)
                self._write(data[:whole])
                data = data[whole:]
            else:
                taken = min(len(data), _GATHER_BYTES - self._filled)
                self._gather(data[:taken])
                data = data[taken:]
                if self._filled == _GATHER_BYTES:
                    self._flush()

    def finish(self) -> int:
        """Write what is left, and return the length of the file in bytes. The file is not synced yet."""
        aligned = self._filled - self._filled % DIRECT_ALIGNMENT
        tail = self._filled - aligned
        if self._direct and tail:
            self._filled = aligned
            self._flush()
            self._leave_direct()
            self._write(self._gathered[aligned : aligned + tail])
        else:
            self._flush()
        return self._position

    @cached_property
    def _gathered(self) -> memoryview:
        return memoryview(mmap.mmap(-1, _GATHER_BYTES))

    def _is_aligned(self, data: memoryview) -> bool:
        if not self._direct:
            return True
        address = address_of(data)
        return address is not None and (address - self._filled) % DIRECT_ALIGNMENT == 0

    def _gather(self, data: memoryview) -> None:
        if len(data):
            self._gathered[self._filled : self._filled + len(data)] = data
            self._filled += len(data)

    def _flush(self) -> None:
        filled, self._filled = self._filled, 0
        if filled:
            self._write(self._gathered[:filled])

    def _write(self, data: memoryview) -> None:
        while len(data):
            try:
                written = self._operations.write(self._file, data[:_WRITE_BYTES], self._position)
            except InterruptedError:
                continue
            except OSError as error:
                if not (self._direct and error.errno == errno.EINVAL):
                    raise
                self._leave_direct()
                continue
            if written <= 0:
                raise OSError(errno.EIO, "a write wrote nothing")
            self._position += written
            data = data[written:]
            if self._direct and self._position % DIRECT_ALIGNMENT:
                self._leave_direct()

    def _leave_direct(self) -> None:
        self._direct = False
        self._operations.set_direct(self._file, False)


def address_of(data: memoryview) -> int | None:
    """Return the address where a view begins; None if it cannot be found out (read-only memory)."""
    if data.readonly or not len(data):
        return None
    return ctypes.addressof(ctypes.c_char.from_buffer(data))


def merge_adjacent(buffers: Iterable[memoryview]) -> list[memoryview]:
    """Return the same bytes in as few views as possible: adjacent views of the same memory become one."""
    merged: list[memoryview] = []
    end: int | None = None
    for data in buffers:
        address = address_of(data)
        if address is not None and address == end and data.obj is merged[-1].obj:
            whole = memoryview(data.obj).cast("B")
            base = address_of(whole)
            begin = address_of(merged[-1])
            assert base is not None and begin is not None
            merged[-1] = whole[begin - base : address - base + len(data)]
        else:
            merged.append(data)
        end = None if address is None else address + len(data)
    return merged
