"""The recent past in a few samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.metrics.recent import read_recent
from relight.metrics.writer import MetricWriter


def log(folder: Path, count: int, *, attempt: int = 1, **values: float) -> None:
    writer = MetricWriter(folder, stream="system", attempt=attempt)
    for i in range(count):
        writer.log(i, {"free": float(i), **values}, time_s=1000.0 + i)
    writer.close()


@pytest.mark.parametrize("count", [1, 2, 59, 60, 61, 500])
def test_the_newest_record_is_there_and_all_are_in_order(tmp_path: Path, count: int) -> None:
    log(tmp_path, count)
    found = read_recent(tmp_path, "system/free", attempt=1)
    assert found[-1] == (1000.0 + count - 1, count - 1)
    assert found == sorted(found)
    assert min(count, 30) <= len(found) <= 60


def test_only_the_last_records_count(tmp_path: Path) -> None:
    log(tmp_path, 10_000)
    found = read_recent(tmp_path, "system/free", attempt=1)
    assert [value for _, value in found] == [9_999 - 60 * place for place in reversed(range(60))]


def test_what_is_not_there_gives_nothing(tmp_path: Path) -> None:
    log(tmp_path, 3, nothing=float("nan"))
    assert read_recent(tmp_path / "gone", "system/free", attempt=1) == []
    assert read_recent(tmp_path, "system/free", attempt=2) == []
    assert read_recent(tmp_path, "system/other", attempt=1) == []
    assert read_recent(tmp_path, "system/nothing", attempt=1) == []


def test_a_damaged_file_gives_nothing(tmp_path: Path) -> None:
    log(tmp_path, 3)
    path = next(tmp_path.iterdir())
    path.write_bytes(b"x" + path.read_bytes())
    assert read_recent(tmp_path, "system/free", attempt=1) == []


def test_a_torn_tail_counts_as_not_there(tmp_path: Path) -> None:
    log(tmp_path, 3)
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-3])
    assert read_recent(tmp_path, "system/free", attempt=1)[-1] == (1001.0, 1.0)
