"""What a run's summary says in phrases."""

from __future__ import annotations

import time

import msgspec
import pytest

from relight.metrics.writer import MetricWriter
from relight.overview.disk_forecast import DiskForecast
from relight.overview.summary import summarize_run
from relight.overview.summary_wording import word_disk
from tests.cli.conftest import Ask, RunMaker


@pytest.mark.parametrize(
    ("disk", "text"),
    [
        (None, ""),
        (DiskForecast(free_bytes=12_000_000_000), "12 GB free"),
        (
            DiskForecast(free_bytes=12_000_000_000, written_bytes_a_day=4.2e9, full_in_s=15_000.0),
            "4.2 GB written per day, 12 GB free: full in 4 h 10 min at this rate",
        ),
        (DiskForecast(free_bytes=0, full_in_s=0.0), "0 bytes free"),
    ],
)
def test_the_disk_is_told_as_far_as_it_is_known(make_run: RunMaker, disk: DiskForecast | None, text: str) -> None:
    summary = msgspec.structs.replace(summarize_run(make_run(outcome=None)), disk=disk)
    assert word_disk(summary) == text


def test_show_says_when_the_disk_will_be_full(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run(outcome=None)
    writer = MetricWriter(layout.metrics, stream="system", attempt=1)
    for second in range(600):
        writer.log(1, {"disk_free_bytes": 10e9 - 1e6 * second}, time_s=time.time() - 600 + second)
    writer.close()
    assert "9.4 GB free: full in 2 h 36 min at this rate" in ask("show", layout.run_id).stdout
    assert ask("show", layout.run_id, "--json").json["disk"] == {
        "free_bytes": 9_401_000_000,
        "written_bytes_a_day": None,
        "full_in_s": pytest.approx(9401, rel=1e-4),
    }
    assert [run["disk"] for run in ask("list", "--json").json] == [None]
