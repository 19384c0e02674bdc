"""A process that gives way: its whole session has the lower priority."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


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
