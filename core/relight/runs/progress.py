"""The last step edge of an attempt: one fixed-size record that the trainer overwrites in place.

It is written after every step of a millisecond or more, and for shorter steps every 10 ms, so it must cost next to
nothing: one `pwrite` of 128 bytes, no fsync, no rename. A reader may find it half written, notices that by the
checksum, and reads again.

    offset  bytes  content
         0      4  magic "RLPG"
         4      2  version, 1
         6      2  phase: index in `PHASES`
         8     64  int64 x 8: step, steps_total, epoch, epochs, batch, batches, first_step, best_step
        72     40  float64 x 5: time_s, started_s, steps_per_s, best_value, work_s
       112     12  zero
       124      4  CRC-32 of the 124 bytes before

All little-endian.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from pathlib import Path
from typing import Literal, get_args

import msgspec

from relight.regular_file import open_regular

Phase = Literal["starting", "training", "validating", "saving", "finished"]
PHASES: tuple[Phase, ...] = get_args(Phase)

_BODY = struct.Struct("<4sHH8q5d12x")
_CHECKSUM = struct.Struct("<I")
_BYTES = _BODY.size + _CHECKSUM.size
_MAGIC = b"RLPG"
_VERSION = 1
_PHASE_NUMBER: dict[Phase, int] = {phase: number for number, phase in enumerate(PHASES)}
_READ_TRIES = 5


class Progress(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How far an attempt is. Step 0 is the state before training, step 1 the state after the first step."""

    step: int = 0
    steps_total: int = 0
    """0 when unknown."""
    epoch: int = 0
    """The epoch being trained, from 0."""
    epochs: int = 0
    batch: int = 0
    """Batches of this epoch that are done."""
    batches: int = 0
    """Batches in an epoch; 0 when unknown."""
    time_s: float = 0.0
    """Time of the last step edge."""
    started_s: float = 0.0
    """When this attempt's first step began; 0 before that."""
    first_step: int = 0
    """The step from which this attempt began."""
    steps_per_s: float = 0.0
    """Recent rate of this attempt; 0 when unknown."""
    phase: Phase = "starting"
    best_step: int = -1
    """Step of the best value; -1 before there is one."""
    best_value: float = math.nan
    work_s: float = 0.0
    """Seconds of training that led to this state, over all attempts."""

    @property
    def rate(self) -> float:
        """Steps per second in this attempt: the recent rate, else the mean since it began; 0 when unknown."""
        if self.steps_per_s > 0 and math.isfinite(self.steps_per_s):
            return self.steps_per_s
        done, spent_s = self.step - self.first_step, self.time_s - self.started_s
        return done / spent_s if self.started_s > 0 and done > 0 and spent_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds of training left at this attempt's own rate, which makes it right after a resume, too."""
        if self.steps_total <= 0 or self.rate <= 0:
            return None
        return max(0, self.steps_total - self.step) / self.rate


class ProgressFile:
    """A progress file, open for writing."""

    def __init__(self, path: Path) -> None:
        """Open `path`, and create it when it is missing; its folder must exist."""
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._buffer = bytearray(_BYTES)
        self._body = memoryview(self._buffer)[: _BODY.size]

    def write(self, progress: Progress) -> None:
        """Overwrite the record. Raises `OSError` on a full disk; the caller warns about it."""
        self.put(
            progress.phase, progress.step, progress.steps_total, progress.epoch, progress.epochs, progress.batch,
            progress.batches, progress.first_step, progress.best_step, progress.time_s, progress.started_s,
            progress.steps_per_s, progress.best_value, progress.work_s,
        )  # fmt: skip

    def put(self, phase: Phase, *numbers: float) -> None:
        """Overwrite the record with the numbers in file order, from `step` on. Takes about 2 us."""
        buffer = self._buffer
        _BODY.pack_into(buffer, 0, _MAGIC, _VERSION, _PHASE_NUMBER[phase], *numbers)
        _CHECKSUM.pack_into(buffer, _BODY.size, zlib.crc32(self._body))
        os.pwrite(self._descriptor, buffer, 0)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_progress(path: Path) -> Progress | None:
    """Return the record in `path`; None when it is missing, damaged or of a later version. Never raises."""
    try:
        descriptor = open_regular(path)
    except OSError:
        return None
    try:
        for _ in range(_READ_TRIES):
            data = os.pread(descriptor, _BYTES, 0)
            if len(data) < _BYTES:
                return None
            progress = _decode(data)
            if progress is not None:
                return progress
        return None
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _decode(data: bytes) -> Progress | None:
    (checksum,) = _CHECKSUM.unpack_from(data, _BODY.size)
    if checksum != zlib.crc32(data[: _BODY.size]):
        return None
    (
        magic,
        version,
        phase,
        step,
        steps_total,
        epoch,
        epochs,
        batch,
        batches,
        first_step,
        best_step,
        time_s,
        started_s,
        steps_per_s,
        best_value,
        work_s,
    ) = _BODY.unpack_from(data)
    if magic != _MAGIC or version != _VERSION or phase >= len(PHASES):
        return None
    return Progress(
        step=step,
        steps_total=steps_total,
        epoch=epoch,
        epochs=epochs,
        batch=batch,
        batches=batches,
        time_s=time_s,
        started_s=started_s,
        first_step=first_step,
        steps_per_s=steps_per_s,
        phase=PHASES[phase],
        best_step=best_step,
        best_value=best_value,
        work_s=work_s,
    )
