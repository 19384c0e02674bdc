"""Why an attempt of several ranks ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relight.errors import UsageError
from relight.runs.layout import RunLayout
from relight.runs.record_file import write_record
from relight.runs.records import AttemptStart, RankEnd, RanksFailure, TrainerOutcome, name_nproc
from relight.supervision.launcher import ProcessEnd
from relight.supervision.nproc import choose_nproc
from relight.supervision.ranks import LiveRanks, RanksVerdict, judge_ranks, record_rank


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    made = RunLayout(tmp_path / "run")
    for rank in (0, 1):
        made.of_rank(rank).attempt(1).folder.mkdir(parents=True)
    write_record(made.attempt(1).start, AttemptStart(attempt=1, time_s=1.0, reason="launch", nproc=2))
    return made


def _tell(layout: RunLayout, rank: int, outcome: TrainerOutcome, *, at: int) -> None:
    path = layout.of_rank(rank).attempt(1).outcome
    write_record(path, outcome)
    os.utime(path, ns=(at, at))


def _judge(layout: RunLayout, *, asked: bool = False) -> RanksVerdict:
    return judge_ranks(layout, 1, 2, end=ProcessEnd(exit_code=3), asked=asked)


CRASH = TrainerOutcome(outcome="crashed", step=4, reason="ValueError: bad", error="ValueError: bad")
LOST = TrainerOutcome(outcome="crashed", step=4, reason="RuntimeError: Connection closed by peer")
STOPPED = TrainerOutcome(outcome="stopped", step=4, reason="Stopped by SIGTERM at step 4.", stop_signal="SIGTERM")


def test_the_rank_that_crashed_first_says_why(layout: RunLayout) -> None:
    _tell(layout, 1, CRASH, at=1)
    _tell(layout, 0, LOST, at=2)
    verdict = _judge(layout)
    assert verdict.outcome is not None
    assert verdict.outcome.reason == "Rank 1 of 2: ValueError: bad"


def test_a_killed_rank_counts_before_those_that_lost_it(layout: RunLayout) -> None:
    _tell(layout, 0, LOST, at=1)
    write_record(layout.attempt(1).ranks_failure, RanksFailure(failed=(RankEnd(1, signal="SIGKILL"), RankEnd(0, 3))))
    verdict = _judge(layout)
    assert (verdict.end.signal, verdict.outcome, verdict.prefix) == ("SIGKILL", None, "Rank 1 of 2: ")


def test_a_rank_that_torchrun_ended_is_no_stop_unless_one_was_asked_for(layout: RunLayout) -> None:
    _tell(layout, 0, STOPPED, at=2)
    _tell(layout, 1, CRASH, at=1)
    crashed, stopped = _judge(layout).outcome, _judge(layout, asked=True).outcome
    assert crashed is not None
    assert crashed.reason == "Rank 1 of 2: ValueError: bad"
    assert stopped == STOPPED


def test_a_signal_that_stopped_all_ranks_in_order_is_a_stop(layout: RunLayout) -> None:
    for rank in (0, 1):
        _tell(layout, rank, STOPPED, at=1)
    assert _judge(layout).outcome == STOPPED


def test_a_recorded_rank_is_found_alive_and_has_the_start_of_its_attempt(layout: RunLayout) -> None:
    own = record_rank(layout, rank=1, attempt=1)
    assert own.start.read_bytes() == layout.attempt(1).start.read_bytes()
    assert [identity.pid for identity in LiveRanks(layout, 1, 2).find()] == [os.getpid()]
    assert layout.list_ranks(1) == [0, 1]
    assert layout.list_ranks(2) == [0]


def test_one_process_leaves_no_trace_of_ranks_in_its_record(tmp_path: Path) -> None:
    path = tmp_path / "start.json"
    write_record(path, AttemptStart(attempt=1, time_s=1.0, reason="launch", nproc=name_nproc(1)))
    assert b"nproc" not in path.read_bytes()
    assert AttemptStart(attempt=1, time_s=1.0, reason="launch").world_size == 1


def test_nproc_is_a_number_or_auto() -> None:
    assert (choose_nproc(None), choose_nproc("3")) == (None, 3)
    assert choose_nproc("auto") or 0 >= 1
    for wrong in ("0", "-1", "two", "1000", ""):
        with pytest.raises(UsageError, match="--nproc"):
            choose_nproc(wrong)
