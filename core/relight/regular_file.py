"""Opens the files of a run folder for reading: only regular files, because somebody else may have made the folder.

A named pipe, a device or a huge file under the name of a record must not hang or fill a reader.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from relight.wording import describe_bytes

SMALL_BYTES = 16 << 20
"""Most bytes of a JSON file other than a manifest."""
_CHUNK_BYTES = 64 << 10
_FOLLOWING = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # without O_NONBLOCK a named pipe hangs
_READING = _FOLLOWING | os.O_NOFOLLOW
_KINDS = {
    stat.S_IFIFO: "Is a named pipe",
    stat.S_IFSOCK: "Is a socket",
    stat.S_IFCHR: "Is a device",
    stat.S_IFBLK: "Is a device",
}


def open_regular(
    path: str | Path, *, most_bytes: int | None = None, flags: int = _READING, directory: int | None = None
) -> int:
    """Open a regular file for reading, or with other `flags`, and return its descriptor. Links are not followed.

    A relative `path` begins at the open `directory`, if that is given.

    Raises `OSError`: `IsADirectoryError` for a folder, ENXIO for another kind of file, ELOOP for a link, and EFBIG for
    more than `most_bytes`. Its `strerror` says what the file is.
    """
    try:
        descriptor = os.open(path, flags, 0o666, dir_fd=directory)
    except OSError as error:
        raise _explain(error, path) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            raise OSError(errno.ENXIO, _KINDS.get(stat.S_IFMT(status.st_mode), "Is not a regular file"), str(path))
        if most_bytes is not None and status.st_size > most_bytes:
            size = f"Has {describe_bytes(status.st_size)}, and such a file has at most {describe_bytes(most_bytes)}"
            raise OSError(errno.EFBIG, size, str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_below(folder: Path, path: Path) -> int:
    """Open a regular file below `folder` for reading, and return its descriptor. Only `folder` itself may be a link.

    Each folder on the way is opened from the one before it, so exchanging one for a link in the meantime leads nowhere.
    Raises `OSError` as `open_regular` does, and ENOTDIR for a link in place of a folder.
    """
    *inner, name = path.relative_to(folder).parts
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in inner:
            outer = directory
            directory = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=outer)
            os.close(outer)
        return open_regular(name, directory=directory)
    finally:
        os.close(directory)


def read_regular(path: str | Path, *, most_bytes: int = SMALL_BYTES, follow_links: bool = False) -> bytes:
    """Return the bytes of a regular file of at most `most_bytes`. Raises `OSError` as `open_regular` does."""
    descriptor = open_regular(path, most_bytes=most_bytes, flags=_FOLLOWING if follow_links else _READING)
    try:
        chunks = [os.read(descriptor, _CHUNK_BYTES)]
        while len(chunks[-1]) == _CHUNK_BYTES:
            chunks.append(os.read(descriptor, _CHUNK_BYTES))
        return b"".join(chunks)
    finally:
        os.close(descriptor)


def _explain(error: OSError, path: str | Path) -> OSError:
    """Return the error with words that fit: the system calls a link a loop, and a socket a missing device."""
    if error.errno == errno.ELOOP:
        return OSError(errno.ELOOP, "Is a symbolic link, which Relight does not follow", str(path))
    if error.errno == errno.ENXIO:
        return OSError(errno.ENXIO, "Is a socket, or a device that does not exist", str(path))
    return error
