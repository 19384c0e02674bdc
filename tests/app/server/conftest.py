"""Provides one served dashboard for all tests that only query it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.app.served_dashboard import ServedDashboard

_PAGE = 'import streamlit as st\nst.title("A page")\n'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest Streamlit page."""
    path = tmp_path_factory.mktemp("page") / "page.py"
    path.write_text(_PAGE)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of `dashboard`."""
    return tmp_path_factory.mktemp("runs of a person's")


@pytest.fixture(scope="module")
def dashboard(runs: Path, page: Path) -> Iterator[ServedDashboard]:
    """A dashboard over `runs`."""
    with ServedDashboard(runs, script=page) as served:
        yield served
