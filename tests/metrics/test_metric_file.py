"""Reading folders of metric files: damage is named and hides nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from relight.errors import DamagedFile
from relight.metrics.metric_file import MetricFile
from relight.metrics.metric_scan import scan_metrics
from relight.metrics.series import read_series
from tests.metrics.metric_folder import log_rows, losses


def test_streams_and_names(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=[(1, {"loss": 1.0, "lr": 0.1})])
    log_rows(tmp_path, stream="validation", rows=[(1, {"accuracy": 0.5})])
    log_rows(tmp_path, stream="my stream", attempt=2, rows=[(1, {"x/y": 0.5})])
    (tmp_path / "notes.txt").write_text("")
    scan = scan_metrics(tmp_path)
    assert scan.streams == ["my stream", "train", "validation"]
    assert scan.names == ["my stream/x/y", "train/loss", "train/lr", "validation/accuracy"]


def test_a_missing_folder_holds_nothing(tmp_path: Path) -> None:
    assert scan_metrics(tmp_path / "none").names == []
    assert len(read_series(tmp_path / "none", "train/loss")) == 0


@pytest.mark.parametrize("data", [b"", b"x" * 10_000, b"{}\n", b"\x00\xff\n", b'{"format":"relight-metrics","ver'])
def test_a_damaged_file_is_named_and_hides_no_other(tmp_path: Path, data: bytes) -> None:
    log_rows(tmp_path, rows=losses([1, 2]))
    log_rows(tmp_path, attempt=2, rows=losses([2, 3]))
    path = tmp_path / "0002-train.rlm"
    path.write_bytes(data)
    scan = scan_metrics(tmp_path)
    assert [file.header.attempt for file in scan.files] == [1]
    (sentence,) = scan.damaged
    assert str(path) in sentence
    assert read_series(tmp_path, "train/loss").steps.tolist() == [1, 2]
    with pytest.raises(DamagedFile, match="is damaged"):
        MetricFile(path)


def test_a_folder_in_place_of_a_file_is_damage(tmp_path: Path) -> None:
    (tmp_path / "0001-train.rlm").mkdir()
    (sentence,) = scan_metrics(tmp_path).damaged
    assert "cannot be read" in sentence


def test_a_header_of_thousands_of_names_is_read(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=[(1, {f"layer-{number}/norm": float(number) for number in range(3000)})])
    assert read_series(tmp_path, "train/layer-2999/norm").values.tolist() == [2999.0]


def test_values_come_back_bit_for_bit(tmp_path: Path) -> None:
    values = [0.1, -0.0, 5e-324, float("inf"), float("nan"), 1.7976931348623157e308]
    log_rows(tmp_path, rows=[(2**62 + step, {"loss": value}) for step, value in enumerate(values)])
    series = read_series(tmp_path, "train/loss")
    assert series.values.tobytes() == np.array(values).tobytes()
    assert series.steps.tolist() == [2**62 + step for step in range(len(values))]


def test_a_million_records_open_in_well_under_a_second(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=losses([1]))
    path = tmp_path / "0001-train.rlm"
    records = np.zeros((1_000_000, 3))
    records[:, 0] = np.arange(1, 1_000_001).view("<f8")
    path.write_bytes(path.read_bytes()[:-24] + records.tobytes())
    import time

    began = time.process_time()
    assert len(read_series(tmp_path, "train/loss")) == 1_000_000
    assert time.process_time() - began < 1.0


def test_the_writer_tail_and_latest_values_load_no_numpy() -> None:
    code = (
        "import sys; import relight.metrics.writer, relight.metrics.tail, relight.metrics.latest\n"
        "print([name for name in ('numpy', 'pydantic', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
