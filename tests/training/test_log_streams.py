"""Output that cannot be written to the log is dropped and reported later, and no exception is raised."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_PRELUDE = "import os, sys; from relight.training.log_streams import tolerate_write_errors; tolerate_write_errors()\n"


def run(script: str, log: Path) -> str:
    with log.open("ab") as file:
        code = subprocess.run(
            [sys.executable, "-c", _PRELUDE + script], stdout=file, stderr=file, timeout=60, check=False
        ).returncode
    assert code == 0
    return log.read_text()


def test_both_streams_reach_the_log_in_the_order_of_their_lines(tmp_path: Path) -> None:
    script = "for i in range(3): print(i); print(-i, file=sys.stderr)"
    assert run(script, tmp_path / "log") == "0\n0\n1\n-1\n2\n-2\n"


def test_any_character_can_be_written(tmp_path: Path) -> None:
    assert run(r"print('ü \udcff')", tmp_path / "log") == "ü \\udcff\n"


def test_text_without_a_newline_is_written_at_the_end(tmp_path: Path) -> None:
    assert run("print('half', end='')", tmp_path / "log") == "half"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_loses_text_and_the_log_reports_the_gap_when_there_is_space_again(tmp_path: Path) -> None:
    script = """
full, log = os.open("/dev/full", os.O_WRONLY), os.dup(1)
os.dup2(full, 1)
for line in range(1000):
    print("x" * 99)
os.dup2(log, 1)
print("room again")
"""
    text = run(script, tmp_path / "log")
    assert text == "[100000 bytes of output are missing here, because the log could not be written.]\nroom again\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_stays_full_does_not_change_the_exit_code() -> None:
    with Path("/dev/full").open("wb") as full:
        script = _PRELUDE + "print('a'); print('b', file=sys.stderr); print('c', end='')"
        code = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=full, timeout=60, check=False)
    assert code.returncode == 0
