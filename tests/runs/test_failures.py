"""A machine's failures are the attempts that were killed or vanished, not those that could save before they ended."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from relight.runs.failures import PRIOR_S, FailureHistory, read_failures
from relight.runs.process_identity import current_process
from tests.runs.run_builder import RunBuilder, dead_process

DAY_S = 86_400.0


def _train(run: RunBuilder, *, seconds: float, ended_ago_s: float = 0.0) -> RunBuilder:
    end_s = time.time() - ended_ago_s
    run.start().processes(dead_process(), dead_process())
    return run.progress(10, time_s=end_s, started_s=end_s - seconds)


def _read(runs: Path) -> tuple[int, int]:
    history = read_failures(runs, now_s=time.time())
    return round(history.trained_s), history.failures


def test_no_history_means_one_failure_a_day() -> None:
    assert FailureHistory().estimate_interval() == PRIOR_S == DAY_S
    assert FailureHistory().estimate_interval(6 * DAY_S) == 7 * DAY_S
    assert FailureHistory(9 * DAY_S, failures=4).estimate_interval() == 2 * DAY_S


def test_kills_and_vanished_attempts_count_and_orderly_ends_do_not(tmp_path: Path) -> None:
    _train(RunBuilder.create(tmp_path), seconds=1_000).exit("crashed", signal="SIGKILL")
    assert _read(tmp_path) == (1_000, 1)
    _train(RunBuilder.create(tmp_path), seconds=1_000)  # a power cut
    assert _read(tmp_path) == (2_000, 2)
    _train(RunBuilder.create(tmp_path), seconds=1_000).exit("finished")
    _train(RunBuilder.create(tmp_path), seconds=1_000).exit("stopped", stop_signal="SIGTERM")
    _train(RunBuilder.create(tmp_path), seconds=1_000).exit("crashed", error="ValueError", traceback="Traceback …")
    assert _read(tmp_path) == (5_000, 2)


def test_every_attempt_of_a_run_counts(tmp_path: Path) -> None:
    run = RunBuilder.create(tmp_path)
    for _ in range(3):
        _train(run, seconds=100).exit("crashed", signal="SIGSEGV")
    assert _read(tmp_path) == (300, 3)


def test_what_trains_now_has_not_failed(tmp_path: Path) -> None:
    run = _train(RunBuilder.create(tmp_path), seconds=500)
    run.processes(current_process(), current_process())
    assert _read(tmp_path) == (500, 0)


@pytest.mark.parametrize("case", ["long ago", "another machine", "never trained", "damaged"])
def test_what_says_nothing_about_this_machine_now_is_left_out(tmp_path: Path, case: str) -> None:
    run = _train(RunBuilder.create(tmp_path), seconds=500, ended_ago_s=31 * DAY_S if case == "long ago" else 0.0)
    if case == "another machine":
        run.processes(msgspec.structs.replace(dead_process(), host="another"))
    elif case == "never trained":
        run.progress(0, started_s=0.0)
    elif case == "damaged":
        run.files.progress.write_bytes(b"?")
        run.files.processes.write_bytes(b"?")
    assert _read(tmp_path) == (0, 0)


def test_a_missing_folder_has_no_failures(tmp_path: Path) -> None:
    assert _read(tmp_path / "none") == (0, 0)
