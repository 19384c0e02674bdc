"""Logs of any size and content: their end, and what is added to them."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from relight.runs.log import LogFollower, collapse_progress_bars, follow_log, read_log_tail, tail_offset
from tests.patience import stretch


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.txt"


def test_a_missing_log_is_empty(log: Path) -> None:
    assert read_log_tail(log) == ""
    assert list(LogFollower(log).poll()) == []
    assert tail_offset(log, lines=3) == 0


def test_the_last_lines(log: Path) -> None:
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert read_log_tail(log, lines=2) == "line 98\nline 99\n"
    assert read_log_tail(log, lines=0) == ""
    assert read_log_tail(log).count("\n") == 100
    assert log.read_bytes()[tail_offset(log, lines=2) :] == b"line 98\nline 99\n"
    assert tail_offset(log, lines=1000) == 0
    log.write_text("one\ntwo without an end")
    assert read_log_tail(log, lines=1) == "two without an end"
    assert log.read_bytes()[tail_offset(log, lines=1) :] == b"two without an end"


def test_only_whole_lines_where_the_reading_begins_in_the_middle(log: Path) -> None:
    log.write_text("first line\nsecond line\nthird line\n")
    assert read_log_tail(log, max_bytes=22) == "third line\n"
    assert read_log_tail(log, max_bytes=23) == "second line\nthird line\n", "a line that begins exactly there is whole"
    log.write_text("x" * 1000)
    assert read_log_tail(log, max_bytes=10) == "x" * 10


def test_a_progress_bar_shows_its_last_state(log: Path) -> None:
    log.write_text("start\n" + "".join(f"\r{percent}%" for percent in range(101)) + "\ndone\r\n")
    assert read_log_tail(log) == "start\n100%\ndone\n"
    assert collapse_progress_bars("10%\r20%\r") == "20%"


def test_bytes_that_are_no_utf8_are_replaced(log: Path) -> None:
    log.write_bytes(b"ok \xff\xfe\n\x00\n")
    assert read_log_tail(log) == "ok ��\n\x00\n"


def test_a_log_of_gigabytes_opens_at_once(log: Path) -> None:
    with log.open("wb") as file:
        file.truncate(5 << 30)  # a sparse file: nothing but its size is large
        file.seek(0, os.SEEK_END)
        file.write(b"\nthe end\n")
    begin = time.monotonic()
    assert read_log_tail(log, lines=1) == "the end\n"
    assert log.open("rb").seek(tail_offset(log, lines=1)) == (5 << 30) + 1
    assert time.monotonic() - begin < stretch(2.0)


def test_the_follower_hands_out_each_line_once_when_it_is_whole(log: Path) -> None:
    follower = LogFollower(log)
    log.write_text("one\ntw")
    assert list(follower.poll()) == ["one\n"]
    with log.open("a") as file:
        file.write("o\nthree\n")
    assert list(follower.poll()) == ["two\n", "three\n"]
    assert list(follower.poll()) == []


def test_the_follower_survives_a_character_cut_in_two(log: Path) -> None:
    follower = LogFollower(log)
    data = "ü🙂\n".encode()
    lines = []
    for end in range(1, len(data) + 1):
        log.write_bytes(data[:end])
        lines += list(follower.poll())
    assert lines == ["ü🙂\n"]


def test_a_progress_bar_without_end_stays_small_in_memory(log: Path) -> None:
    follower = LogFollower(log)
    with log.open("w") as file:
        for number in range(50_000):
            file.write(f"\rstep {number}")
        file.flush()
        assert list(follower.poll()) == []
        assert len(follower._rest) <= 64 << 10
        file.write("\n")
    assert list(follower.poll()) == ["step 49999\n"]


def test_a_line_without_end_is_handed_on_in_pieces(log: Path) -> None:
    log.write_bytes(b"x" * (5 << 20))
    follower = LogFollower(log)
    pieces = list(follower.poll())
    assert pieces
    assert sum(map(len, pieces)) + len(follower.take_unfinished()) == 5 << 20


def test_a_log_that_is_replaced_or_cut_is_read_from_its_beginning(log: Path) -> None:
    follower = LogFollower(log)
    log.write_text("old line\nmore\n")
    assert list(follower.poll()) == ["old line\n", "more\n"]
    log.write_text("new\n")
    assert list(follower.poll()) == ["new\n"]
    other = log.with_name("other")
    other.write_text("another file, and longer\n")
    other.rename(log)
    assert list(follower.poll()) == ["another file, and longer\n"]


def test_following_ends_after_everything_was_handed_out(log: Path) -> None:
    ended = threading.Event()

    def write() -> None:
        with log.open("a", buffering=1) as file:
            for number in range(20):
                file.write(f"{number}\n")
            file.write("the last words")
        ended.set()

    threading.Timer(0.05, write).start()
    lines = list(follow_log(log, ended=ended.is_set))
    assert lines == [f"{number}\n" for number in range(20)] + ["the last words"]


def test_following_can_begin_at_the_tail(log: Path) -> None:
    log.write_text("1\n2\n3\n")
    lines = list(follow_log(log, ended=lambda: True, offset=tail_offset(log, lines=1)))
    assert lines == ["3\n"]
