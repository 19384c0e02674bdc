"""Pauses between writes: as long as the write before, and over at once when somebody waits for the writer."""

from __future__ import annotations

import threading
import time

import pytest

from relight.checkpoints import pauses
from relight.checkpoints.pauses import Pauses

LONG_S = 600.0


def test_a_pause_is_as_long_as_the_write_before_it_but_no_longer_than_a_second() -> None:
    begun = time.monotonic()
    Pauses(2.0).rest(0.05)
    assert time.monotonic() - begun >= 0.1
    Pauses(1.0).rest(LONG_S)
    assert 1.1 <= time.monotonic() - begun < LONG_S


def test_hurrying_ends_the_pause_and_those_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "_LONGEST_S", LONG_S)
    hurried, begun = Pauses(1.0), time.monotonic()
    threading.Timer(0.1, hurried.hurry).start()
    hurried.rest(LONG_S)
    assert hurried.is_hurried
    hurried.rest(LONG_S)
    Pauses(0.0).rest(LONG_S)
    assert time.monotonic() - begun < LONG_S
