"""Fixtures that every test may use."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tests.compiler import leave_out_compiler

if shutil.which("nvidia-smi") is None:
    leave_out_compiler(os.environ)

# More threads gain nothing for small trainings, and tests that run at once would compete for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["fake_nvml.plugin"]

# A shell starts background jobs with Ctrl-C ignored, and nohup ignores a closed terminal. Every child inherits that,
# but the tests that send these signals mean them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Fail if xdist ignores its groups, as 3.8 does with pytest 9.2: each worker would start every server and twin."""
    if config.getoption("loadgroup", default=False):
        grouped = [item.nodeid for item in items if item.get_closest_marker("xdist_group")]
        assert all("@" in nodeid for nodeid in grouped), "pytest-xdist does not group tests with this pytest"
