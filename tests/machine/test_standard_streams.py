"""A closed standard stream costs its text, never a file of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import os, sys
from relight.machine.standard_streams import replace_closed_streams
replace_closed_streams()
print("to stdout"); print("to stderr", file=sys.stderr); sys.stdin.read(0)
number = os.open("/dev/null", os.O_RDONLY)
assert number > 2, number
assert all(os.get_inheritable(number) for number in range(3))
child = [sys.executable, "-c", "import os, sys; print(1, file=sys.stderr); print(2); os.fstat(0)"]
assert __import__("subprocess").run(child).returncode == 0
open(sys.argv[1], "w").write("done")
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_files_get_no_number_of_a_stream_that_the_caller_closed(tmp_path: Path, closed: str) -> None:
    subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", CODE, str(tmp_path / "done")], check=False
    )
    assert (tmp_path / "done").read_text() == "done"
