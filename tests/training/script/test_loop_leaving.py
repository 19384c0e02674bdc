"""A closed generator can tell whether its loop was left by `break` or `return`, or by an exception."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import pytest

from relight.training.script.loop_leaving import is_left_at_end, is_left_by_choice

told: list[bool] = []


def numbers() -> Iterator[int]:
    try:
        yield from range(5)
    except GeneratorExit:
        told.append(is_left_by_choice())
        raise


def watched(inner: Iterable[int]) -> Iterator[int]:
    """Wrap an iterator as progress bars do."""
    for number in inner:  # noqa: UP028
        yield number


def by_break() -> None:
    for number in numbers():
        if number == 2:
            break


def by_return() -> int:
    for number in numbers():
        return number
    return 0


def by_break_in_a_with() -> None:
    for _ in numbers():
        with contextlib.nullcontext():
            break


def by_break_with_a_finally() -> None:
    for _ in numbers():
        try:
            break
        finally:
            len("")


def by_break_of_a_zip() -> None:
    for _ in zip(numbers(), numbers(), strict=True):
        break


def by_break_of_a_progress_bar() -> None:
    for _ in watched(number for number in watched(numbers())):
        break


def by_raise() -> None:
    for _ in numbers():
        raise ValueError


def by_a_call_that_raises() -> None:
    for _ in numbers():
        int("x")


def by_an_operation_that_raises_under_a_progress_bar() -> None:
    for number in watched(numbers()):
        1 / number


def by_an_exception_from_an_inner_loop() -> None:
    for _ in numbers():
        by_raise()


def by_an_exit() -> None:
    for _ in numbers():
        raise SystemExit


@pytest.mark.parametrize(
    ("leave", "chosen"),
    [
        (by_break, [True]),
        (by_return, [True]),
        (by_break_in_a_with, [True]),
        (by_break_with_a_finally, [True]),
        (by_break_of_a_zip, [True, True]),
        (by_break_of_a_progress_bar, [True]),
        (by_raise, [False]),
        (by_a_call_that_raises, [False]),
        (by_an_operation_that_raises_under_a_progress_bar, [False]),
        (by_an_exception_from_an_inner_loop, [False, False]),
        (by_an_exit, [False]),
    ],
)
def test_a_loop_says_how_it_was_left(leave: Callable[[], object], chosen: list[bool]) -> None:
    told.clear()
    with contextlib.suppress(ValueError, ZeroDivisionError, SystemExit):
        leave()
    assert told == chosen


ended: list[bool] = []


def counted() -> Iterator[int]:
    try:
        yield from range(5)
    except GeneratorExit:
        ended.append(is_left_at_end())
        raise


def break_at_the_end(flag: bool = True) -> None:
    for number in watched(counted()):
        len("")
        if number == 2:
            len("")
        elif flag:
            len("")
            break


def break_before_the_end() -> None:
    for number in counted():
        if number == 2:
            break
        len("")


def return_at_the_end() -> None:
    for number in counted():
        if number == 2:
            return


@pytest.mark.parametrize(
    ("loop", "at_end"), [(break_at_the_end, True), (break_before_the_end, False), (return_at_the_end, False)]
)
def test_a_break_with_which_the_body_ends_anyway_is_recognized(loop: Callable[[], None], at_end: bool) -> None:
    ended.clear()
    loop()
    assert ended == [at_end]


def test_without_its_source_a_break_is_not_at_the_end() -> None:
    ended.clear()
    exec("for number in counted():\n    break\n", {"counted": counted})
    assert ended == [False]
