"""docs/run-folder.md is under test: it names every file, and its code reads what we write."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relight.runs import records
from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.progress import PHASES, Progress, ProgressFile
from tests.metrics.metric_folder import log_rows

PAGE = (Path(__file__).parents[2] / "docs" / "run-folder.md").read_text()


def _files(layout: RunLayout | AttemptLayout) -> list[Path]:
    properties = [name for name, value in vars(type(layout)).items() if isinstance(value, property)]
    return [path for name in properties if isinstance(path := getattr(layout, name), Path)]


def test_every_file_of_the_layout_is_named(tmp_path: Path) -> None:
    run = RunLayout(tmp_path / "digits-k3f9")
    for path in [*_files(run), *_files(run.attempt(1))]:
        assert re.search(rf"^ +{re.escape(path.name)}\b|^ +{re.escape(path.name)}/", PAGE, re.MULTILINE), path.name


def test_the_reader_on_the_page_reads_a_metric_file(tmp_path: Path) -> None:
    log_rows(tmp_path, rows=[(1, {"loss": 0.5, "lr": 0.1}), (2, {"loss": 0.25, "lr": 0.1})])
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    header, rows = namespace["read_metrics"](tmp_path / "0001-train.rlm")
    assert header["columns"] == ["loss", "lr"]
    assert rows == [(1, 0.0, 0.5, 0.1), (2, 1.0, 0.25, 0.1)]


def test_the_table_of_progress_bytes_reads_a_progress_file(tmp_path: Path) -> None:
    file = ProgressFile(tmp_path / "p")
    file.write(Progress(step=11, steps_total=12, epoch=13, epochs=14, batch=15, batches=16, time_s=0.5, work_s=2.5))
    file.close()
    data = (tmp_path / "p").read_bytes()
    rows = re.findall(r"^\| (\d+) \| (int64|float64) \| ([^|]+?) \|$", PAGE, re.MULTILINE)
    values = [struct.unpack_from("<q" if kind == "int64" else "<d", data, int(offset))[0] for offset, kind, _ in rows]
    assert values[:6] == [11, 12, 13, 14, 15, 16]
    assert [int(offset) for offset, _, _ in rows] == list(range(8, 112, 8))
    assert (values[8], values[-1]) == (0.5, 2.5)
    phases = re.search(r"phase: (.*?) \|", PAGE)
    assert phases is not None
    assert phases[1] == ", ".join(f"{number} {phase}" for number, phase in enumerate(PHASES))


@pytest.mark.parametrize("kind", [records.RunRecord, records.AttemptStart])
def test_every_key_of_the_first_records_is_explained(kind: type[records.Record]) -> None:
    for field in msgspec.structs.fields(kind):
        if field.name not in ("version", "weights_only"):
            assert f"`{field.name}`" in PAGE, field.name
