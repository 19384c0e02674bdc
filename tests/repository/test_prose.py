"""Phrases that are not plain English do not come back, and the check that says so finds them in prose only."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_prose", ROOT / "scripts" / "check_prose.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.py", '"""Start anew."""\n', [1]),
        ("a.py", "x = 1\n# Whoever reads this.\n", [2]),
        ("a.py", 'print(f"{x} is no run")\n', [1]),
        ("a.py", 'print("There is no run.", "It is no longer here.")\n', []),
        ("a.py", "anew = whoever = 1\n", []),
        ("a.md", "One line.\nThe run restarts by itself.\n", [2]),
        ("a.md", "```\nanew\n```\n`anew` and [here](anew.md)\n", []),
        ("a.md", "Behaviour and behavior, colour and color.\n", [1, 1]),
        ("a.js", "const anew = 1 // it is told what to do\n", [1]),
    ],
)
def test_a_phrase_on_the_list_is_found_in_prose_and_not_in_code(
    checker: ModuleType, tmp_path: Path, name: str, text: str, found: list[int]
) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert [line for line, _, _ in checker.find_stumbles(path)] == found


def test_no_phrase_on_the_list_is_in_the_repository() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "check_prose.py"], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout
