"""The memo reads once for all sessions that ask, and does not cache errors."""

from __future__ import annotations

import threading

import pytest

from relight_app.memo import Memo


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_recent_value_is_not_read_again() -> None:
    clock, readings = _Clock(), iter(range(10))
    memo = Memo(clock=clock)
    assert memo.recent("key", lambda: next(readings), max_age_s=1.0) == 0
    clock.now = 0.9
    assert memo.recent("key", lambda: next(readings), max_age_s=1.0) == 0
    clock.now = 2.0
    assert memo.recent("key", lambda: next(readings), max_age_s=1.0) == 1


def test_what_is_known_is_found_without_reading_while_it_is_recent() -> None:
    clock = _Clock()
    memo = Memo(clock=clock)
    assert memo.known("key", max_age_s=1.0) is None
    memo.recent("key", lambda: "value", max_age_s=1.0)
    assert memo.known("key", max_age_s=1.0) == "value"
    clock.now = 1.1
    assert memo.known("key", max_age_s=1.0) is None
    memo.recent("key", lambda: "value", max_age_s=1.0)
    memo.forget()
    assert memo.known("key", max_age_s=1.0) is None


def test_an_unchanged_signature_keeps_the_value() -> None:
    memo, readings = Memo(), iter(range(10))
    assert memo.unchanged("key", ("a", 1), lambda: next(readings)) == 0
    assert memo.unchanged("key", ("a", 1), lambda: next(readings)) == 0
    assert memo.unchanged("key", ("a", 2), lambda: next(readings)) == 1
    assert memo.unchanged("other", None, lambda: next(readings)) == 2


def test_an_error_is_not_cached() -> None:
    memo = Memo()
    with pytest.raises(ZeroDivisionError):
        memo.recent("key", lambda: 1 // 0, max_age_s=60)
    assert memo.recent("key", lambda: 7, max_age_s=60) == 7


def test_many_requests_at_once_cause_one_read() -> None:
    memo, entered, release = Memo(), threading.Event(), threading.Event()
    readings: list[int] = []

    def read() -> int:
        entered.set()
        assert release.wait(10)
        readings.append(1)
        return len(readings)

    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(memo.recent("key", read, max_age_s=60))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    assert entered.wait(10)
    release.set()
    for thread in threads:
        thread.join(10)
    assert answers == [1] * 8


def test_the_memo_stays_small() -> None:
    memo, readings = Memo(size=2), iter(range(10))
    for key in ("a", "b", "c"):
        memo.unchanged(key, 0, lambda: next(readings))
    assert memo.unchanged("a", 0, lambda: next(readings)) == 3  # evicted by "c"


def test_after_forget_only_what_lasts_is_not_read_again() -> None:
    memo, readings = Memo(), iter(range(10))

    def read_all() -> list[int]:
        return [
            memo.recent("state", lambda: next(readings), max_age_s=60),
            memo.recent("curve", lambda: next(readings), max_age_s=60, lasting=True),
            memo.unchanged("names", "signature", lambda: next(readings)),
        ]

    assert read_all() == [0, 1, 2]
    memo.forget()
    assert read_all() == [3, 1, 2]
