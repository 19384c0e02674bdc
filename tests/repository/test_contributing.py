"""The how-tos of CONTRIBUTING work: their code, applied to a copy of the tree, adds what they promise."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^ *```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_NEW = re.compile(r"# new file: (\S+)\n")
_AFTER = re.compile(r"# in (\S+), after `(.*)`\n")


def apply_how_tos(page: str, tree: Path) -> list[str]:
    """Apply every code block of the page to the tree; return the files that were written or changed."""
    changed: list[str] = []
    for block in _BLOCK.findall(page):
        margin = len(block) - len(block.lstrip(" "))
        code = "".join(line[margin:] if line.strip() else line for line in block.splitlines(keepends=True))
        if new := _NEW.match(code):
            path = tree / new[1]
            assert not path.exists(), f"{new[1]} exists"
            path.write_text(code[new.end() :])
        elif after := _AFTER.match(code):
            path = tree / after[1]
            lines = path.read_text().splitlines(keepends=True)
            places = [number for number, line in enumerate(lines) if line.strip().startswith(after[2])]
            assert places, f"no line of {after[1]} starts with {after[2]!r}"
            lines.insert(places[0] + 1, code[after.end() :])
            path.write_text("".join(lines))
        else:
            pytest.fail(f"This block says neither its new file nor its place:\n{code}")
        changed.append(str(path.relative_to(tree)))
    return changed


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with all how-tos applied."""
    folder = tmp_path_factory.mktemp("tree")
    for package in ("core/relight", "app/relight_app"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert len(apply_how_tos((ROOT / "CONTRIBUTING.md").read_text(), folder)) == 12
    return folder


def run(tree: Path, *arguments: object) -> str:
    """Run this Python with the copy instead of the installed packages."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{tree / 'core'}:{tree / 'app'}"},
        cwd=tree, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.processes
def test_a_built_in_task_and_a_command_can_be_added_as_described(tree: Path) -> None:
    runs = tree / "runs"
    assert "line" in run(tree, "-m", "relight.cli", "tasks")
    run(tree, "-m", "relight.cli", "run", "line", "--set", "epochs=2", "--runs", runs, "--name", "first")
    assert json.loads(run(tree, "-m", "relight.cli", "durable", "first", "--runs", runs, "--json"))["durable_step"] > 0
    assert "Examples:" in run(tree, "-m", "relight.cli", "durable", "--help") or "Example:" in run(
        tree, "-m", "relight.cli", "durable", "--help"
    )


def test_a_restart_rule_can_be_added_as_described(tree: Path) -> None:
    code = """
from relight.runs.evidence import PastAttempt
from relight.runs.records import AttemptExit, AttemptStart
from relight.supervision.restart_policy import decide_restart
ended = AttemptExit(attempt=1, time_s=1.0, outcome="crashed", error="OSError: No space left on device")
start = AttemptStart(attempt=1, time_s=0.0, reason="launch", max_restarts=3)
print(decide_restart([PastAttempt(start, ended)]).reason)
"""
    assert run(tree, "-c", code).startswith("The disk is full, so the run was not restarted.")


def test_a_chart_and_a_part_of_a_page_can_be_added_as_described(tree: Path) -> None:
    code = """
from relight_app.charts import plan_machine_charts
print([plan.title for plan in plan_machine_charts(["system/disk_free_bytes"])])
from relight_app.parts.registry import PARTS
print(PARTS["folder-line"].topics)
"""
    titles, topics = run(tree, "-c", code).splitlines()
    assert titles == "['Free disk space']"
    assert topics == "('files',)"


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:app|core|tests|docs|scripts)/[\w./-]+)`",
                                                       (ROOT / "CONTRIBUTING.md").read_text()))))  # fmt: skip
def test_every_path_that_contributing_names_exists(path: str) -> None:
    assert (ROOT / path).exists()
