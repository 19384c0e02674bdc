"""Main line and ghosts: each step belongs to the latest attempt that logged it, once, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relight.metrics.series import (
    Series,
    read_samples,
    read_series,
    read_split_series,
    split_series,
)
from tests.metrics.metric_folder import log_rows, losses


def _pairs(series: Series) -> list[tuple[int, int, float]]:
    return list(zip(series.steps.tolist(), series.attempts.tolist(), series.values.tolist(), strict=True))


def test_one_attempt_is_all_main_line(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses([1, 2, 3]))
    series = read_series(tmp_path, "train/loss")
    assert _pairs(series) == [(1, 1, 1.0), (2, 1, 2.0), (3, 1, 3.0)]
    assert series.times.tolist() == [0.0, 1.0, 2.0]
    assert read_split_series(tmp_path, "train/loss").ghosts == ()


def test_what_a_later_attempt_trained_again_is_ghost(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses(range(1, 8)))
    log_rows(tmp_path, attempt=2, rows=losses(range(6, 10), offset=0.5))
    assert _pairs(read_series(tmp_path, "train/loss")) == [
        *((step, 1, float(step)) for step in range(1, 6)),
        *((step, 2, step + 0.5) for step in range(6, 10)),
    ]
    (ghost,) = read_split_series(tmp_path, "train/loss").ghosts
    assert _pairs(ghost) == [(6, 1, 6.0), (7, 1, 7.0)]


def test_what_is_not_yet_trained_again_stays_on_the_main_line(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses(range(1, 8)))
    log_rows(tmp_path, attempt=2, rows=losses([5], offset=0.5))
    assert [attempt for _, attempt, _ in _pairs(read_series(tmp_path, "train/loss"))] == [1, 1, 1, 1, 2, 1, 1]


def test_every_attempt_has_its_own_ghost(tmp_path: Path) -> None:
    for attempt in (1, 2, 3):
        log_rows(tmp_path, attempt=attempt, rows=losses([1, 2], offset=attempt / 10))
    split = read_split_series(tmp_path, "train/loss")
    assert _pairs(split.main) == [(1, 3, 1.3), (2, 3, 2.3)]
    assert [set(ghost.attempts.tolist()) for ghost in split.ghosts] == [{1}, {2}]


def test_of_a_step_logged_twice_in_one_attempt_the_later_record_counts_and_none_is_ghost(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=[(1, {"loss": 1.0}), (1, {"loss": 2.0}), (2, {"loss": 3.0})])
    split = read_split_series(tmp_path, "train/loss")
    assert _pairs(split.main) == [(1, 1, 2.0), (2, 1, 3.0)]
    assert split.ghosts == ()


def test_also_when_the_later_record_is_in_another_file_of_the_attempt(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=[(1, {"loss": 1.0, "lr": 0.1}), (2, {"loss": 2.0}), (2, {"loss": 2.5, "lr": 0.1})])
    assert _pairs(read_series(tmp_path, "train/loss")) == [(1, 1, 1.0), (2, 1, 2.5)]


def test_a_loss_that_is_no_number_is_a_value_and_not_a_gap(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses([1]))
    log_rows(tmp_path, attempt=2, rows=[(1, {"loss": float("nan")})])
    assert np.isnan(read_series(tmp_path, "train/loss").values).tolist() == [True]


def test_a_name_that_nobody_logged_is_empty(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses([1]))
    for name in ("train/none", "none/loss", "loss", ""):
        assert len(read_series(tmp_path, name)) == 0


def test_samples_keep_every_record(tmp_path: Path) -> None:
    log_rows(tmp_path, stream="system", rows=[(0, {"cpu": float(number)}) for number in range(50)])
    log_rows(tmp_path, stream="system", attempt=2, rows=[(0, {"cpu": 99.0})])
    assert read_samples(tmp_path, ["system/cpu"])["system/cpu"].values.tolist() == [*map(float, range(50)), 99.0]
    assert len(read_series(tmp_path, "system/cpu")) == 1


def test_several_names_are_read_at_once(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=[(1, {"loss": 1.0, "lr": 0.1})])
    log_rows(tmp_path, stream="validation", rows=[(1, {"loss": 2.0})])
    many = read_samples(tmp_path, ["train/loss", "validation/loss", "none/at-all"])
    assert {name: series.values.tolist() for name, series in many.items()} == {
        "train/loss": [1.0],
        "validation/loss": [2.0],
        "none/at-all": [],
    }


def test_attempts_beyond_9999_still_come_last(tmp_path: Path) -> None:
    log_rows(tmp_path, attempt=10_000, rows=losses([1], offset=0.9))
    log_rows(tmp_path, attempt=9_999, rows=losses([1]))
    assert _pairs(read_series(tmp_path, "train/loss")) == [(1, 10_000, 1.9)]


RECORDS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12), st.floats(allow_nan=False)), max_size=60)


def _samples(records: list[tuple[int, int, float]]) -> Series:
    ordered = sorted(records, key=lambda record: record[0])  # stable: the order of writing within an attempt
    attempts, steps, values = (np.array([record[k] for record in ordered]) for k in range(3))
    return Series("x", steps.astype(np.int64), np.arange(len(ordered)) * 1.0, values * 1.0, attempts.astype(np.int64))


@settings(max_examples=400)
@given(records=RECORDS)
def test_the_rule_holds_for_any_history(records: list[tuple[int, int, float]]) -> None:
    split = split_series(_samples(records))
    main = _pairs(split.main)
    newest: dict[int, dict[int, float]] = {}
    for attempt, step, value in records:
        newest.setdefault(step, {})[attempt] = value
    assert main == [(step, max(by), by[max(by)]) for step, by in sorted(newest.items())], "the latest attempt has it"
    ghosts = [pair for ghost in split.ghosts for pair in _pairs(ghost)]
    assert sorted(ghosts, key=lambda pair: (pair[1], pair[0])) == ghosts
    assert set(ghosts) == {
        (step, attempt, value) for step, by in newest.items() for attempt, value in by.items() if attempt != max(by)
    }, "everything else that an attempt holds for a step is ghost: nothing is lost, nothing is there twice"
    assert len(ghosts) == len(set(ghosts))
    for ghost in split.ghosts:
        assert len(set(ghost.attempts.tolist())) == 1
        assert len(ghost) > 0


@settings(max_examples=50, deadline=None)
@given(records=RECORDS)
def test_files_give_what_the_rule_says(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[int, int, float]]
) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    for attempt in range(1, 5):
        rows = [(step, {"loss": value}) for number, step, value in records if number == attempt]
        if rows:
            log_rows(folder, attempt=attempt, rows=rows)
    found, expected = read_split_series(folder, "train/loss"), split_series(_samples(records))
    assert _pairs(found.main) == _pairs(expected.main)
    assert [_pairs(ghost) for ghost in found.ghosts] == [_pairs(ghost) for ghost in expected.ghosts]
