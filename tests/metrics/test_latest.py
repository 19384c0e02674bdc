"""The newest value of every metric."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.metrics.latest import latest_values
from relight.metrics.writer import MetricWriter
from tests.metrics.metric_folder import log_rows, losses


def test_the_last_record_of_each_stream_counts(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=[(1, {"loss": 1.0, "lr": 0.1}), (2, {"loss": 0.5, "lr": 0.2})])
    log_rows(tmp_path, stream="validation", rows=[(2, {"accuracy": 0.9})])
    assert latest_values(tmp_path) == {"train/loss": 0.5, "train/lr": 0.2, "validation/accuracy": 0.9}


def test_the_newest_attempt_counts_also_where_an_earlier_one_came_further(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses(range(100)))
    log_rows(tmp_path, attempt=2, rows=losses([51], offset=0.5))
    assert latest_values(tmp_path) == {"train/loss": 51.5}


def test_an_attempt_that_has_no_whole_record_yet_does_not_count(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses([1]))
    log_rows(tmp_path, attempt=2, rows=losses([2]))
    path = tmp_path / "0002-train.rlm"
    path.write_bytes(path.read_bytes()[:-1])
    assert latest_values(tmp_path) == {"train/loss": 1.0}


def test_names_that_are_logged_apart_are_all_there_each_with_its_newest_value(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path, stream="train", attempt=1)
    writer.log(1, {"loss": 1.0, "norm": 7.0}, time_s=1.0)
    writer.log(2, {"loss": 2.0}, time_s=2.0)
    writer.close()
    assert latest_values(tmp_path) == {"train/loss": 2.0, "train/norm": 7.0}


def test_an_earlier_attempts_stream_that_the_newest_has_not_logged_yet_is_still_known(tmp_path: Path) -> None:
    log_rows(tmp_path, stream="validation", rows=[(5, {"accuracy": 0.9})])
    log_rows(tmp_path, attempt=2, rows=losses([6]))
    assert latest_values(tmp_path) == {"train/loss": 6.0, "validation/accuracy": 0.9}


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x00" * 1000, b"{}\n"])
def test_damaged_files_and_missing_folders_give_nothing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "0001-train.rlm").write_bytes(data)
    (tmp_path / "0002-train.rlm").mkdir()
    assert latest_values(tmp_path) == {}
    assert latest_values(tmp_path / "none") == {}


def test_a_header_longer_than_the_first_read_is_read_whole(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=[(1, {f"layer-{number}": float(number) for number in range(500)})])
    assert latest_values(tmp_path)["train/layer-499"] == 499.0
