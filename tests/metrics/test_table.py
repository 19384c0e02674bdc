"""Tables: each step once, each cell what its own metric says, ghosts in rows of their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relight.metrics.metric_scan import scan_metrics
from relight.metrics.series import read_series
from relight.metrics.table import MetricTable, read_table
from tests.metrics.metric_folder import log_rows, losses


def read_all(folder: Path, *, ghosts: bool = False) -> MetricTable:
    return read_table(folder, scan_metrics(folder).names, ghosts=ghosts)


def test_names_logged_apart_share_a_row(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=[(1, {"loss": 1.0}), (1, {"lr": 0.1}), (2, {"loss": 2.0})])
    table = read_all(tmp_path)
    assert table.names == ("train/loss", "train/lr")
    assert table.steps.tolist() == [1, 2]
    assert table.present.tolist() == [[True, True], [True, False]]
    assert table.times.tolist() == [1.0, 2.0]


def test_ghost_rows_stand_before_their_main_row(tmp_path: Path) -> None:
    for attempt in (1, 2, 3):
        log_rows(tmp_path, attempt=attempt, rows=losses([attempt, 3], offset=attempt / 10))
    table = read_all(tmp_path, ghosts=True)
    assert list(zip(table.steps.tolist(), table.attempts.tolist(), table.ghost.tolist(), strict=True)) == [
        (1, 1, False),
        (2, 2, False),
        (3, 1, True),
        (3, 2, True),
        (3, 3, False),
    ]


def test_a_logged_nan_is_told_from_a_gap(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=[(1, {"loss": float("nan")}), (2, {"lr": 0.1})])
    table = read_all(tmp_path)
    assert table.present.tolist() == [[True, False], [False, True]]
    assert np.isnan(table.values).tolist() == [[True, True], [True, False]]


def test_nothing_gives_an_empty_table(tmp_path: Path) -> None:
    assert len(read_all(tmp_path, ghosts=True)) == 0
    assert read_table(tmp_path, []).values.shape == (0, 0)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 8), st.sets(st.sampled_from("abc"), min_size=1)), max_size=30
    )
)
def test_each_cell_is_what_the_main_line_of_its_name_says(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, set[str]]]
) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    for attempt in (1, 2, 3):
        log_rows(
            folder,
            attempt=attempt,
            rows=[
                (step, {name: float(number) for name in sorted(names)})
                for number, (at, step, names) in enumerate(rows)
                if at == attempt
            ],
        )
    table = read_all(folder)
    assert len(set(table.steps.tolist())) == len(table), "no step shows twice"
    for column, name in enumerate(table.names):
        series = read_series(folder, name)
        present = table.present[:, column]
        assert table.steps[present].tolist() == series.steps.tolist()
        assert table.values[present, column].tolist() == series.values.tolist()
