"""A signal interrupts a step only where that is exact, and only after some waiting for a step edge."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from relight.runs.layout import RunLayout
from relight.runs.stop_request import request_stop
from relight.training import stopping as module
from relight.training.stopping import Stopping, TrainingStopped


@pytest.fixture
def stopping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stopping]:
    monkeypatch.setattr(module, "EDGE_WITHIN_S", 0.2)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    earlier = {number: signal.getsignal(number) for number in numbers}
    layout = RunLayout(tmp_path / "run")
    layout.attempt(1).folder.mkdir(parents=True)
    stopping = Stopping(layout, 1)
    stopping.building = False
    stopping.install()
    yield stopping
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in earlier.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def test_nothing_stops_a_training_that_nobody_stops(stopping: Stopping) -> None:
    assert stopping.check(1e9) is None


def test_the_folder_is_looked_at_only_now_and_then(stopping: Stopping, tmp_path: Path) -> None:
    assert stopping.check(100.0) is None
    request_stop(RunLayout(tmp_path / "run"))
    assert stopping.check(100.1) is None
    stop = stopping.check(100.21)
    assert stop is not None
    assert (stop.why, stop.save) == ("stop", True)


def test_a_signal_is_named_at_the_next_edge(stopping: Stopping) -> None:
    send(signal.SIGINT)
    stop = stopping.check(0.0)
    assert stop is not None
    assert (stop.why, stop.save) == ("signal", True)
    assert "SIGINT" in stop.event


def test_a_process_that_the_task_forks_ends_by_the_signals_that_a_trainer_outlives(stopping: Stopping) -> None:
    for number, reaction in ((signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        child = os.fork()
        if child == 0:
            os._exit(0 if signal.getsignal(number) == reaction else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL


def test_stop_now_saves_nothing(stopping: Stopping, tmp_path: Path) -> None:
    request_stop(RunLayout(tmp_path / "run"), now=True)
    send(signal.SIGTERM)
    stop = stopping.check(0.0)
    assert stop is not None
    assert not stop.save


def test_a_long_stretch_is_interrupted_where_it_may_be(stopping: Stopping) -> None:
    begun = time.monotonic()
    send(signal.SIGTERM)
    with pytest.raises(TrainingStopped), stopping.allow_interruption():
        time.sleep(30)
    assert 0.15 < time.monotonic() - begun < 10


def test_an_update_is_never_interrupted(stopping: Stopping) -> None:
    send(signal.SIGTERM)
    deadline = time.monotonic() + 0.8
    while time.monotonic() < deadline:  # for example in an optimizer step
        time.sleep(0.01)
    with pytest.raises(TrainingStopped), stopping.allow_interruption():
        time.sleep(30)  # in the next forward pass


def test_nothing_interrupts_the_saving(stopping: Stopping) -> None:
    stopping.interruptible = True
    send(signal.SIGTERM)
    stopping.begin_saving()
    send(signal.SIGTERM)
    time.sleep(0.6)


def test_no_except_clause_of_a_person_swallows_the_stop() -> None:
    assert not issubclass(TrainingStopped, Exception)
