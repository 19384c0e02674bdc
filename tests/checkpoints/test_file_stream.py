"""Streams: the file holds the written bytes, whatever the size of the pieces and their alignment in memory."""

from __future__ import annotations

import errno
import mmap
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relight.checkpoints import file_stream
from relight.checkpoints.file_operations import SYSTEM, FileOperations
from relight.checkpoints.file_stream import FileStream, address_of, merge_adjacent


class Hesitant(FileOperations):
    """Writes less than it gets, is sometimes interrupted, and can refuse direct writes."""

    def __init__(self, seed: int, *, refuse_direct: bool) -> None:
        self._random = random.Random(seed)
        self._refuse = refuse_direct
        self._direct = False

    def set_direct(self, file: int, on: bool) -> bool:
        self._direct = on
        return True

    def write(self, file: int, data: memoryview, offset: int) -> int:
        if self._direct and self._refuse:
            raise OSError(errno.EINVAL, "no direct writes here")
        if self._direct:
            address = address_of(data)
            assert address is not None
            assert address % 4096 == len(data) % 4096 == offset % 4096 == 0
        if self._random.random() < 0.2:
            raise InterruptedError
        return os.pwrite(file, data[: self._random.randint(1, len(data))], offset)


def write_all(operations: FileOperations, path: Path, parts: list[memoryview], *, direct: bool) -> int:
    file = operations.create(path)
    try:
        stream = FileStream(operations, file, direct=direct)
        for part in parts:
            stream.write(part)
        return stream.finish()
    finally:
        operations.close(file)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.one_of(st.integers(0, 5000), st.sampled_from([4096, 8192, 300_000, 270_336])), max_size=7),
    lead=st.sampled_from([0, 1, 100, 4096]),
    seed=st.integers(0, 1000),
    direct=st.booleans(),
    refuse=st.booleans(),
)
def test_a_file_holds_what_was_written_in_order(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], lead: int, seed: int, direct: bool, refuse: bool
) -> None:
    path = tmp_path_factory.mktemp("stream") / "file"
    memory = mmap.mmap(-1, lead + sum(sizes) + 1)
    memory[:] = random.Random(seed).randbytes(len(memory))
    parts, position = [], lead
    for size in sizes:
        parts.append(memoryview(memory)[position : position + size])
        position += size
    length = write_all(Hesitant(seed, refuse_direct=refuse), path, parts, direct=direct)
    assert path.read_bytes() == memory[lead:position]
    assert length == position - lead


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, (4 << 20) - 1, 4 << 20, (4 << 20) + 1, (9 << 20) + 5])
def test_direct_writes_on_this_disk_give_the_same_bytes(tmp_path: Path, size: int) -> None:
    memory = mmap.mmap(-1, size + 8192)
    memory[:] = random.Random(size).randbytes(len(memory))
    view = memoryview(memory)
    for name, parts in {
        "aligned": [view[:size]],
        "shifted": [view[1 : 1 + size]],
        "headed": [view[:4096], view[4096 : 4096 + size]],
        "read-only": [memoryview(memory[:size])],
    }.items():
        write_all(SYSTEM, tmp_path / name, parts, direct=True)
        assert (tmp_path / name).read_bytes() == b"".join(parts), name


def test_a_large_aligned_buffer_is_written_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses: list[int | None] = []

    class Watching(FileOperations):
        def write(self, file: int, data: memoryview, offset: int) -> int:
            addresses.append(address_of(data))
            return super().write(file, data, offset)

    monkeypatch.setattr(file_stream, "_WRITE_BYTES", 1 << 20)
    memory = memoryview(mmap.mmap(-1, 2 << 20))
    write_all(Watching(), tmp_path / "file", [memoryview(bytearray(4096)), memory], direct=True)
    base = address_of(memory)
    assert base is not None
    assert addresses[1:] == [base, base + (1 << 20)]


def test_a_write_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    class Stuck(FileOperations):
        def write(self, file: int, data: memoryview, offset: int) -> int:
            return 0

    with pytest.raises(OSError, match="wrote nothing"):
        write_all(Stuck(), tmp_path / "file", [memoryview(b"x")], direct=False)


def test_adjacent_views_of_the_same_memory_are_merged() -> None:
    memory = memoryview(mmap.mmap(-1, 100))
    other = memoryview(mmap.mmap(-1, 100))
    parts = [memory[0:10], memory[10:30], memory[31:40], memory[40:41], other[41:50], memoryview(b"abc"), other[50:60]]
    merged = merge_adjacent(parts)
    assert [len(part) for part in merged] == [30, 10, 9, 3, 10]
    assert b"".join(merged) == b"".join(parts)
