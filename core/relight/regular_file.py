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


def open_regular(path: str | Path, *, most_bytes: int | None = None, flags: int = _READING) -> int:
    """Open a regular file for reading, or with other `flags`, and return its descriptor. Links are not followed.

    Raises `OSError`: `IsADirectoryError` for a folder, ENXIO for another kind of file, ELOOP for a link, and EFBIG for
    more than `most_bytes`. Its `strerror` says what the file is.
    """
    try:
        descriptor = os.open(path, flags, 0o666)
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
