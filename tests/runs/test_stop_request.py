"""A stop is asked for once, only hastened after, and means one attempt."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.runs.stop_request import clear_stop_request, read_stop_request, request_stop
from tests.runs.run_builder import RunBuilder


@pytest.fixture
def run(tmp_path: Path) -> RunBuilder:
    return RunBuilder.create(tmp_path).start()


def test_nobody_asked(run: RunBuilder) -> None:
    assert read_stop_request(run.layout) is None


def test_a_request_says_attempt_and_grace(run: RunBuilder) -> None:
    request_stop(run.layout, grace_s=5.0)
    request = read_stop_request(run.layout, attempt=1)
    assert request is not None
    assert (request.attempt, request.grace_s, request.now) == (1, 5.0, False)


def test_asking_again_hastens_and_never_delays(run: RunBuilder) -> None:
    first = request_stop(run.layout, grace_s=5.0)
    assert request_stop(run.layout, grace_s=500.0) == first, "the grace of the first one keeps running"
    hastened = request_stop(run.layout, now=True)
    assert hastened.now
    assert request_stop(run.layout) == hastened == read_stop_request(run.layout), "now is not taken back"


def test_a_request_for_an_earlier_attempt_stops_no_later_one(run: RunBuilder) -> None:
    request_stop(run.layout, now=True)
    run.start()
    assert read_stop_request(run.layout, attempt=2) is None
    assert request_stop(run.layout).now is False, "an old request says nothing about the new attempt"
    assert read_stop_request(run.layout, attempt=2) is not None


@pytest.mark.parametrize("data", [b"", b"garbage", b'{"attempt": '])
def test_a_damaged_request_is_none(run: RunBuilder, data: bytes) -> None:
    run.layout.stop_request.write_bytes(data)
    assert read_stop_request(run.layout) is None
    request_stop(run.layout)
    assert read_stop_request(run.layout) is not None


def test_it_can_be_taken_away_also_when_it_is_not_there(run: RunBuilder) -> None:
    request_stop(run.layout)
    clear_stop_request(run.layout)
    clear_stop_request(run.layout)
    assert read_stop_request(run.layout) is None
