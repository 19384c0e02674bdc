"""Following metrics: every record once, in order, whatever happens to the files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relight.metrics import tail as tail_module
from relight.metrics.tail import MetricTail
from relight.metrics.writer import MetricWriter
from tests.metrics.metric_folder import log_rows, losses


def _poll_steps(tail: MetricTail) -> list[int]:
    return [row.step for block in tail.poll() for row in block.read_rows()]


def test_each_record_comes_once_as_it_is_written(tmp_path: Path) -> None:
    tail = MetricTail(tmp_path / "metrics")
    assert tail.poll() == []
    writer = MetricWriter(tmp_path / "metrics", stream="train", attempt=2)
    writer.log(1, {"loss": 0.5, "lr": 0.1}, time_s=10.0)
    (block,) = tail.poll()
    assert (block.file, block.first, len(block)) == ("0002-train.rlm", 0, 1)
    (row,) = block.read_rows()
    assert row == ("train", 2, 1, 10.0, {"train/loss": 0.5, "train/lr": 0.1})
    assert tail.poll() == []
    writer.log(2, {"loss": 0.4, "lr": 0.1}, time_s=11.0)
    writer.log(3, {"loss": 0.3, "lr": 0.1}, time_s=12.0)
    (block,) = tail.poll()
    assert block.first == 1
    steps, times, losses, rates = block.read_columns()
    assert (steps, times, losses, rates) == ((2, 3), (11.0, 12.0), (0.4, 0.3), (0.1, 0.1))
    writer.close()


def test_new_attempts_and_streams_are_picked_up(tmp_path: Path) -> None:
    tail = MetricTail(tmp_path)
    log_rows(tmp_path, rows=losses([1]))
    assert len(tail.poll()) == 1
    log_rows(tmp_path, attempt=2, rows=losses([1]))
    log_rows(tmp_path, stream="validation", rows=losses([1]))
    assert {(block.header.stream, block.header.attempt) for block in tail.poll()} == {("train", 2), ("validation", 1)}


def test_what_was_there_can_be_passed_over(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses(range(5)))
    tail = MetricTail(tmp_path, from_start=False)
    assert tail.positions() == {"train": {"0001-train.rlm": 5}}
    assert tail.poll() == []
    log_rows(tmp_path, attempt=2, rows=losses([9]))
    assert _poll_steps(tail) == [9]


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(0, 400), max_size=12))
def test_a_file_that_grows_by_any_pieces_gives_each_record_once(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    log_rows(folder, rows=losses(range(1, 11)))
    path = folder / "0001-train.rlm"
    data = path.read_bytes()
    path.write_bytes(b"")
    tail, steps = MetricTail(folder), []
    for end in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
        with path.open("r+b") as file:
            file.write(data[:end])
        steps += _poll_steps(tail)
    assert steps == list(range(1, 11))


def test_a_file_that_is_replaced_is_read_from_its_beginning(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses([1, 2, 3]))
    tail = MetricTail(tmp_path)
    assert _poll_steps(tail) == [1, 2, 3]
    log_rows(tmp_path / "other", rows=losses([7, 8, 9, 10]))
    (tmp_path / "other" / "0001-train.rlm").rename(tmp_path / "0001-train.rlm")
    assert _poll_steps(tail) == [7, 8, 9, 10]
    assert tail.replaced and tail.positions() == {"train": {"0001-train.rlm": 4}}
    assert tail.poll() == [] and not tail.replaced


def test_a_file_that_is_cut_short_is_read_from_its_beginning(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses([1, 2, 3]))
    tail = MetricTail(tmp_path)
    tail.poll()
    path = tmp_path / "0001-train.rlm"
    path.write_bytes(path.read_bytes()[:-24])
    assert _poll_steps(tail) == [1, 2]
    assert tail.replaced


def test_a_file_that_disappears_and_comes_back_is_read_again(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses([1]))
    tail = MetricTail(tmp_path)
    tail.poll()
    path = tmp_path / "0001-train.rlm"
    data = path.read_bytes()
    path.unlink()
    assert tail.poll() == [] and tail.replaced and tail.positions() == {}
    path.write_bytes(data)
    assert _poll_steps(tail) == [1]


@pytest.mark.parametrize("data", [b"", b"garbage\n", b"{}\n", b"x" * 100])
def test_a_damaged_file_hides_no_other_and_is_read_once_it_is_mended(tmp_path: Path, data: bytes) -> None:
    log_rows(tmp_path, rows=losses([1]))
    path = tmp_path / "0001-train.rlm"
    good = path.read_bytes()
    path.write_bytes(data)
    log_rows(tmp_path, stream="validation", rows=losses([5]))
    tail = MetricTail(tmp_path)
    assert _poll_steps(tail) == [5]
    assert set(tail.positions()) == {"validation"}
    path.write_bytes(good)
    assert _poll_steps(tail) == [1]


def test_a_long_history_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "READ_BYTES", 24 * 10)
    log_rows(tmp_path, rows=losses(range(25)))
    tail = MetricTail(tmp_path)
    assert [len(_poll_steps(tail)) for _ in range(4)] == [10, 10, 5, 0]


def test_a_known_file_that_is_damaged_is_forgotten_until_it_is_mended(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses([1, 2]))
    path = tmp_path / "0001-train.rlm"
    good = path.read_bytes()
    tail = MetricTail(tmp_path)
    tail.poll()
    path.write_bytes(b"garbage\n")
    assert tail.poll() == [] and tail.replaced and tail.positions() == {}
    path.write_bytes(good)
    assert _poll_steps(tail) == [1, 2] and not tail.replaced


def test_the_last_records_of_a_block_keep_their_place(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses(range(1, 101)))
    (block,) = MetricTail(tmp_path).poll()
    last = block.keep_last(3)
    assert (last.first, len(last), [row.step for row in last.read_rows()]) == (97, 3, [98, 99, 100])
    assert block.keep_last(1000) == block
