"""Provides an empty runs folder and its engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight_app.engine import Engine


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def engine(runs: Path) -> Engine:
    return Engine(runs)
