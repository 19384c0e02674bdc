"""Whether a crashed attempt restarts automatically."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relight.runs.evidence import PastAttempt
from relight.runs.records import AttemptExit, AttemptStart, Outcome, StartReason
from relight.supervision.restart_policy import FIRST_DELAY_S, LONGEST_DELAY_S, decide_restart


def past(
    outcome: Outcome | None = "crashed",
    *,
    step: int = 10,
    reason: StartReason = "restart",
    max_restarts: int = 5,
    error: str | None = None,
    stop_signal: str | None = None,
) -> PastAttempt:
    start = AttemptStart(attempt=1, time_s=0.0, reason=reason, max_restarts=max_restarts)
    if outcome is None:
        return PastAttempt(start=start, exit=None)
    end = AttemptExit(attempt=1, time_s=0.0, outcome=outcome, step=step, error=error, stop_signal=stop_signal)
    return PastAttempt(start=start, exit=end)


def test_a_crash_is_restarted_when_restarts_are_allowed() -> None:
    decision = decide_restart([past(reason="launch")])
    assert decision.restart
    assert decision.delay_s == FIRST_DELAY_S
    assert decision.reason == "Restarted automatically after a crash at step 10 (restart 1 of 5)."


def test_a_crash_is_not_restarted_by_default() -> None:
    assert not decide_restart([past(reason="launch", max_restarts=0)]).restart


def test_a_finished_or_stopped_attempt_is_never_restarted() -> None:
    for outcome in ("finished", "stopped"):
        decision = decide_restart([past(outcome, reason="launch")])
        assert not decision.restart
        assert decision.reason == ""


def test_an_attempt_that_a_signal_stopped_is_restarted_as_often_as_allowed() -> None:
    ended = past("stopped", reason="launch", max_restarts=1, stop_signal="SIGTERM")
    decision = decide_restart([ended])
    assert decision.restart
    assert decision.reason == "Restarted automatically after SIGTERM at step 10 (restart 1 of 1)."
    assert not decide_restart([ended, past("stopped", max_restarts=1, stop_signal="SIGTERM")]).restart
    assert not decide_restart([past("stopped", max_restarts=0, stop_signal="SIGTERM")]).restart


def test_restarts_end_at_the_allowed_number() -> None:
    history = [past(reason="launch", max_restarts=2, step=1), past(max_restarts=2, step=5)]
    assert decide_restart(history).restart
    history.append(past(max_restarts=2, step=9))
    decision = decide_restart(history)
    assert not decision.restart
    assert "restarted 2 times" in decision.reason


def test_a_resume_resets_the_number_of_restarts() -> None:
    history = [past(reason="launch", step=1), *(past(step=step) for step in range(2, 7)), past(reason="resume", step=8)]
    decision = decide_restart(history)
    assert decision.restart
    assert decision.delay_s == FIRST_DELAY_S


def test_the_same_error_at_the_same_step_is_not_tried_a_third_time() -> None:
    first = past(reason="launch", error="ValueError: no", step=7)
    assert decide_restart([first]).restart
    decision = decide_restart([first, past(error="ValueError: no", step=7)])
    assert not decision.restart
    assert decision.reason == "It crashed 2 times in a row at step 7, so it was not restarted again."


def test_a_signal_at_the_same_step_is_retried_once_but_not_twice() -> None:
    history = [past(reason="launch"), past()]
    assert decide_restart(history).restart
    assert not decide_restart([*history, past()]).restart


def test_progress_between_crashes_keeps_it_going() -> None:
    history = [past(reason="launch", error="E", step=7), past(error="E", step=9)]
    assert decide_restart(history).restart


def test_an_attempt_that_ended_without_a_record_does_not_count_as_the_same_crash() -> None:
    assert decide_restart([past(reason="launch"), past(None), past()]).restart


@given(allowed=st.integers(1, 40))
def test_waits_double_up_to_a_minute_and_there_are_exactly_as_many_as_allowed(allowed: int) -> None:
    history, delays = [past(reason="launch", max_restarts=allowed, step=0)], []
    while (decision := decide_restart(history)).restart:
        delays.append(decision.delay_s)
        history.append(past(max_restarts=allowed, step=len(history)))
    assert delays == [min(LONGEST_DELAY_S, 2.0**done) for done in range(allowed)]
