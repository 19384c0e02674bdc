"""Watching a run: a pipe and a terminal show its progress, and the run outlives its watchers."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from relight.overview.summary import summarize_run
from relight.runs.layout import RunLayout
from relight.runs.records import PreparedTask, TaskReference
from relight.runs.status import RunStatus
from relight.supervision.launch import launch_run

if TYPE_CHECKING:
    from tests.cli.conftest import Ask

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("end_runs")]

RELIGHT = Path(sys.executable).parent / "relight"
TRAINER = Path(__file__).parent / "fake_trainer.py"
WATCH = """
import sys
from pathlib import Path
from relight.cli.following import follow_run
from relight.runs.layout import RunLayout
sys.exit(follow_run(RunLayout(Path(sys.argv[1])), attempt=int(sys.argv[2]), suffix=" --runs X"))
"""
WATCH_JSON = WATCH.replace('suffix=" --runs X"', "json=True")


@dataclass
class Watched:
    """A run of the fake trainer, and a process that watches it."""

    layout: RunLayout
    process: subprocess.Popen[str]

    def wait_for_step(self, step: int) -> None:
        """Wait until the run has taken that many steps."""
        wait_until(lambda: summarize_run(self.layout).step >= step)

    def wait_for_line(self) -> None:
        """Wait until the watcher has printed a line: from then on it handles signals."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline()

    def end(self, timeout_s: float = 60.0) -> tuple[int, str, str]:
        """Wait for the watcher; return its exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, err


Watch = Callable[..., Watched]


def wait_until(holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Poll until `holds` is true."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "the condition never became true"
        time.sleep(0.02)


def launch(runs: Path, *options: str, max_restarts: int = 0) -> RunLayout:
    """Start a run of the fake trainer."""
    return launch_run(
        runs,
        PreparedTask(TaskReference(kind="script", name="fake", path=str(TRAINER), arguments=options)),
        name="fake",
        max_restarts=max_restarts,
    ).layout


@pytest.fixture
def watch(runs: Path) -> Iterator[Watch]:
    """Launch the fake trainer and a watcher with pipes."""
    started: list[subprocess.Popen[str]] = []

    def watch(*options: str, script: str = WATCH, max_restarts: int = 0) -> Watched:
        layout = launch(runs, *options, max_restarts=max_restarts)
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(layout.folder), "1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return Watched(layout, process)

    yield watch
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_pipe_gets_a_plain_line_for_each_epoch_and_checkpoint_and_the_end(watch: Watch) -> None:
    watched = watch("30", "--step-s", "0.2")  # slow enough for the watcher to start before the first checkpoint
    code, out, err = watched.end()
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert [line.split("  ")[:2] for line in epochs] == [[f"epoch {n}/3", f"step {n}0/30"] for n in (1, 2, 3)]
    assert "validation/accuracy 0.02" in epochs[1]
    assert [line.split(" (")[0] for line in lines if line.startswith("checkpoint")] == [
        f"checkpoint at step {step}" for step in (10, 20, 30)
    ]
    run = watched.layout.run_id
    assert lines[-3:] == [
        f"{run} finished at step 30 of 30.",
        "Best validation/accuracy 0.03 at step 30.",
        f"Best weights: relight export {run} --runs X",
    ]


def test_a_crash_shows_the_whole_traceback_what_was_lost_and_the_way_back(watch: Watch) -> None:
    watched = watch("30", "--crash-at", "13")
    code, out, err = watched.end()
    run = watched.layout.run_id
    assert code == 3
    assert err == f"relight: {run} crashed: ValueError: no good at step 13\n"
    assert "Traceback (most recent call last):" in out
    assert out.index("ValueError: no good at step 13") < out.index("The last checkpoint is at step 10: 3 steps")
    assert out.splitlines()[-1] == f"Resume: relight resume {run} --runs X"


def test_the_first_interrupt_asks_for_a_graceful_stop_and_says_so(watch: Watch) -> None:
    watched = watch("10000")
    watched.wait_for_line()
    watched.process.send_signal(signal.SIGINT)
    code, out, err = watched.end()
    assert code == 130
    assert err.startswith("relight: Stopping at the next step edge, with a checkpoint. Press Ctrl-C again to stop now")
    summary = summarize_run(watched.layout)
    assert summary.status is RunStatus.STOPPED
    assert summary.durable_step == summary.step
    assert f"The last checkpoint is at step {summary.step}." in out


def test_the_second_interrupt_stops_now(watch: Watch) -> None:
    watched = watch("10000", "--deaf")
    watched.wait_for_line()
    watched.process.send_signal(signal.SIGINT)
    assert watched.process.stderr is not None
    assert "next step edge" in watched.process.stderr.readline()
    watched.process.send_signal(signal.SIGINT)
    code, _, err = watched.end()
    assert code == 130
    assert "Stopping now" in err
    assert summarize_run(watched.layout).status is RunStatus.STOPPED


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_a_killed_watcher_or_a_closed_terminal_ends_nothing(watch: Watch, number: signal.Signals) -> None:
    watched = watch("10000")
    watched.wait_for_line()
    watched.process.send_signal(number)
    watched.end()
    step = summarize_run(watched.layout).step
    watched.wait_for_step(step + 20)
    assert summarize_run(watched.layout).status is RunStatus.RUNNING


def test_a_closed_pipe_ends_the_watching_and_nothing_else(watch: Watch) -> None:
    watched = watch("10000", "--step-s", "0.01")
    assert watched.process.stdout is not None
    watched.process.stdout.readline()
    watched.process.stdout.close()
    assert watched.process.wait(60) != 0
    step = summarize_run(watched.layout).step
    watched.wait_for_step(step + 20)


def test_a_restart_is_reported_and_watched_to_the_end(watch: Watch) -> None:
    watched = watch("30", "--crash-at", "13", max_restarts=2)
    code, out, err = watched.end()
    assert code == 0
    assert err.startswith("relight: Attempt 2 starts. Restarted automatically after a crash at step 13")
    assert "finished at step 30 of 30" in out


def test_json_is_one_object_at_the_end(watch: Watch) -> None:
    watched = watch("12", script=WATCH_JSON)
    code, out, _ = watched.end()
    assert code == 0
    shown = msgspec.json.decode(out)
    assert (shown["status"], shown["step"]) == ("finished", 12)


def test_leaving_show_follow_with_an_interrupt_leaves_the_run_alone(runs: Path, relight: Ask) -> None:
    layout = launch(runs, "10000")
    wait_until(lambda: summarize_run(layout).step > 2)
    process = subprocess.Popen(
        [str(RELIGHT), "show", layout.run_id, "--follow"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "continues in the background" in out
    assert summarize_run(layout).status is RunStatus.RUNNING


def test_an_interrupt_that_the_shell_ignores_stops_nothing(runs: Path) -> None:
    layout = launch(runs, "10000")
    process = subprocess.Popen(
        ["bash", "-c", f"trap '' INT; exec {sys.executable} -c '{WATCH}' \"$0\" 1", str(layout.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    step = summarize_run(layout).step
    wait_until(lambda: summarize_run(layout).step > step + 20)
    assert process.poll() is None
    process.kill()
    _, err = process.communicate()
    assert err == ""


def test_a_terminated_command_exits_cleanly_and_leaves_the_run_alone(runs: Path) -> None:
    layout = launch(runs, "10000")
    process = subprocess.Popen(
        [str(RELIGHT), "show", layout.run_id, "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "")
    assert summarize_run(layout).status is RunStatus.RUNNING


def test_a_terminal_gets_bars_and_its_cursor_back(runs: Path) -> None:
    layout = launch(runs, "10000")
    wait_until(lambda: summarize_run(layout).step > 2)
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"})
        os.execv(sys.executable, [sys.executable, "-c", WATCH, str(layout.folder), "1"])
    try:
        seen = _read_terminal(terminal, until=b"/10000 steps")
        os.write(terminal, b"\x03")
        seen += _read_terminal(terminal, until=None)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    text = seen.decode(errors="replace")
    assert os.waitstatus_to_exitcode(status) == 130
    assert re.search(r"epoch \d+/1000 ", text)
    assert re.search(r"(nothing saved yet|saved up to step)", text)
    assert "Stopping at the next step edge" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert text.index("\x1b[?25h") < text.index(f"Resume: relight resume {layout.run_id}")


def _read_terminal(terminal: int, *, until: bytes | None, timeout_s: float = 60.0) -> bytes:
    """Return what the terminal shows, until `until` appears or its process ends."""
    seen = b""
    deadline = time.monotonic() + timeout_s
    while until is None or until not in seen:
        assert time.monotonic() < deadline, seen[-2000:]
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # on Linux this means that the other side has closed it
                return seen
            if not data:
                return seen
            seen += data
    return seen
