"""The escalation of a stop: which signal is due when."""

from __future__ import annotations

import signal

from hypothesis import given
from hypothesis import strategies as st

from relight.runs.records import StopRequest
from relight.supervision.escalation import NOW_TO_KILL_S, TERMINATE_TO_KILL_S, StopEscalation

REQUESTS = st.builds(
    StopRequest, attempt=st.just(1), time_s=st.just(0.0), now=st.booleans(), grace_s=st.floats(-5.0, 500.0)
)


def ask(*, now: bool = False, grace_s: float = 60.0) -> StopRequest:
    return StopRequest(attempt=1, time_s=0.0, now=now, grace_s=grace_s)


def test_no_signal_is_due_without_a_request() -> None:
    escalation = StopEscalation()
    assert escalation.next_signal(at=1e9) is None
    assert not escalation.requested


def test_a_graceful_stop_gets_its_grace_time_then_sigterm_then_sigkill() -> None:
    escalation = StopEscalation()
    escalation.request(ask(grace_s=60.0), at=100.0)
    assert escalation.next_signal(at=159.9) is None
    assert escalation.next_signal(at=160.0) is signal.SIGTERM
    assert escalation.next_signal(at=160.0 + TERMINATE_TO_KILL_S - 0.1) is None
    assert escalation.next_signal(at=160.0 + TERMINATE_TO_KILL_S) is signal.SIGKILL
    assert escalation.sent == [signal.SIGTERM, signal.SIGKILL]


def test_stop_now_terminates_at_once_and_kills_soon() -> None:
    escalation = StopEscalation()
    escalation.request(ask(now=True), at=100.0)
    assert escalation.next_signal(at=100.0) is signal.SIGTERM
    assert escalation.next_signal(at=100.0 + NOW_TO_KILL_S) is signal.SIGKILL


def test_a_stop_now_shortens_a_graceful_stop() -> None:
    escalation = StopEscalation()
    escalation.request(ask(grace_s=600.0), at=100.0)
    escalation.request(ask(now=True), at=130.0)
    assert escalation.next_signal(at=130.0) is signal.SIGTERM
    assert escalation.next_signal(at=130.0 + NOW_TO_KILL_S) is signal.SIGKILL


def test_reading_the_same_request_again_does_not_push_the_deadline_away() -> None:
    escalation = StopEscalation()
    for tenth in range(600):
        escalation.request(ask(grace_s=60.0), at=100.0 + tenth / 10)
    assert escalation.next_signal(at=160.0) is signal.SIGTERM


@given(requests=st.lists(st.tuples(REQUESTS, st.floats(0.0, 100.0)), min_size=1))
def test_every_stop_ends_and_no_signal_comes_twice(
    requests: list[tuple[StopRequest, float]],
) -> None:
    escalation = StopEscalation()
    at, handed_out = 0.0, []
    for request, later in requests:
        at += later
        escalation.request(request, at=at)
        handed_out.append(escalation.next_signal(at=at))
    handed_out.append(escalation.next_signal(at=at + 500.0 + TERMINATE_TO_KILL_S))
    handed_out.append(escalation.next_signal(at=at + 1e6))
    sent = [which for which in handed_out if which is not None]
    assert sent[-1] is signal.SIGKILL
    assert len(set(sent)) == len(sent)
    assert sent == escalation.sent
