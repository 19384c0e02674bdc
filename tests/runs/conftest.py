"""Run folders, processes that are ended, and paths that break careless code."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WEIRD_NAMES = ["a 0", "a'; echo x", "模型-ü🙂", "-rf", "x" * 200, "new\nline", "100%", "$HOME"]


@pytest.fixture(params=WEIRD_NAMES, ids=lambda name: ascii(name)[:20])
def weird_folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with a name that needs care in shells, URLs and terminals."""
    folder = tmp_path / str(request.param)
    folder.mkdir()
    return folder


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A runs folder that every user may enter: pytest's own temporary folders are private."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


@contextlib.contextmanager
def acting_as_nobody() -> Iterator[None]:
    """Give up root's right to read everything; another user never has it."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def start_process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python code in a process of its own, which ends with the test at the latest."""
    processes: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=pass_fds,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()
