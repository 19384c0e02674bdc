"""The cached columns of a metric file are always those that are in it, however it grows or is replaced."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relight.metrics.metric_file import MetricFile
from relight.metrics.metric_records import read_records
from relight_app.server.column_cache import ColumnCache
from tests.app.server.metric_runs import append_records

COLUMNS = ("a", "b", "c", "d")


def _log(folder: Path, first: int, count: int) -> Path:
    return append_records(folder, COLUMNS, first=first, count=count)


def _names(columns: Collection[str]) -> list[str]:
    return [f"train/{column}" for column in columns]


def _check(cache: ColumnCache, path: Path, columns: Collection[str]) -> None:
    """Compare with an uncached reading, bit for bit."""
    got, right = cache.read(path, _names(columns), go_on=lambda: None), read_records(path)
    assert got.steps.tolist() == right.steps.tolist() and got.times.tolist() == right.times.tolist()
    for column in columns:
        assert got.column(column).tobytes() == right.column(column).tobytes()


def _count_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the size of every reading from now on."""
    sizes: list[int] = []
    read: Callable[..., bytes] = MetricFile.read_bytes

    def noted(file: MetricFile, *, first: int, count: int) -> bytes:
        data = read(file, first=first, count=count)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(MetricFile, "read_bytes", noted)
    return sizes


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.integers(1, 20).map(lambda count: ("grow", count)),
            st.sets(st.sampled_from(COLUMNS), min_size=1).map(lambda columns: ("read", tuple(columns))),
            st.sampled_from([("replace", 0), ("cut", 0), ("rewrite", 0)]),
        ),
        max_size=12,
    ),
    most_bytes=st.sampled_from([0, 500, 2000, 1 << 20]),
)
def test_what_it_returns_is_what_the_file_has(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]], most_bytes: int
) -> None:
    folder, cache, count = tmp_path_factory.mktemp("metrics"), ColumnCache(most_bytes=most_bytes), 3
    path = _log(folder, 1, count)
    for kind, value in steps:
        if kind == "grow":
            assert isinstance(value, int)
            _log(folder, count + 1, value)
            count += value
        elif kind == "replace":
            shutil.copy(path, folder / "other")
            (folder / "other").replace(path)
        elif kind == "cut":
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size - 48)
            if not len(read_records(path).steps):
                break
        elif kind == "rewrite":  # in place: the same inode and length, other records
            content = bytearray(path.read_bytes())
            content[-48:-32] = np.array([777.0, 777.0]).tobytes()
            with path.open("r+b") as file:
                file.write(content)
        else:
            assert isinstance(value, tuple)
            _check(cache, path, value)
    _check(cache, path, COLUMNS)


def test_a_second_reading_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = _log(tmp_path, 1, 1000), ColumnCache(most_bytes=1 << 20)
    cache.read(path, _names("ab"), go_on=lambda: None)
    _log(tmp_path, 1001, 5)
    sizes = _count_bytes(monkeypatch)
    assert len(cache.read(path, _names("b"), go_on=lambda: None).steps) == 1005
    assert sum(sizes) <= 6 * 48


def test_it_keeps_no_more_than_it_may_and_forgets_what_was_read_longest_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [_log(tmp_path / str(number), 1, 1000) for number in range(3)]
    cache = ColumnCache(most_bytes=50_000)  # two files of 1000 records of step, time and one value
    for path in paths:
        _check(cache, path, "a")
    sizes = _count_bytes(monkeypatch)
    cache.read(paths[2], _names("a"), go_on=lambda: None)
    assert sum(sizes) < 100
    cache.read(paths[0], _names("a"), go_on=lambda: None)
    assert sum(sizes) > 48_000
    _check(cache, paths[0], "abcd")  # more than it may keep


def test_go_on_can_stop_it_at_every_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relight_app.server.column_cache._CHUNK_BYTES", 48 * 10)
    path, cache, calls = _log(tmp_path, 1, 100), ColumnCache(most_bytes=1 << 20), 0

    def go_on() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("enough")

    sizes = _count_bytes(monkeypatch)
    with pytest.raises(RuntimeError, match="enough"):
        cache.read(path, _names("a"), go_on=go_on)
    assert sum(sizes) == 2 * 48 * 10
    _check(cache, path, "a")
