"""What a mirror needs from the place where it keeps its files, and the errors of such a place."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from relight.errors import RelightError

RANGE_BYTES = 16 << 20
"""Size of one request when a large file is fetched: what a broken connection can cost."""


class MirrorError(RelightError):
    """The place cannot be used right now: it is down, full or forbidden. A later attempt may succeed."""


class MirrorRefused(RelightError):
    """Copying there would be wrong, however often it is tried. Nothing was overwritten."""


class NotThere(MirrorError):
    """There is no file of that name."""


class AlreadyThere(MirrorError):
    """There is a file of that name, so it was not created."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a mirror. `modified_s` is by the clock of that place."""

    bytes: int
    modified_s: float


class Remote(Protocol):
    """A folder of files elsewhere. Paths are relative, with slashes. A file is there complete or not at all.

    Every method raises `MirrorError` with a sentence that says what went wrong, without the URL.
    """

    def list_files(self, folder: str = "") -> dict[str, RemoteFile]:
        """Return all files below `folder`, by their whole path."""
        ...

    def list_folders(self) -> list[str]:
        """Return the names of the folders directly in this one."""
        ...

    def read(self, path: str, *, most_bytes: int) -> bytes:
        """Return a small file. Raises `NotThere`, and `MirrorError` if it is larger than `most_bytes`."""
        ...

    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Return `length` bytes of a file from `start` on: fewer at its end. Raises `NotThere`."""
        ...

    def put(self, path: str, chunks: Iterable[bytes], size: int) -> None:
        """Write a file of `size` bytes, in place of one of that name. An exception of `chunks` ends it: no file."""
        ...

    def create(self, path: str, data: bytes) -> None:
        """Write a small file unless there is one of that name: then raise `AlreadyThere`. One of several wins."""
        ...

    def delete(self, path: str) -> None:
        """Delete a file if it is there."""
        ...


def probe(remote: Remote) -> None:
    """Create one file twice. Raises `MirrorRefused` if the place lets the second one through.

    Some S3 servers ignore `If-None-Match` and overwrite silently. There two machines could mix two runs.
    """
    path = f"probe-{secrets.token_hex(8)}"
    remote.create(path, b"first")
    try:
        remote.create(path, b"second")
    except AlreadyThere:
        return
    finally:
        remote.delete(path)
    raise MirrorRefused(
        "The server does not honor conditional writes (If-None-Match): it overwrote a file that it was told only to "
        "create. Two machines could overwrite each other's checkpoints there, so nothing is copied. Use a server that "
        "honors them, such as AWS S3, SeaweedFS, MinIO or Ceph."
    )
