"""Fuzz: whatever a metric file holds, its readers give rows or one named reason. `RELIGHT_FUZZ` says how many."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relight.metrics.csv import write_csv
from relight.metrics.file_format import HEADER_ALIGNMENT_BYTES, MetricHeader, encode_header
from relight.metrics.latest import latest_values
from relight.metrics.metric_scan import scan_metrics
from relight.metrics.recent import read_recent
from relight.metrics.series import read_split_series
from relight.metrics.tail import MetricTail
from tests.metrics.metric_folder import log_rows, losses

fuzz = settings(
    max_examples=int(os.environ.get("RELIGHT_FUZZ", "200")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    log_rows(folder, rows=losses(range(1, 6)))
    log_rows(folder, attempt=2, rows=losses(range(4, 9)))
    return folder


@fuzz
@given(
    changes=st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=9)), max_size=4),
    cut=st.integers(0, 600),
)
def test_any_damage_to_a_metric_file_gives_rows_or_a_reason(
    folder: Path, changes: list[tuple[int, bytes]], cut: int
) -> None:
    path = folder / "0002-train.rlm"
    pristine = path.read_bytes()
    data = bytearray(pristine)
    for place, what in changes:
        data[place : place + len(what)] = what
    _read_everything(path, bytes(data[:cut] if cut < len(pristine) else data), pristine)


@fuzz
@given(
    header=st.dictionaries(
        st.sampled_from(["format", "version", "stream", "attempt", "columns", "record_bytes"]), _JSON, max_size=2
    ),
    columns=st.none() | st.lists(st.text(max_size=4), max_size=4),
    records=st.binary(max_size=100),
)
def test_any_header_gives_rows_or_a_reason(
    folder: Path, header: dict[str, Any], columns: list[str] | None, records: bytes
) -> None:
    path = folder / "0002-train.rlm"
    fields = json.loads(encode_header(MetricHeader("train", 2, ("loss",)))) | header
    if columns is not None:
        fields |= {"columns": columns, "record_bytes": 16 + 8 * len(columns)}
    line = json.dumps(fields).encode()
    line += b" " * (-(len(line) + 1) % HEADER_ALIGNMENT_BYTES) + b"\n"
    _read_everything(path, line + records, path.read_bytes())


def _read_everything(path: Path, data: bytes, pristine: bytes) -> None:
    folder = path.parent
    try:
        path.write_bytes(data)
        scan = scan_metrics(folder)
        assert all("\n" not in reason for reason in scan.damaged)
        for name in scan.names:
            split = read_split_series(folder, name)
            assert len(split.main.steps) <= 10 + len(data) // 16
        latest_values(folder)
        read_recent(folder, "train/loss", attempt=2)
        for block in MetricTail(folder).poll():
            block.read_rows()
        write_csv(folder, io.StringIO(), ghosts=True)
    finally:
        path.write_bytes(pristine)
