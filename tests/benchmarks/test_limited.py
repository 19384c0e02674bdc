"""A command with a time limit leaves nothing running, however it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
LIMITED = f"""
import dataclasses, json, os, sys
from pathlib import Path
sys.path.insert(0, {str(BENCHMARKS)!r})
from measuring.limited import adopt_orphans, run_limited
adopt_orphans()
here = Path.cwd()
command = [sys.executable, "-c", sys.argv[1]]
outcome = run_limited(command, limit_s=float(sys.argv[2]), log=here / "log", folder=here, environment=os.environ)
print(json.dumps(dataclasses.asdict(outcome)))
"""
# Starts a process in a session of its own, notes its pid, and ends.
DETACH = """
import subprocess, sys
from pathlib import Path
child = subprocess.Popen(
    [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"],
    start_new_session=True,
)
Path("pid").write_text(str(child.pid))
"""

pytestmark = [pytest.mark.processes, pytest.mark.skipif(sys.platform != "linux", reason="only Linux adopts orphans")]


def run_limited(code: str, *, limit_s: float, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, code, str(limit_s)],
        cwd=folder, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome


def test_a_command_that_ends_in_time_gives_its_code_and_its_output(tmp_path: Path) -> None:
    outcome = run_limited("print('said'); raise SystemExit(3)", limit_s=60, folder=tmp_path)
    assert (outcome["code"], outcome["left"]) == (3, [])
    assert (tmp_path / "log").read_text() == "said\n"


def test_a_detached_process_that_outlives_its_command_is_ended_and_named(tmp_path: Path) -> None:
    outcome = run_limited(DETACH, limit_s=60, folder=tmp_path)
    pid = int((tmp_path / "pid").read_text())
    assert outcome["code"] == 0
    assert [f"({pid})" in name for name in outcome["left"]] == [True]
    assert not psutil.pid_exists(pid)


def test_at_its_limit_a_command_is_ended_with_everything_that_it_started(tmp_path: Path) -> None:
    outcome = run_limited(DETACH + "import time\ntime.sleep(600)", limit_s=5, folder=tmp_path)
    assert outcome["code"] is None
    assert 5 <= outcome["seconds"] < 60
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
