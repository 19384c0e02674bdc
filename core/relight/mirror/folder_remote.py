"""A mirror in a folder on another disk. Files become durable before the next one is written."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from relight.mirror.address import MirrorAddress
from relight.mirror.remote import AlreadyThere, MirrorError, NotThere, RemoteFile
from relight.regular_file import open_below
from relight.runs.durable_file import make_folder, sync_folder
from relight.wording import describe_bytes

_PARTIAL = ".partial-"
_PARTIAL_KEPT_S = 3600.0


class FolderRemote:
    """A folder. Links in it are not followed; only the folder of the mirror itself may be one."""

    def __init__(self, address: MirrorAddress, run_id: str | None) -> None:
        self._mirror = Path(address.path)
        self._folder = self._mirror / run_id if run_id is not None else self._mirror

    def list_files(self, folder: str = "") -> dict[str, RemoteFile]:
        """Return all files below `folder`, by their whole path."""
        with _explained(self._mirror):
            return dict(self._walk(folder))

    def list_folders(self) -> list[str]:
        """Return the names of the folders directly in this one."""
        with _explained(self._mirror):
            try:
                with os.scandir(self._folder) as entries:
                    return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            except FileNotFoundError:
                return []

    def read(self, path: str, *, most_bytes: int) -> bytes:
        """Return a small file."""
        data = self.read_range(path, 0, most_bytes + 1)
        if len(data) > most_bytes:
            raise MirrorError(f"{path} is larger than {describe_bytes(most_bytes)}.")
        return data

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return `length` bytes of a file from `start` on: fewer at its end."""
        with _explained(self._mirror):
            descriptor = open_below(self._mirror, self._path(path))
            try:
                data = os.pread(descriptor, length, start)
                while len(data) < length and (more := os.pread(descriptor, length - len(data), start + len(data))):
                    data += more
                return data
            finally:
                os.close(descriptor)

    def put(self, path: str, chunks: Iterable[bytes], size: int) -> None:
        """Write a file, in place of one of that name."""
        self._write(path, chunks, os.replace)

    def create(self, path: str, data: bytes) -> None:
        """Write a small file unless there is one of that name."""
        self._write(path, (data,), _link)

    def delete(self, path: str) -> None:
        """Delete a file if it is there."""
        with _explained(self._mirror):
            self._path(path).unlink(missing_ok=True)

    def _path(self, path: str) -> Path:
        assert not path.startswith("/") and ".." not in path.split("/"), path
        return self._folder / path

    def _walk(self, folder: str) -> Iterator[tuple[str, RemoteFile]]:
        try:
            entries = os.scandir(self._folder / folder)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                path = str(PurePosixPath(folder, entry.name))
                try:
                    if entry.is_dir(follow_symlinks=False):
                        yield from self._walk(path)
                    elif entry.is_file(follow_symlinks=False) and not entry.name.startswith(_PARTIAL):
                        status = entry.stat(follow_symlinks=False)
                        yield path, RemoteFile(status.st_size, status.st_mtime)
                except FileNotFoundError:
                    continue

    def _write(self, path: str, chunks: Iterable[bytes], give_name: Callable[[Path, Path], object]) -> None:
        target = self._path(path)
        # The folder of the mirror must exist: it may be the mount point of a disk that is not there now.
        with _explained(self._mirror):
            if not self._mirror.is_dir():
                raise FileNotFoundError(errno.ENOENT, "It does not exist, or its disk is not mounted")
            make_folder(target.parent)
            _remove_leftovers(target.parent)
            temporary = target.with_name(f"{_PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")
            try:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                try:
                    for chunk in chunks:
                        view = memoryview(chunk)
                        while view:
                            view = view[os.write(descriptor, view) :]
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                give_name(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
            sync_folder(target.parent)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left behind. A young file may be in use."""
    for path in folder.glob(f"{_PARTIAL}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.lstat().st_mtime > _PARTIAL_KEPT_S:
                path.unlink()


def _link(temporary: Path, target: Path) -> None:
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        # No hard links here (exFAT, some network shares): claim the name first.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        temporary.replace(target)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise AlreadyThere(f"It is there already: {error.filename}.") from error
    except OSError as error:
        words = error.strerror or str(error)
        sentence = f"{words[:1].upper()}{words[1:]} ({error.filename or folder})."
        raise (NotThere if error.errno == errno.ENOENT else MirrorError)(sentence) from error
