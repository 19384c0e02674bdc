"""One command that starts a run or continues it, and lives as long as the run does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import AttemptExit, AttemptStart
from relight.runs.status import RunStatus
from relight.supervision.stop import stop_run
from supervision.conftest import Lab, lives, wait_for
from tests.patience import stretch

pytestmark = pytest.mark.processes
ENTRY = Path(__file__).with_name("own_process_entry.py")
CRASHED, SAVED = 3, 128 + signal.SIGTERM


class Command:
    """The command, which is typed again and again."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.layout = RunLayout(lab.folder / "stand-in-a2b3")

    def start(self, *behavior: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ENTRY), str(self.lab.folder), *(behavior or ("train", "10000"))],
            env={**os.environ, "PYTHONPATH": str(ENTRY.parent.parent)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def behave(self, behavior: str) -> None:
        """Let the stand-in do something else from the next attempt on."""
        (self.layout.folder / "behavior.json").write_text(behavior)

    def wait_for_attempt(self, number: int) -> None:
        wait_for(lambda: self.layout.latest_attempt() == number, timeout_s=stretch(60), why="the attempt")
        self.lab.wait_for_step(self.layout, 2)


@pytest.fixture
def command(lab: Lab) -> Command:
    return Command(lab)


def _end(process: subprocess.Popen[str]) -> tuple[int, str]:
    printed, _ = process.communicate(timeout=stretch(60))
    return process.returncode, printed


def test_the_same_command_starts_continues_and_leaves_a_finished_run_alone(command: Command) -> None:
    first = command.start()
    command.wait_for_attempt(1)
    trainer = command.lab.trainer(command.layout)
    first.kill()
    first.wait()
    wait_for(lambda: not lives(trainer), why="the trainer ends with the command")
    assert command.lab.summary(command.layout).status is RunStatus.INTERRUPTED

    second = command.start()
    command.wait_for_attempt(2)
    second.terminate()
    assert _end(second)[0] == SAVED
    assert read_record(command.layout.attempt(2).exit, AttemptExit).stop_signal == "SIGTERM"

    command.behave('["train", "3"]')
    assert _end(command.start())[0] == 0
    assert command.lab.summary(command.layout).status is RunStatus.FINISHED
    assert read_record(command.layout.attempt(3).start, AttemptStart).reason == "resume"
    assert _end(command.start()) == (0, "stand-in-a2b3 has finished.\n")
    assert command.layout.latest_attempt() == 3


def test_a_stop_by_a_person_is_the_end_for_a_scheduler_and_a_crash_is_not(command: Command) -> None:
    process = command.start()
    command.wait_for_attempt(1)
    stop_run(command.layout)
    assert _end(process)[0] == 0
    command.behave('["crash-at", "2"]')
    assert _end(command.start())[0] == CRASHED


def test_another_training_does_not_get_the_id(command: Command) -> None:
    assert _end(command.start("train", "1"))[0] == 0
    code, said = _end(command.start("train", "2"))
    assert code == 2
    assert "arguments ('train', '1') instead of ('train', '2')" in said
    assert command.layout.latest_attempt() == 1
