"""Reading again and again takes a bounded share of the processor and of the time."""

from __future__ import annotations

import pytest

from relight_app.server.pace import Pace


@pytest.mark.parametrize(
    ("spent", "worked", "pause"),
    [(0.01, 0.01, 1.0), (0.2, 0.02, 1.0), (0.2, 0.2, 2.0), (3.0, 0.02, 10.0)],
    ids=["cheap", "waits for a processor", "much work", "a slow disk"],
)
def test_what_is_expensive_is_read_less_often(spent: float, worked: float, pause: float) -> None:
    now, cpu = 100.0, 5.0
    pace = Pace(1.0, share=0.1, clock=lambda: now, processor_clock=lambda: cpu)
    assert pace.is_due
    with pytest.raises(ValueError), pace.reading():
        now, cpu = now + spent, cpu + worked
        raise ValueError("a failed reading counts too")
    now = 100.0 + pause - 0.01
    assert not pace.is_due
    now = 100.0 + pause + 0.01
    assert pace.is_due
