"""A process that gives way: its whole session has the lower priority, and it knows how busy the machine is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relight.machine import priority
from relight.machine.priority import ProcessorLoad


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares processors among sessions")
def test_a_session_is_lowered_with_its_process() -> None:
    code = "import os; from relight.machine.priority import lower_priority; lower_priority(7); print(os.nice(0))"
    autogroup = Path("/proc/self/autogroup")
    code += f"; print(open('{autogroup}').read())" if autogroup.exists() else ""
    done = subprocess.run(
        [sys.executable, "-c", code], start_new_session=True, capture_output=True, text=True, timeout=60, check=True
    )
    niceness, *group = done.stdout.split()
    assert niceness == str(os.nice(0) + 7)
    assert not group or group[-2:] == ["nice", "7"]


def test_the_load_is_what_was_in_use_since_the_last_question(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([(100.0, 1000.0), (101.0, 1010.0), (111.0, 1020.0), (111.0, 1020.0)])
    monkeypatch.setattr(priority, "_read_times", lambda: next(times))
    load = ProcessorLoad()
    assert [load.read_share() for _ in range(3)] == pytest.approx([0.9, 0.0, 0.0])


def test_the_load_of_this_machine_is_a_share() -> None:
    load = ProcessorLoad()
    sum(range(1_000_000))
    assert 0.0 <= load.read_share() <= 1.0
