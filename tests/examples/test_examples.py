"""The examples run as their first lines say, and stay short enough to be copied."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.compiler import with_compiler

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def relight(*arguments: str, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "relight.cli", *arguments],
        cwd=cwd, env=with_compiler(os.environ), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_every_example_is_named_in_its_own_first_line() -> None:
    for example in EXAMPLES.glob("*.py"):
        assert f"`relight run examples/{example.name}" in example.read_text().splitlines()[0]


def test_the_spiral_is_a_task_of_about_thirty_lines() -> None:
    lines = (EXAMPLES / "spiral.py").read_text().splitlines()
    code = lines[lines.index("class Spiral(Task):") :]
    assert len([line for line in code if line.strip() and '"""' not in line]) <= 32


@pytest.mark.thorough
@pytest.mark.processes
def test_the_spiral_is_learned_by_a_real_run_from_any_folder(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "spiral.py", tmp_path / "my spiral.py")
    relight("run", "my spiral.py:Spiral", "--set", "epochs=12", "--name", "arms", "--runs", "my runs", cwd=tmp_path)
    shown: dict[str, Any] = json.loads(relight("show", "arms", "--json", "--runs", "my runs", cwd=tmp_path))
    assert shown["status"] == "finished"
    assert shown["step"] == shown["steps_total"] == shown["durable_step"] == 12 * 38
    assert shown["best"]["metric"] == "validation/accuracy" and shown["best"]["value"] >= 0.95
    options = relight("tasks", "my spiral.py:Spiral", cwd=tmp_path)
    assert "hidden=64" in options and "at least 1 and at most 4096" in options
