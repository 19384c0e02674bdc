"""The reason to stop that all ranks act on, whichever of them was asked to."""

from __future__ import annotations

import signal

from relight.training.ranks.group import Asking, RankGroup
from relight.training.stopping import Stop

_REQUEST, _SIGNAL, _ORPHANED, _NOW = 1, 1000, 2000, 3000
"""The larger number wins. A signal adds its own number."""


def agree_on_stop(group: RankGroup, stop: Stop | None) -> Stop | None:
    """Return the most urgent reason of any rank to stop; None if no rank is asked to."""
    own, code = encode_stop(stop), group.heard_stop
    group.heard_stop = None
    if code is None:
        (code,) = group.agree(Asking.STOP, own)
    return stop if code == own else decode_stop(code)


def encode_stop(stop: Stop | None) -> int:
    """Return the number that stands for a reason to stop; 0 for none."""
    if stop is None:
        return 0
    if stop.orphaned:
        return _ORPHANED
    if not stop.save:
        return _NOW
    return _REQUEST if stop.signal is None else _SIGNAL + signal.Signals[stop.signal]


def decode_stop(code: int) -> Stop | None:
    """Return the reason to stop that a number stands for."""
    if code == 0:
        return None
    if code >= _NOW:
        return Stop("Stopped by request", save=False)
    if code >= _ORPHANED:
        return Stop("Stopped because the supervisor died,", why="signal", orphaned=True)
    if code > _SIGNAL:
        name = signal.Signals(code - _SIGNAL).name
        return Stop(f"Stopped by {name}", why="signal", signal=name)
    return Stop("Stopped by request")
