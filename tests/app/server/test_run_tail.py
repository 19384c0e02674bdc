"""The tail tells every row once, with its place, whatever happens to the files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relight.metrics.writer import MetricWriter
from relight_app.server.run_tail import RowBlock, RunTail, read_positions


def _steps(blocks: list[RowBlock], stream: str = "train") -> list[int]:
    return [step for block in blocks if block.header.stream == stream for step in block.steps.tolist()]


def test_it_begins_where_the_files_end_and_tells_what_comes(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path, stream="train", attempt=1)
    for step in (1, 2, 3):
        writer.log(step, {"loss": 1.0})
    tail = RunTail(tmp_path)
    assert tail.positions() == {"train": {"0001-train.rlm": 3}} == read_positions(tmp_path)
    assert tail.poll() == []
    writer.log(4, {"loss": 0.5}, time_s=17.0)
    writer.log(5, {"loss": 0.25}, time_s=18.0)
    (block,) = tail.poll()
    assert (block.file, block.first, block.header.attempt) == ("0001-train.rlm", 3, 1)
    assert block.steps.tolist() == [4, 5] and block.times.tolist() == [17.0, 18.0]
    assert block.values.tolist() == [[0.5], [0.25]]
    assert tail.poll() == []


def test_a_file_that_appears_is_told_from_its_beginning(tmp_path: Path) -> None:
    tail = RunTail(tmp_path / "metrics")
    assert tail.poll() == [] and tail.positions() == {}
    writer = MetricWriter(tmp_path / "metrics", stream="train", attempt=2)
    writer.log(1, {"loss": 1.0})
    (block,) = tail.poll()
    assert block.first == 0 and block.steps.tolist() == [1]


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(1, 90), min_size=1, max_size=30))
def test_torn_writes_are_told_once_they_are_whole(cuts: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    writer = MetricWriter(folder / "whole", stream="train", attempt=1)
    for step in range(20):
        writer.log(step, {"loss": float(step), "lr": 1.0})
    writer.close()
    data = (folder / "whole" / "0001-train.rlm").read_bytes()
    tail = RunTail(folder)
    told: list[int] = []
    written = 0
    with (folder / "0001-train.rlm").open("wb", buffering=0) as file:
        for cut in [*cuts, len(data)]:
            file.write(data[written : written + cut])
            written += cut
            told += _steps(tail.poll())
    assert told == list(range(20))


def test_a_file_that_was_cut_or_replaced_is_noticed(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path, stream="train", attempt=1)
    for step in (1, 2, 3):
        writer.log(step, {"loss": 1.0})
    tail = RunTail(tmp_path)
    path = tmp_path / "0001-train.rlm"
    path.write_bytes(path.read_bytes()[:-24])
    tail.poll()
    assert tail.replaced
    tail.poll()
    assert not tail.replaced
    (tmp_path / "other").write_bytes(path.read_bytes())
    (tmp_path / "other").replace(path)
    tail.poll()
    assert tail.replaced


@pytest.mark.parametrize("garbage", [b"", b"{}\n", b"\x00" * 500, b"no newline"])
def test_a_damaged_file_hides_no_other(tmp_path: Path, garbage: bytes) -> None:
    (tmp_path / "0001-broken.rlm").write_bytes(garbage)
    (tmp_path / "foreign.txt").write_text("x")
    tail = RunTail(tmp_path)
    writer = MetricWriter(tmp_path, stream="train", attempt=1)
    writer.log(1, {"loss": 1.0})
    assert _steps(tail.poll()) == [1]
    assert set(tail.positions()) == {"train"}


def test_of_a_flood_the_last_rows_are_told_with_their_place(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path, stream="train", attempt=1)
    writer.log(0, {"loss": 0.0})
    tail = RunTail(tmp_path)
    for step in range(1, 45_001):
        writer.log(step, {"loss": 1.0})
    (block,) = tail.poll()
    assert block.steps.tolist() == list(range(block.first, 45_001)) and 1_000 < len(block.steps) <= 5_000
    assert tail.poll() == [] and tail.positions() == {"train": {"0001-train.rlm": 45_001}}
