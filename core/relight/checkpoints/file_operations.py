"""Every call that the store makes to the file system, in one place: the seam under which tests crash and fail it.

What matters is what survives a power cut. A file's bytes do after `sync`; its name does after `sync_folder` of the
folder that holds it. Nothing else may be assumed, and nothing here retries a sync: after a failed one the kernel may
have dropped the dirty pages, and the next call would report a success that is none.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

DIRECT_ALIGNMENT = 4096
"""Offsets, lengths and addresses of direct writes are multiples of this."""

_READ_CHUNK_BYTES = 1 << 20
_NOT_SUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY}
_RENAME_NOREPLACE = 1
_RENAME_EXCL = 4
_AT_FDCWD = -100


class FileOperations:
    """The real file system. All methods raise `OSError`; a file is a descriptor."""

    def make_folder(self, path: Path) -> None:
        """Create a folder unless it is there. Its parent must be."""
        path.mkdir(exist_ok=True)

    def create(self, path: Path) -> int:
        """A new file, open for writing. `FileExistsError` when there is one."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def reserve(self, file: int, nbytes: int) -> None:
        """Take `nbytes` on the disk now, so that a full disk shows before anything is written."""
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
        """Write past the page cache from now on, or no longer. False: this file system cannot, nothing changed."""
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
        """Write some of `data` at `offset`; returns how much, as the kernel does."""
        return os.pwrite(file, data, offset)

    def sync(self, file: int) -> None:
        """Return when the file's bytes are on the disk itself. After an error the file is lost: never call it twice."""
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
        """Give a file its final name in one step. `FileExistsError` when that name is taken: nothing is replaced."""
        _rename_without_replacing(source, target)

    def sync_folder(self, path: Path) -> None:
        """Return when the names in a folder are on the disk."""
        folder = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.sync(folder)
        except OSError as error:
            # Some file systems (FUSE, SMB) have no such call for folders; there, nothing more can be asked for.
            if error.errno not in _NOT_SUPPORTED:
                raise
        else:
            # xfs says so too when it has shut down after a fault of its disk (Linux 6.18): ask whether it still lives.
            os.fstat(folder)
        finally:
            os.close(folder)

    def remove(self, path: Path) -> None:
        """Delete a file."""
        path.unlink()

    def list_folder(self, path: Path) -> list[str]:
        """Names in a folder; none when it is missing."""
        try:
            return os.listdir(path)  # noqa: PTH208 - names are all that is needed
        except FileNotFoundError:
            return []

    def open(self, path: Path) -> int:
        """An existing file, open for reading."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def size(self, file: int) -> int:
        """Length of a file in bytes."""
        return os.fstat(file).st_size

    def read_into(self, file: int, buffer: memoryview, offset: int) -> int:
        """Read some bytes at `offset` into `buffer`; returns how many, 0 at the end of the file."""
        if hasattr(os, "preadv"):
            return os.preadv(file, [buffer], offset)
        data = os.pread(file, len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def read_file(self, path: Path) -> bytes:
        """All bytes of a small file."""
        return path.read_bytes()

    def forget_cached(self, file: int) -> None:
        """Ask the kernel to drop its copy of a file, so that the next read is from the disk and memory is free."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


SYSTEM = FileOperations()


def _rename_without_replacing(source: Path, target: Path) -> None:
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
        # NFS: when an answer gets lost the request is sent again, and then finds what the first one has made.
        if not _is_same_file(source, target):
            raise
        source.unlink(missing_ok=True)
    except OSError as error:
        if error.errno not in {*_NOT_SUPPORTED, errno.EPERM}:
            raise
        # No hard links here (exFAT): the run's lock is what keeps a second writer out.
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
    """A function (source, target) that renames without replacing and returns 0 or sets errno; None without one."""
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
