"""Columns read the fields, config and metrics of a run, sort in natural order, and say which config keys differ."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import pytest

from relight.errors import UsageError
from relight.overview.run_columns import (
    COLUMNS,
    find_column,
    find_differing_config,
    read_value,
    sort_runs,
    word_value,
)
from relight.overview.summary import BestSoFar, RunSummary, summarize_run
from tests.runs.run_builder import RunBuilder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """The summary of a finished run; tests change its fields."""
    return summarize_run(RunBuilder.create(tmp_path_factory.mktemp("runs")).finished().layout, traceback=False)


def _make(plain: RunSummary, **fields: Any) -> RunSummary:
    return msgspec.structs.replace(plain, **fields)


def test_every_column_reads_and_words_a_plain_run(plain: RunSummary) -> None:
    for key in COLUMNS:
        assert word_value(plain, key, now_s=plain.updated_s)
    assert word_value(plain, "progress", now_s=0) == "100%"
    assert word_value(plain, "missing", now_s=0) == "-"
    assert word_value(_make(plain, tags=("a", "b")), "tags", now_s=0) == "a, b"
    assert word_value(_make(plain, note="two\nlines"), "note", now_s=0) == "two lines"
    assert word_value(_make(plain, config={"layers": [1, 2]}), "layers", now_s=0) == "[1,2]"


def test_a_name_means_a_column_then_a_metric_then_config(plain: RunSummary) -> None:
    run = _make(
        plain,
        config={"name": "inner", "loss": "mse", "model": {"depth": 3}, "a.b": 7},
        metrics={"train/loss": 1.0, "validation/loss": 2.0, "test/f1": 3.0},
        best=BestSoFar(step=1, metric="test/f1", value=4.0),
    )
    read = {key: read_value(run, key) for key in ("config.name", "loss", "train/loss", "model.depth", "a.b", "f1")}
    assert read == {
        "config.name": "inner", "loss": "mse", "train/loss": 1.0, "model.depth": 3, "a.b": 7, "f1": 3.0,
    }  # fmt: skip
    assert read_value(_make(run, config={}), "loss") == 2.0
    assert read_value(run, "model.depth.x") is None


def test_sorting_is_natural_and_puts_missing_values_last_both_ways(plain: RunSummary) -> None:
    names = ["run-9", "run-10", "Run-1", "run", f"run-{'9' * 5000}"]
    runs = [_make(plain, run=str(place), name=name) for place, name in enumerate(names)]
    random.Random(1).shuffle(runs)
    assert [run.name for run in sort_runs(runs, "name")] == ["run", "Run-1", "run-9", "run-10", names[-1]]
    values = [0.5, math.nan, None, -1, "text", "text-2", True]
    runs = [_make(plain, run=str(place), config={"x": value}) for place, value in enumerate(values)]
    assert [run.run for run in sort_runs(runs, "x")] == ["3", "0", "6", "4", "5", "1", "2"]
    assert [run.run for run in sort_runs(runs, "-x")] == ["5", "4", "6", "0", "3", "1", "2"]


def test_several_keys_sort_one_after_the_other_and_equal_runs_stay(plain: RunSummary) -> None:
    runs = [_make(plain, run=f"r{i}", config={"a": i % 2, "b": i // 2}) for i in range(4)]
    assert [run.run for run in sort_runs(runs, "a, -b")] == ["r2", "r0", "r3", "r1"]
    assert [run.run for run in sort_runs(runs, "status")] == ["r0", "r1", "r2", "r3"]
    assert sort_runs(runs, "") == runs


def test_an_unknown_column_names_the_nearest(plain: RunSummary) -> None:
    with pytest.raises(UsageError, match=r"No run has 'updatd'. Did you mean 'updated'\?"):
        sort_runs([plain], "-updatd")
    assert find_column("lost", [plain]) == "risk"
    assert find_column("anything", []) == "anything"


def test_config_keys_that_differ_come_first_then_those_that_some_runs_have(plain: RunSummary) -> None:
    configs: list[dict[str, Any]] = [
        {"lr": 0.1, "seed": 1, "m": {"k": 10, "same": 1}, "few": 1},
        {"lr": 0.1, "seed": 2, "m": {"k": 9, "same": 1}, "few": 2},
        {"lr": 0.01, "seed": 3, "only": True},
    ]
    runs = [_make(plain, config=config) for config in configs]
    assert find_differing_config(runs) == ["lr", "seed", "few", "m.k", "m.same", "only"]
    assert find_differing_config(runs[:1]) == []
    assert find_differing_config([]) == []
