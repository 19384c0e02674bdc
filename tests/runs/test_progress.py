"""The progress record: exact bytes, torn ones never believed, and an ETA that knows only its own attempt."""

from __future__ import annotations

import math
import struct
import timeit
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.runs.progress import PHASES, Progress, ProgressFile, read_progress
from tests.patience import stretch

PROGRESS = Progress(
    step=7,
    steps_total=100,
    epoch=1,
    epochs=4,
    batch=3,
    batches=25,
    time_s=1000.5,
    started_s=990.0,
    first_step=2,
    steps_per_s=0.5,
    phase="validating",
    best_step=5,
    best_value=0.25,
    work_s=12.0,
)


def _write(path: Path, progress: Progress) -> None:
    file = ProgressFile(path)
    file.write(progress)
    file.close()


def test_the_bytes_are_those_of_the_documented_layout(tmp_path: Path) -> None:
    _write(tmp_path / "progress.bin", PROGRESS)
    body = b"RLPG" + struct.pack("<HH", 1, 2)
    body += struct.pack("<8q", 7, 100, 1, 4, 3, 25, 2, 5)
    body += struct.pack("<5d", 1000.5, 990.0, 0.5, 0.25, 12.0) + bytes(12)
    assert (tmp_path / "progress.bin").read_bytes() == body + struct.pack("<I", zlib.crc32(body))
    assert len(body) == 124


@given(
    integers=st.lists(st.integers(-1, 2**62), min_size=8, max_size=8),
    floats=st.lists(st.floats(allow_nan=False), min_size=5, max_size=5),
    phase=st.sampled_from(PHASES),
)
def test_every_progress_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory, integers: list[int], floats: list[float], phase: Any
) -> None:
    names = ["step", "steps_total", "epoch", "epochs", "batch", "batches", "first_step", "best_step"]
    fields = dict(zip(names, integers, strict=True))
    fields |= dict(zip(["time_s", "started_s", "steps_per_s", "best_value", "work_s"], floats, strict=True))
    progress = Progress(phase=phase, **fields)  # type: ignore[arg-type]
    path = tmp_path_factory.mktemp("progress") / "progress.bin"
    _write(path, progress)
    assert read_progress(path) == progress


def test_not_a_number_survives(tmp_path: Path) -> None:
    _write(tmp_path / "p", Progress())
    read = read_progress(tmp_path / "p")
    assert read is not None
    assert math.isnan(read.best_value)


def test_it_is_overwritten_in_place(tmp_path: Path) -> None:
    file = ProgressFile(tmp_path / "p")
    inode = (tmp_path / "p").stat().st_ino
    for step in range(5):
        file.write(Progress(step=step, best_value=0.5))
        assert read_progress(tmp_path / "p") == Progress(step=step, best_value=0.5)
    file.close()
    file.close()
    assert (tmp_path / "p").stat().st_ino == inode
    assert (tmp_path / "p").stat().st_size == 128


def test_missing_empty_short_and_foreign_files_read_as_none(tmp_path: Path) -> None:
    path = tmp_path / "p"
    assert read_progress(path) is None
    assert read_progress(tmp_path) is None
    for data in (b"", b"RLPG", bytes(128), b"x" * 128, b"x" * 5000):
        path.write_bytes(data)
        assert read_progress(path) is None
    body = b"RLPG" + struct.pack("<HH", 2, 0) + bytes(116)
    path.write_bytes(body + struct.pack("<I", zlib.crc32(body)))
    assert read_progress(path) is None, "a later version is not guessed at"


@given(position=st.integers(0, 127), bit=st.integers(0, 7))
def test_every_flipped_bit_is_noticed(tmp_path_factory: pytest.TempPathFactory, position: int, bit: int) -> None:
    path = tmp_path_factory.mktemp("progress") / "progress.bin"
    _write(path, PROGRESS)
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)
    assert read_progress(path) is None


@given(cut=st.integers(0, 127))
def test_a_mixture_of_two_records_is_never_believed(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("progress")
    _write(folder / "a", PROGRESS)
    _write(folder / "b", Progress(step=8, time_s=1001.5, best_value=0.5))
    a, b = (folder / "a").read_bytes(), (folder / "b").read_bytes()
    mixed = a[:cut] + b[cut:]
    (folder / "a").write_bytes(mixed)
    assert (read_progress(folder / "a") is not None) == (mixed in (a, b))


def test_the_eta_after_a_resume_counts_only_this_attempts_rate() -> None:
    resumed = Progress(step=910, first_step=900, steps_total=1000, started_s=100.0, time_s=105.0)
    assert resumed.rate == pytest.approx(2.0), "10 steps in 5 s, not 910"
    assert resumed.eta_s == pytest.approx(45.0)


def test_the_recent_rate_counts_before_the_mean() -> None:
    assert Progress(step=50, steps_total=100, started_s=1.0, time_s=2.0, steps_per_s=5.0).eta_s == pytest.approx(10.0)


@pytest.mark.parametrize(
    "progress",
    [
        Progress(),
        Progress(step=10, steps_total=0, steps_per_s=1.0),
        Progress(step=10, first_step=10, steps_total=20, started_s=1.0, time_s=1.0),
        Progress(step=0, steps_total=20, started_s=0.0, time_s=5.0),
        Progress(step=10, steps_total=20, started_s=9.0, time_s=5.0),
        Progress(step=0, steps_total=20, steps_per_s=math.nan),
    ],
)
def test_without_a_rate_or_a_total_there_is_no_eta(progress: Progress) -> None:
    assert progress.eta_s is None


def test_beyond_the_total_nothing_is_left() -> None:
    assert Progress(step=30, steps_total=20, steps_per_s=1.0).eta_s == 0.0


def test_a_write_costs_microseconds(tmp_path: Path) -> None:
    file = ProgressFile(tmp_path / "p")
    cost_s = min(timeit.repeat(lambda: file.write(PROGRESS), number=1000, repeat=5)) / 1000
    file.close()
    assert cost_s < stretch(30e-6)
