"""A spare process describes one task, is never used twice, and outlives nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from relight.tasks.inspection import inspect_task
from relight.tasks.reference import resolve_task
from relight.tasks.spare_process import prepare_spare, take_spare
from tests.patience import stretch

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]


@pytest.fixture
def noting(tmp_path: Path) -> tuple[str, Path]:
    """A task that notes the process that imports it."""
    file, note = tmp_path / "noting.py", tmp_path / "pids"
    methods = "".join(f"    def {name}(self, *given): ...\n" for name in ("build_model", "build_data", "step"))
    file.write_text(
        f"import os\nimport relight\n\nprint(os.getpid(), file=open({str(note)!r}, 'a'))\n\n"
        f"class Noting(relight.Task):\n{methods}"
    )
    return f"{file}:Noting", note


def test_a_description_takes_the_spare_and_the_next_one_another_process(noting: tuple[str, Path]) -> None:
    task, note = noting
    reference = resolve_task(task)
    children = set(psutil.Process().children())
    prepare_spare()
    prepare_spare()
    (spare,) = set(psutil.Process().children()) - children
    first = inspect_task(reference, config={"lr": 0.5})
    assert first.config is not None and first.config["lr"] == 0.5
    assert inspect_task(reference).schema == first.schema
    used, another = map(int, note.read_text().split())
    assert used == spare.pid != another


def test_a_spare_that_was_killed_or_started_elsewhere_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prepare_spare()
    spare = take_spare()
    assert spare is not None and take_spare() is None
    spare.kill()
    spare.communicate()
    prepare_spare()
    monkeypatch.chdir(tmp_path)
    assert take_spare() is None
    prepare_spare()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert take_spare() is None


@pytest.mark.thorough
def test_a_spare_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import time\nfrom relight.tasks import spare_process as one\n"
        "one.prepare_spare()\nprint(one._spare.pid, flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        spare = psutil.Process(int(starter.stdout.readline()))
        os.kill(starter.pid, signal.SIGKILL)
    deadline = time.monotonic() + stretch(60)
    while psutil.pid_exists(spare.pid) and spare.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the spare outlives its starter"
        time.sleep(0.05)
