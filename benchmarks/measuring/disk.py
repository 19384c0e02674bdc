"""What the disk itself takes, and what it is."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

_CHUNK_BYTES = 16 << 20


def write_raw(path: Path, nbytes: int) -> float:
    """Write that many bytes past the page cache, and sync; return how many seconds that took. The file is removed."""
    path.unlink(missing_ok=True)
    os.sync()
    with mmap.mmap(-1, _CHUNK_BYTES) as chunk:  # page-aligned, as O_DIRECT wants it
        chunk.write(os.urandom(_CHUNK_BYTES))
        begun = time.perf_counter()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_DIRECT", 0), 0o600)
        try:
            for _ in range(-(-nbytes // _CHUNK_BYTES)):
                os.write(descriptor, chunk)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        taken = (time.perf_counter() - begun) * nbytes / (-(-nbytes // _CHUNK_BYTES) * _CHUNK_BYTES)
    path.unlink()
    return taken


def name_file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on."""
    import psutil

    whole = str(folder.resolve())
    mounts = [part for part in psutil.disk_partitions(all=True) if whole.startswith(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "an unknown file system"
