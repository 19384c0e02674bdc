"""Memory that the trainer and the writer process share. A snapshot in it outlives the trainer."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable

from relight.errors import SaveError
from relight.wording import describe_bytes

_MARGIN_BYTES = 1 << 20

Unregister = Callable[[], bool]
"""Ends a registration. Return False if the device may still write to the memory."""
Register = Callable[[memoryview], Unregister | None]
"""Prepares memory for fast copies from a device. Returns None if the device refuses."""

_still_registered: list[mmap.mmap] = []
"""What could not be unregistered stays mapped until the process ends, so that its addresses are not used again."""


class StagingMemory:
    """One block of shared memory, shared by file descriptor.

    The kernel frees it when no process has it mapped or its descriptor open any more.
    """

    def __init__(self, descriptor: int, nbytes: int) -> None:
        """Map `nbytes` of an open descriptor, which this object owns from then on."""
        self.descriptor = descriptor
        self.nbytes = nbytes
        self._map = mmap.mmap(descriptor, nbytes)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                self._map.madvise(mmap.MADV_HUGEPAGE)
            except OSError:
                pass
        self.view = memoryview(self._map)
        self._was_offered = False
        self._unregister: weakref.finalize[[Unregister, mmap.mmap], StagingMemory] | None = None

    @classmethod
    def create(cls, nbytes: int) -> StagingMemory:
        """Allocate memory. It is taken from the machine at once, so that writing to it later cannot fail.

        On Linux it is a memfd, which no file system limits (a container's /dev/shm has 64 MB). Elsewhere it is a
        temporary file without a name. Raises `SaveError` if there is not enough memory.
        """
        nbytes = -(-max(nbytes, 1) // _MARGIN_BYTES) * _MARGIN_BYTES
        available = available_bytes()
        if nbytes > available:
            # The kernel would grant it, and kill some process later.
            raise SaveError(
                f"A snapshot needs {describe_bytes(nbytes)} of memory, but only {describe_bytes(available)} is "
                "available. Free some memory, or train a smaller model on this machine."
            )
        descriptor = _open_memory()
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, nbytes)
            else:
                os.ftruncate(descriptor, nbytes)
            return cls(descriptor, nbytes)
        except OSError as error:
            os.close(descriptor)
            if error.errno == errno.EFBIG:
                raise SaveError(
                    f"A snapshot needs {describe_bytes(nbytes)}, more than the limit on the size of files allows "
                    f"(ulimit -f). Raise the limit (prlimit --fsize=unlimited --pid {os.getpid()}), or start the run "
                    "again without it."
                ) from error
            if error.errno not in (errno.ENOSPC, errno.ENOMEM):
                raise
            raise SaveError(
                f"There is no memory to hold a snapshot of {describe_bytes(nbytes)}. "
                "Free some memory, or train a smaller model on this machine."
            ) from error

    def offer(self, register: Register) -> None:
        """Let a device prepare this memory, at the first call. That ends before the memory is unmapped.

        A device keeps the pages that it was told, not the addresses: if other memory got the addresses while they are
        registered, copies would end in the old pages without any error.
        """
        if self._was_offered:
            return
        self._was_offered = True
        unregister = register(self.view)
        if unregister is not None:
            self._unregister = weakref.finalize(self, _end_registration, unregister, self._map)
            self._unregister.atexit = False  # the end of the process ends it

    def close(self) -> None:
        """Unmap the memory in this process. Existing views of it stay valid."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        self.view = memoryview(b"")
        if self._unregister is not None and not self._unregister():
            return
        try:
            self._map.close()
        except BufferError:
            pass


def available_bytes() -> int:
    """Return how much memory can be allocated now without a process being killed, within the container's limit."""
    import psutil

    from relight.machine.cgroup import CgroupLimits

    available = int(psutil.virtual_memory().available)
    limit = CgroupLimits().memory()
    return available if limit is None else min(available, max(0, limit[0] - limit[1]))


def _end_registration(unregister: Unregister, mapped: mmap.mmap) -> bool:
    if unregister():
        return True
    _still_registered.append(mapped)
    return False


def _open_memory() -> int:
    if hasattr(os, "memfd_create"):
        try:
            return os.memfd_create("relight-snapshot", os.MFD_CLOEXEC)
        except OSError:
            pass
    with tempfile.TemporaryFile(prefix="relight-snapshot-") as file:
        return os.dup(file.fileno())
