"""Links in the docs lead somewhere, the files they name exist, and the check that says so finds those that do not."""

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
    spec = importlib.util.spec_from_file_location("check_docs", ROOT / "scripts" / "check_docs.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_link_and_file_name_of_the_repository_leads_somewhere() -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "check_docs.py"], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("link", "is_broken"),
    [
        ("[a](other.md)", False),
        ("[a](other.md#the-words-twice-1)", False),
        ("[a](#here)", False),
        ("[a](https://example.org/nowhere)", False),
        ("`[a](gone.md)`", False),
        ("```\n[a](gone.md)\n```", False),
        ("[a](gone.md)", True),
        ("![picture](gone.png)", True),
        ('<img src="gone.png" width="300">', True),
        ("[a](other.md#gone)", True),
        ("[a](../outside.md)", True),
    ],
)
def test_a_link_is_broken_when_its_file_or_heading_is_not_there(
    checker: ModuleType, tmp_path: Path, link: str, is_broken: bool
) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    (tmp_path / "outside.md").touch()
    (root / "other.md").write_text("# The words, twice\n\n## The words, twice\n")
    page = root / "page.md"
    page.write_text(f"# Here\n\n{link}\n")
    assert bool(checker.find_broken_links(page, root=root)) == is_broken


@pytest.mark.parametrize(
    ("words", "is_missing"),
    [("`app/there.py`", False), ("`there.py`", False), ("`pp/there.py`", True), ("`app/gone.js`", True)],
)
def test_a_file_that_is_named_but_is_not_there_is_found(
    checker: ModuleType, tmp_path: Path, words: str, is_missing: bool
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"See {words}.\n")
    assert bool(checker.find_missing_files(page, [tmp_path / "app" / "there.py"], root=tmp_path)) == is_missing
