"""The notices at the top of a run's page."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from relight.overview.disk_forecast import DiskForecast
from relight.overview.summary import summarize_run
from relight_app.parts.run_header import build_run_notices
from tests.app.sample_runs import SampleRun, make_run


@pytest.mark.parametrize(("full_in_s", "told"), [(15_000.0, True), (80_000.0, True), (100_000.0, False), (None, False)])
def test_a_disk_that_will_be_full_within_a_day_is_reported(tmp_path: Path, full_in_s: float | None, told: bool) -> None:
    run = summarize_run(make_run(tmp_path, SampleRun("x", status="running", step=600)))
    disk = DiskForecast(free_bytes=3_000_000_000, full_in_s=full_in_s)
    shown = str(build_run_notices(msgspec.structs.replace(run, disk=disk), damaged=[]) or "")
    assert ("At this rate the disk will be full in" in shown) is told
    assert ("3 GB free" in shown) is told


def test_a_disk_that_is_already_full_is_reported_once(tmp_path: Path) -> None:
    sample = SampleRun("x", status="running", step=600, saving_failure="The disk is full.")
    run = msgspec.structs.replace(
        summarize_run(make_run(tmp_path, sample)), disk=DiskForecast(free_bytes=0, full_in_s=0.0)
    )
    shown = str(build_run_notices(run, damaged=[]))
    assert "Checkpoints cannot be saved" in shown
    assert "At this rate" not in shown
