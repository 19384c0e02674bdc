"""Every call that the checkpoint store makes to the file system, in one place, so that tests can make each one fail.

What counts is what survives a power cut. The bytes of a file do after `sync`; its name does after `sync_folder` of the
folder that holds it. Nothing else is guaranteed. Nothing here retries a sync: after a failed one the kernel may have
dropped the dirty pages, and the next call would report success although the data is lost.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from relight.regular_file import open_regular, read_regular

DIRECT_ALIGNMENT = 4096
"""Offsets, lengths and addresses of direct writes are multiples of this."""

UNREADABLE = {
    *(errno.EIO, errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENXIO, errno.ELOOP, errno.EFBIG),
    getattr(errno, "EUCLEAN", errno.EIO),
}
"""Errors of a read that mean damage: the disk cannot give back what was written, or something else has its name."""

_NOT_SUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY}
_SMALL_BYTES = 1 << 30
"""Far more than the manifest of a million tensors."""
_RENAME_NOREPLACE = 1
_RENAME_EXCL = 4
_AT_FDCWD = -100


class FileIdentity(NamedTuple):
    """Equal for the same file with the same bytes, if files are replaced but never written to again."""

    size: int
    mtime_ns: int
    inode: int


class FileOperations:
    """The real file system. A file is a descriptor; every method raises `OSError`."""

    def make_folder(self, path: Path) -> None:
        """Create a folder unless it exists. Its parent must exist."""
        path.mkdir(exist_ok=True)

    def make_folders(self, path: Path) -> None:
        """Create a folder and its missing parents."""
        path.mkdir(parents=True, exist_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Delete an empty folder."""
        path.rmdir()

    def create(self, path: Path) -> int:
        """Create a file and open it for writing. `FileExistsError` if the name is taken."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def reserve(self, file: int, nbytes: int) -> None:
        """Allocate `nbytes` on the disk now, so that a full disk is noticed before anything is written."""
        if nbytes == 0:
            return
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file, 0, nbytes)
            except OSError as error:
                if error.errno not in _NOT_SUPPORTED:
                    raise
            else:
                return
        found = os.fstatvfs(file)
        if found.f_bavail * found.f_frsize < nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def set_direct(self, file: int, on: bool) -> bool:
        """Turn writing past the page cache on or off. Return False if this file system cannot do it."""
        if not hasattr(os, "O_DIRECT"):
            return False
        flags = fcntl.fcntl(file, fcntl.F_GETFL)
        try:
            fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            return False
        return True

    def write(self, file: int, data: memoryview, offset: int) -> int:
        """Write some of `data` at `offset` and return how many bytes, as the kernel does."""
        return os.pwrite(file, data, offset)

    def sync(self, file: int) -> None:
        """Return when the file's bytes are on the disk itself. After an error give the file up: never sync it again."""
        if sys.platform == "darwin":
            try:
                fcntl.fcntl(file, fcntl.F_FULLFSYNC)
            except OSError as error:
                if error.errno not in _NOT_SUPPORTED:
                    raise
            else:
                return
        os.fsync(file)

    def close(self, file: int) -> None:
        """Close a file."""
        os.close(file)

    def rename_new(self, source: Path, target: Path) -> None:
        """Give a file its final name in one step. `FileExistsError` if the name is taken: nothing is replaced."""
        _rename_without_replacing(source, target)

    def replace(self, source: Path, target: Path) -> None:
        """Give a file its final name in one step, in place of the file that has that name."""
        source.replace(target)

    def sync_folder(self, path: Path) -> None:
        """Return when the names in a folder are on the disk."""
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sync(folder)
        except OSError as error:
            # Some file systems (FUSE, SMB) have no such call for folders; nothing more can be done there.
            if error.errno not in _NOT_SUPPORTED:
                raise
        else:
            # xfs reports success even if it has shut down after a disk error (Linux 6.18): ask whether it still works.
            os.fstat(folder)
        finally:
            os.close(folder)

    def remove(self, path: Path) -> None:
        """Delete a file."""
        path.unlink()

    def list_folder(self, path: Path) -> list[str]:
        """Return the names in a folder; none if it is missing."""
        try:
            return os.listdir(path)  # noqa: PTH208 - names are all that is needed
        except FileNotFoundError:
            return []

    def file_sizes(self, folder: Path) -> dict[str, int]:
        """Return the size in bytes of every file in a folder, by name; none if the folder is missing.

        A file that is gone by now, or whose size the disk cannot tell, is left out.
        """
        sizes: dict[str, int] = {}
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    try:
                        sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
                    except OSError as error:
                        if error.errno not in UNREADABLE:
                            raise
        except (FileNotFoundError, NotADirectoryError):
            pass
        return sizes

    def exists(self, path: Path) -> bool:
        """Tell whether there is a file or folder of this name."""
        return path.exists()

    def is_folder(self, path: Path) -> bool:
        """Tell whether there is a folder of this name."""
        return path.is_dir()

    def identify(self, path: Path) -> FileIdentity:
        """Return the identity of a file, its size included."""
        found = path.lstat()
        return FileIdentity(found.st_size, found.st_mtime_ns, found.st_ino)

    def free_bytes(self, path: Path) -> int:
        """Return how many bytes can still be written to the disk that holds `path`."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def open(self, path: Path) -> int:
        """Open an existing file for reading."""
        return open_regular(path)

    def size(self, file: int) -> int:
        """Return the length of a file in bytes."""
        return os.fstat(file).st_size

    def read_into(self, file: int, buffer: memoryview, offset: int) -> int:
        """Read some bytes at `offset` into `buffer` and return how many; 0 at the end of the file."""
        if hasattr(os, "preadv"):
            return os.preadv(file, [buffer], offset)
        data = os.pread(file, len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def read_file(self, path: Path) -> bytes:
        """Return all bytes of a small file: a manifest, or the file that names the format."""
        return read_regular(path, most_bytes=_SMALL_BYTES)

    def forget_cached(self, file: int) -> None:
        """Ask the kernel to drop its copy of a file, so that the next read is from the disk. It also frees memory."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


SYSTEM = FileOperations()


def _rename_without_replacing(source: Path, target: Path) -> None:
    import ctypes  # only a writer needs it, and every listing imports this module

    rename = _native_rename()
    if rename is not None:
        if rename(os.fsencode(source), os.fsencode(target)) == 0:
            return
        number = ctypes.get_errno()
        if number not in _NOT_SUPPORTED:
            raise OSError(number, os.strerror(number), str(source), None, str(target))
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        # NFS: if an answer gets lost, the request is sent again, and finds the link that the first one made.
        if not _is_same_file(source, target):
            raise
        source.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in {*_NOT_SUPPORTED, errno.EPERM}:
            raise
        # No hard links here (exFAT). The run's lock keeps a second writer out.
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        source.rename(target)
    else:
        source.unlink(missing_ok=True)


def _is_same_file(source: Path, target: Path) -> bool:
    try:
        return source.samefile(target)
    except OSError:
        return False


@cache
def _native_rename() -> Any:
    """Return a function (source, target) that renames without replacing: 0, or errno is set. None without one."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "renameat2"):
        linux = library.renameat2
        linux.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
        return lambda source, target: linux(_AT_FDCWD, source, _AT_FDCWD, target, _RENAME_NOREPLACE)
    if hasattr(library, "renamex_np"):
        mac = library.renamex_np
        mac.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint)
        return lambda source, target: mac(source, target, _RENAME_EXCL)
    return None
