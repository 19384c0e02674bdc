"""Stopping a run: it always ends, and counts as stopped."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from relight.errors import RelightError
from relight.runs.process_identity import is_alive
from relight.runs.status import RunStatus
from relight.supervision.stop import stop_run
from supervision.conftest import Lab, kill, wait_for

pytestmark = pytest.mark.processes


def test_a_stop_ends_at_the_next_step_edge(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 2)
    record = stop_run(layout, wait_s=30.0)
    assert record is not None
    assert (record.outcome, record.exit_code, record.signal) == ("stopped", 130, None)
    assert lab.summary(layout).status is RunStatus.STOPPED


def test_a_stop_returns_at_once_without_wait_s(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    assert stop_run(layout) is None
    assert lab.wait_for_exit(layout).outcome == "stopped"


def test_a_trainer_that_ignores_the_request_is_ended_after_the_grace_time_and_counts_as_stopped(lab: Lab) -> None:
    layout = lab.launch("stubborn").layout
    lab.processes(layout)
    record = stop_run(layout, grace_s=0.3, wait_s=30.0)
    assert record is not None
    assert (record.outcome, record.signal) == ("stopped", "SIGTERM")
    assert record.reason == "Stopped by request. It was ended by SIGTERM at step 0."


def test_stop_now_kills_a_trainer_that_ignores_sigterm(lab: Lab) -> None:
    layout = lab.launch("deaf", max_restarts=3).layout
    lab.wait_for_step(layout, 1)
    record = stop_run(layout, now=True, wait_s=30.0)
    assert record is not None
    assert (record.outcome, record.signal) == ("stopped", "SIGKILL")
    assert "had to be killed" in record.reason
    lab.wait_until_free(layout)
    assert layout.list_attempts() == [1]  # a stop is never restarted


def test_a_frozen_trainer_can_be_stopped(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    os.kill(lab.trainer(layout), signal.SIGSTOP)
    record = stop_run(layout, now=True, wait_s=30.0)
    assert record is not None
    assert record.outcome == "stopped"


def test_a_stop_now_shortens_the_grace_time(lab: Lab) -> None:
    layout = lab.launch("stubborn").layout
    lab.processes(layout)
    assert stop_run(layout, grace_s=600.0, wait_s=0.3) is None
    record = stop_run(layout, now=True, wait_s=30.0)
    assert record is not None
    assert record.outcome == "stopped"


def test_a_stop_before_the_trainer_starts_prevents_the_start(lab: Lab) -> None:
    layout = lab.launch("code", "7", max_restarts=1).layout
    wait_for(lambda: layout.latest_attempt() == 2)
    record = stop_run(layout, wait_s=30.0)
    assert record is not None
    assert record.outcome == "stopped"
    assert record.attempt == 2
    assert "had not started yet" in record.reason


def test_a_crash_while_it_stops_is_not_restarted(lab: Lab) -> None:
    layout = lab.launch("crash-on-stop", max_restarts=3).layout
    lab.processes(layout)
    record = stop_run(layout, wait_s=30.0)
    assert record is not None
    assert record.outcome == "crashed"
    lab.wait_until_free(layout)
    assert layout.list_attempts() == [1]


def test_many_stops_at_once_are_one_stop(lab: Lab) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    records = []
    threads = [threading.Thread(target=lambda: records.append(stop_run(layout, wait_s=30.0))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record.outcome for record in records if record is not None] == ["stopped"] * 4


def test_a_run_that_is_not_training_cannot_be_stopped(lab: Lab) -> None:
    layout = lab.launch("train", "1").layout
    lab.wait_for_exit(layout)
    lab.wait_until_free(layout)
    with pytest.raises(RelightError, match="it is finished"):
        stop_run(layout)
    assert not layout.stop_request.exists()


def test_an_orphan_without_a_supervisor_can_be_stopped(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from relight.supervision import orphans

    monkeypatch.setattr(orphans, "LIFELINE_S", 0.3)
    ready = tmp_path / "ready"
    layout = lab.launch("undead", str(ready)).layout
    processes = lab.processes(layout)
    wait_for(ready.exists)
    kill(processes.supervisor.pid)
    wait_for(lambda: not is_alive(processes.supervisor))
    stop_run(layout, wait_s=2.0)
    assert not is_alive(processes.trainer)
