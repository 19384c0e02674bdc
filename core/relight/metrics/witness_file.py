"""The witness file of an attempt: a few digests for each of its last steps, which show what those steps computed.

    offset  bytes  content
         0      4  magic "RLWT"
         4      2  version, 2
         6      2  bytes of a record, 48
         8     56  zero
        64     48  record of a step whose number is a multiple of 16,384
       112     48  record of the next step
       ...

A record is six little-endian uint64: step, batch, generators, rates, weights, check. The number of a step decides where
its record is, so the file holds the last 16,384 steps and stays below 0.8 MB. `check` is the exclusive or of the five
numbers before it and a constant: a record that does not match was being written when the process ended. A digest of 0
means that nothing was observed. No resume needs the file; it only shows whether a resume was exact.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from relight.regular_file import open_regular

CAPACITY = 1 << 14
"""Steps that a file holds."""

_HEADER_BYTES = 64
_MAGIC, _VERSION = b"RLWT", 2
_HEADER = struct.Struct("<4sHH56x")
_RECORD = struct.Struct("<6Q")
_CHECK = 0x7769746E65737321
_log = logging.getLogger("relight")


class Digests(NamedTuple):
    """What one step computed, as digests below 2**64: 0 means that nothing was observed.

    The order is that of cause and effect: another batch makes other weights, never the reverse.
    """

    batch: int
    """Of the indices of the samples."""
    generators: int
    """Of the global random number generators after the step."""
    rates: int
    """Of the learning rates after the step."""
    weights: int
    """Of a sample of the weights after the step."""


class WitnessWriter:
    """Writes a record for each step. If the disk refuses, it warns once and gives up: no step depends on it."""

    def __init__(self, path: Path) -> None:
        """Create the file when the first record comes. Its folder must exist."""
        self._path = path
        self._descriptor = -1
        self._failed = False

    def write(self, witnesses: Sequence[tuple[int, int, int, int, int]]) -> None:
        """Write the records of consecutive steps: step, and digests in the order of `Digests`."""
        if self._failed:
            return
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
                os.pwrite(self._descriptor, _HEADER.pack(_MAGIC, _VERSION, _RECORD.size), 0)
            place, records = -1, bytearray()
            for step, batch, generators, rates, weights in witnesses:
                if place < 0 or step % CAPACITY == 0:  # back to the beginning of the file
                    self._put(records, place)
                    place, records = _place(step), bytearray()
                check = _CHECK ^ step ^ batch ^ generators ^ rates ^ weights
                records += _RECORD.pack(step, batch, generators, rates, weights, check)
            self._put(records, place)
        except OSError as error:
            self.close()
            _log.warning(
                "%s cannot be written (%s), so no later resume can be compared with this attempt. Training continues.",
                self._path.name, error.strerror or error,
            )  # fmt: skip

    def _put(self, records: bytearray, place: int) -> None:
        # Not through mapped memory: on a full disk that copies on write, the kernel would end this process.
        if records:
            os.pwrite(self._descriptor, records, place)

    def close(self) -> None:
        """Close the file; what was written stays."""
        self._failed = True
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_witnesses(path: Path, *, after_step: int) -> dict[int, Digests]:
    """Return the digests of each step after `after_step` that the file holds, in the order of the steps.

    Return nothing when the file is missing, damaged, or of a later version.
    """
    try:
        descriptor = open_regular(path)
        try:
            data = os.pread(descriptor, _place(CAPACITY - 1) + _RECORD.size, 0)
        finally:
            os.close(descriptor)
    except OSError:
        return {}
    if len(data) < _HEADER_BYTES or _HEADER.unpack_from(data) != (_MAGIC, _VERSION, _RECORD.size):
        return {}
    count = (len(data) - _HEADER_BYTES) // _RECORD.size
    records = np.frombuffer(data, dtype="<u8", offset=_HEADER_BYTES, count=6 * count).reshape(count, 6)
    steps, checks = records[:, 0], np.bitwise_xor.reduce(records, axis=1)
    whole = (checks == _CHECK) & (steps > after_step) & (steps % CAPACITY == np.arange(count))
    chosen = records[whole]
    ordered = chosen[np.argsort(chosen[:, 0])].tolist()
    return {step: Digests(*digests) for step, *digests, _ in ordered}


def _place(step: int) -> int:
    return _HEADER_BYTES + step % CAPACITY * _RECORD.size
