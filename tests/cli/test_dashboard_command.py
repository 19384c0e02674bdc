"""`relight up` becomes the dashboard's server, or says in one line why it cannot."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from relight.runs.catalog import create_run
from relight.runs.records import PreparedTask, TaskReference
from relight.runs.trash import delete_run, list_trash
from tests.patience import stretch
from tests.runs.run_builder import RunBuilder, dead_process

if TYPE_CHECKING:
    from tests.cli.conftest import Ask

RELIGHT = str(Path(sys.executable).parent / "relight")


def test_up_replaces_itself_with_the_server_and_passes_every_option_on(
    ask: Ask, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: seen.append((path, arguments)))
    names = ("--allow-host", "x", "--allow-host", "y")
    further = ("--token", "a b", "--token-file", "a file", "--base-path", "/a/b", "--read-only", "--resume-interrupted")
    ask("up", "--port", "8600", "--host", "::1", "--no-browser", *further, *names)
    ((path, arguments),) = seen
    assert path == sys.executable
    assert arguments == [
        sys.executable, "-P", "-m", "relight_app", "--port", "8600", "--host", "::1", "--runs", str(runs),
        *names, *further, "--no-browser",
    ]  # fmt: skip


def test_a_missing_dashboard_is_one_line_that_says_how_to_install_it(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name == "streamlit" else found(name, package)
    )
    answer = ask("up")
    assert answer.exit_code == 1
    assert "streamlit missing" in answer.error
    assert "pip install 'relight[dashboard]'" in answer.error


def test_a_port_in_use_is_one_line_that_suggests_another(relight: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = relight("up", "--port", str(port), "--no-browser")
    assert answer.exit_code == 1
    assert f"Port {port}" in answer.error
    assert "already in use" in answer.error
    assert re.search(r"--port \d+", answer.error)


@pytest.mark.parametrize("port", ["66000", "-1", "http"])
def test_an_impossible_port_is_wrong_usage(ask: Ask, port: str) -> None:
    answer = ask("up", "--port", port)
    assert answer.exit_code == 2
    assert "--port" in answer.error


@pytest.mark.processes
def test_the_server_is_the_process_that_was_started(runs: Path) -> None:
    process = subprocess.Popen(
        [RELIGHT, "up", "--port", "0", "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        assert "http://127.0.0.1:" in process.stdout.readline()
        command = Path(f"/proc/{process.pid}/cmdline")
        if command.exists():
            assert b"relight_app" in command.read_bytes()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise


@pytest.mark.processes
def test_the_server_resumes_what_was_interrupted_and_removes_old_trash(runs: Path) -> None:
    gone = TaskReference(kind="script", name="train.py", path="/nowhere/train.py")
    layout = create_run(runs, PreparedTask(gone)).layout
    run = RunBuilder(layout).start().processes(dead_process(), dead_process())
    old = delete_run(RunBuilder.create(runs).finished().layout)
    assert old is not None
    Path(old.path).rename(Path(old.path).with_name(f"{old.run}@1"))
    process = subprocess.Popen(
        [RELIGHT, "up", "--port", "0", "--no-browser", "--resume-interrupted"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        assert any(line.startswith(f"{run.layout.run_id} was not resumed: The script /nowhere") for line in said), said
        assert any("http://127.0.0.1:" in line for line in said), said
        deadline = time.monotonic() + stretch(30.0)
        while list_trash(runs):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
