"""Records a log of everything that a writer does to the file system."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from relight.checkpoints.file_operations import FileOperations


@dataclass(frozen=True)
class MakeFolder:
    path: str


@dataclass(frozen=True)
class Create:
    path: str
    inode: int


@dataclass(frozen=True)
class Extend:
    """The file has this length from now on. New bytes are zero."""

    inode: int
    size: int


@dataclass(frozen=True)
class Write:
    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Sync:
    inode: int


@dataclass(frozen=True)
class Rename:
    source: str
    target: str


@dataclass(frozen=True)
class Remove:
    path: str


@dataclass(frozen=True)
class SyncFolder:
    path: str


@dataclass(frozen=True)
class Acknowledge:
    """The promise that `step` is safe or, with `pinned`, that this checkpoint will always exist."""

    step: int
    digest: str
    pinned: bool = False


Entry = MakeFolder | Create | Extend | Write | Sync | Rename | Remove | SyncFolder | Acknowledge


class Recorder(FileOperations):
    """The real file system, with a log. Paths in the log are relative to `root`, which is the empty path."""

    def __init__(self, root: Path) -> None:
        self.log: list[Entry] = []
        self._root = root
        self._inodes: dict[int, int] = {}
        self._count = 0

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        if path != self._root:
            self.log.append(MakeFolder(self._relative(path)))

    def create(self, path: Path) -> int:
        file = super().create(path)
        self._count += 1
        self._inodes[file] = self._count
        self.log.append(Create(self._relative(path), self._count))
        return file

    def reserve(self, file: int, nbytes: int) -> None:
        super().reserve(file, nbytes)
        self.log.append(Extend(self._inodes[file], nbytes))

    def write(self, file: int, data: memoryview, offset: int) -> int:
        # Write in halves, so that a crash may lose either one.
        taken = max(1, len(data) // 2)
        super().write(file, data[:taken], offset)
        self.log.append(Write(self._inodes[file], offset, bytes(data[:taken])))
        return taken

    def set_direct(self, file: int, on: bool) -> bool:
        return False

    def sync(self, file: int) -> None:
        if file in self._inodes:
            self.log.append(Sync(self._inodes[file]))

    def close(self, file: int) -> None:
        super().close(file)
        self._inodes.pop(file, None)

    def rename_new(self, source: Path, target: Path) -> None:
        super().rename_new(source, target)
        self.log.append(Rename(self._relative(source), self._relative(target)))

    def sync_folder(self, path: Path) -> None:
        if path.is_relative_to(self._root):
            self.log.append(SyncFolder(self._relative(path)))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.log.append(Remove(self._relative(path)))

    def _relative(self, path: Path) -> str:
        found = path.relative_to(self._root).as_posix()
        return "" if found == "." else found
