"""Provides an empty runs folder and its engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight_app.engine import Engine
from relight_app.parts import place


@pytest.fixture(autouse=True)
def has_slurm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the machine has Slurm: not, unless a test is marked with its `parametrize`."""
    found = getattr(request, "param", False)
    monkeypatch.setattr(place, "is_installed", lambda: found)
    return found


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def engine(runs: Path) -> Engine:
    return Engine(runs)
