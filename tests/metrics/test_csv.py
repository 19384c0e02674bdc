"""CSV for people and pandas: stable columns, no step twice, the same bits back."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from relight.metrics.csv import write_csv
from tests.metrics.metric_folder import log_rows, losses


def _csv(folder: Path, *arguments: object, ghosts: bool = False) -> list[list[str]]:
    out = io.StringIO()
    count = write_csv(folder, out, *arguments, ghosts=ghosts)  # type: ignore[arg-type]
    rows = list(csv.reader(io.StringIO(out.getvalue())))
    assert len(rows) == count + 1
    return rows


def test_training_and_validation_share_a_row_and_the_machine_is_left_out(tmp_path: Path) -> None:
    log_rows(tmp_path, stream="validation", rows=[(2, {"accuracy": 0.5})], begin_s=100)
    log_rows(tmp_path, rows=[(1, {"loss": 0.1, "lr": 3.0}), (2, {"loss": float("nan"), "lr": 0.25})])
    log_rows(tmp_path, stream="system", rows=[(0, {"cpu_percent": 5.0})])
    assert _csv(tmp_path) == [
        ["step", "time", "attempt", "train/loss", "train/lr", "validation/accuracy"],
        ["1", "0.0", "1", "0.1", "3.0", ""],
        ["2", "100.0", "1", "nan", "0.25", "0.5"],
    ]
    assert _csv(tmp_path, ["system"])[0] == ["step", "time", "attempt", "system/cpu_percent"]


def test_no_step_shows_twice_and_ghosts_are_rows_of_their_own(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses([1, 2]))
    log_rows(tmp_path, attempt=2, rows=losses([2, 3], offset=0.5))
    assert [row[0] for row in _csv(tmp_path)[1:]] == ["1", "2", "3"]
    assert [(row[0], row[2], row[3], row[4]) for row in _csv(tmp_path, ghosts=True)] == [
        ("step", "attempt", "ghost", "train/loss"),
        ("1", "1", "0", "1.0"),
        ("2", "1", "1", "2.0"),
        ("2", "2", "0", "2.5"),
        ("3", "2", "0", "3.5"),
    ]


def test_numbers_come_back_with_the_same_bits(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-300, float("inf"), -0.0]
    log_rows(tmp_path, rows=[(step, {"loss": value}) for step, value in enumerate(values)], begin_s=1_700_000_000.123)
    rows = _csv(tmp_path)[1:]
    assert [float(row[3]).hex() for row in rows] == [value.hex() for value in values]
    assert float(rows[0][1]) == 1_700_000_000.123


def test_names_with_commas_and_quotes_are_quoted(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=[(1, {'a,"b"': 1.0})])
    assert _csv(tmp_path)[0][3] == 'train/a,"b"'


def test_nothing_logged_is_a_header(tmp_path: Path) -> None:
    assert _csv(tmp_path / "none") == [["step", "time", "attempt"]]


def test_more_rows_than_a_block_are_all_written(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses(range(25_001)))
    assert [int(row[0]) for row in _csv(tmp_path)[1:]] == list(range(25_001))
