"""Reasons to stop as numbers, of which the ranks act on the largest."""

from __future__ import annotations

import pytest

from relight.training.ranks.ranked_stopping import decode_stop, encode_stop
from relight.training.stopping import Stop

REASONS = [
    None,
    Stop("Stopped by request"),
    Stop("Stopped by SIGINT", why="signal", signal="SIGINT"),
    Stop("Stopped by SIGTERM", why="signal", signal="SIGTERM"),
    Stop("Stopped because the supervisor died,", why="signal", orphaned=True),
    Stop("Stopped by request", save=False),
]


@pytest.mark.parametrize("stop", REASONS)
def test_a_reason_survives_the_way_to_the_other_ranks(stop: Stop | None) -> None:
    assert decode_stop(encode_stop(stop)) == stop


def test_the_most_urgent_reason_is_the_largest() -> None:
    codes = [encode_stop(stop) for stop in REASONS]
    assert codes == sorted(codes)
    assert codes[0] == 0
