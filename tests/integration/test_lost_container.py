"""`relight run --id`, the command of containers and jobs: the container dies again and again, the command stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration import soak
from integration.conftest import QUICK, Workshop
from relight.mirror.report import find_mirror
from relight.overview.summary import summarize_run
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import AttemptStart

pytestmark = [
    pytest.mark.processes,
    pytest.mark.thorough,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="a pid namespace needs root"),
]

CONFIG: dict[str, Any] = {
    **QUICK,
    "samples": 157,
    "checkpoint_every_s": None,
    "checkpoint_every_steps": 3,
    "nap_s": 0.1,
}
CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
RUN = "tiny-a2b3"
LIMIT_S = 240


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[soak.Reference]:
    folder = tmp_path_factory.mktemp("reference")
    yield soak.Reference(folder, CONFIG)
    soak.end_everything(folder)


def _start(workshop: Workshop, *options: str) -> subprocess.Popen[bytes]:
    """Start the command as the first process of a container, which ends everything in it."""
    settings = [
        part for key, value in CONFIG.items() for part in ("--set", f"{key}={'none' if value is None else value}")
    ]
    return subprocess.Popen(
        [*CONTAINER, sys.executable, "-P", "-m", "relight.cli", "run", soak.TASK, "--id", RUN, *settings, *options],
        env={**os.environ, "RELIGHT_RUNS": str(workshop.folder)},
    )


def _first_process(container: subprocess.Popen[bytes]) -> int:
    import psutil

    return psutil.Process(container.pid).children()[0].pid


def _wait_for_step(layout: RunLayout, step: int, *, attempt: int) -> None:
    def reached() -> bool:
        if layout.latest_attempt() < attempt:
            return False
        summary = summarize_run(layout)
        return summary.step >= step

    soak.wait_for(reached, why=f"step {step} of attempt {attempt}", timeout_s=LIMIT_S)


def test_a_container_that_dies_twice_ends_in_the_state_of_one_that_lives(
    workshop: Workshop, reference: soak.Reference
) -> None:
    layout = RunLayout(workshop.folder / RUN)
    container = _start(workshop)
    _wait_for_step(layout, 8, attempt=1)
    os.kill(_first_process(container), signal.SIGKILL)
    container.wait(LIMIT_S)

    container = _start(workshop)
    _wait_for_step(layout, 14, attempt=2)
    os.kill(_first_process(container), signal.SIGTERM)
    assert container.wait(LIMIT_S) == 128 + signal.SIGTERM
    saved = summarize_run(layout).durable_step

    assert _start(workshop).wait(LIMIT_S) == 0
    assert read_record(layout.attempt(3).start, AttemptStart).from_step == saved, "nothing was lost by SIGTERM"
    reference.compare(layout)
    assert _start(workshop).wait(LIMIT_S) == 0, "a finished run is left alone"
    assert layout.latest_attempt() == 3


def test_a_container_that_loses_its_disk_continues_from_the_mirror(
    workshop: Workshop, reference: soak.Reference, tmp_path: Path
) -> None:
    layout, mirror = RunLayout(workshop.folder / RUN), tmp_path / "elsewhere"
    mirror.mkdir()
    container = _start(workshop, "--mirror", str(mirror))

    def copied() -> bool:
        state = find_mirror(layout)[0] if layout.mirror.exists() else None
        return state is not None and (state.copied_step or 0) >= 6

    soak.wait_for(copied, why="a copy", timeout_s=LIMIT_S)
    os.kill(_first_process(container), signal.SIGKILL)
    container.wait(LIMIT_S)
    shutil.rmtree(workshop.folder)

    assert _start(workshop, "--mirror", str(mirror)).wait(LIMIT_S) == 0
    assert read_record(layout.attempt(2).start, AttemptStart).from_step >= 6
    reference.compare(layout)
