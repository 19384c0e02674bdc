"""Simulates a file system that fails once, at a chosen call."""

from __future__ import annotations

import os
from pathlib import Path

from relight.checkpoints.file_operations import FileOperations

CHANGING = (
    *("make_folder", "make_folders", "create", "reserve", "write", "sync", "rename_new", "replace", "sync_folder"),
    *("remove", "set_direct"),
)
READING = (
    *("list_folder", "file_sizes", "exists", "is_folder", "identify", "free_bytes", "open", "size", "read_into"),
    *("read_file", "set_direct"),
)


class FaultAt(FileOperations):
    """The real file system, except that call number `at` (from 1) of the `kinds` fails with `fault`."""

    def __init__(self, at: int, fault: int | str, kinds: tuple[str, ...] = CHANGING) -> None:
        self.calls = 0
        self.failed: str | None = None
        self._at, self._fault, self._kinds = at, fault, kinds
        self._spoiled: set[object] = set()

    def close(self, file: int) -> None:
        super().close(file)
        self._spoiled.discard(file)

    def sync_folder(self, path: Path) -> None:
        try:
            super().sync_folder(path)
        finally:
            self._spoiled.clear()  # sync_folder has closed its own file.

    def __getattribute__(self, name: str) -> object:
        method = super().__getattribute__(name)
        if name not in CHANGING + READING or name not in self._kinds:
            return method

        def call(*arguments: object) -> object:
            self.calls += 1
            if name == "sync":
                assert arguments[0] not in self._spoiled, "a file was synced again after its sync had failed"
            if self.calls == self._at:
                self.failed = name
                if self._fault == "short":
                    if name == "write":
                        file, data, offset = arguments
                        return os.pwrite(file, data[: len(data) // 2 + 1], offset)
                    return method(*arguments)
                assert isinstance(self._fault, int)
                if name == "sync":
                    self._spoiled.add(arguments[0])
                raise OSError(self._fault, os.strerror(self._fault))
            return method(*arguments)

        return call
