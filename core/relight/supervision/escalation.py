"""How a stop request grows teeth: which signal is due, and when. Pure: time comes in as an argument."""

from __future__ import annotations

import signal

from relight.runs.records import StopRequest

TERMINATE_TO_KILL_S = 10.0
"""From SIGTERM, which still lets the trainer save at its next step edge, to SIGKILL."""
NOW_TO_KILL_S = 5.0
"""The same when the person asked to stop now."""


class StopEscalation:
    """Follows the stop requests of one attempt. Times are monotonic seconds; each signal is handed out once.

    A trainer reads the request itself and ends at its next step edge. SIGTERM comes when the grace time is over (at
    once, when asked to stop now), SIGKILL some seconds later: a stop always ends.
    """

    def __init__(self) -> None:
        self._due: dict[signal.Signals, float] = {}
        self.sent: list[signal.Signals] = []

    @property
    def requested(self) -> bool:
        """Whether anybody asked at all."""
        return bool(self._due)

    def request(self, request: StopRequest, *, at: float) -> None:
        """Take in a request. The same one again changes nothing, and another one only ever hastens."""
        if request.now:
            self.end(at=at, patience_s=NOW_TO_KILL_S)
        else:
            self._hasten(at + max(0.0, request.grace_s), patience_s=TERMINATE_TO_KILL_S)

    def end(self, *, at: float, patience_s: float) -> None:
        """SIGTERM at once, SIGKILL after `patience_s` seconds more."""
        self._hasten(at, patience_s=patience_s)

    def next_signal(self, *, at: float) -> signal.Signals | None:
        """The strongest signal that is due and has not been handed out; None when there is none."""
        for which in (signal.SIGKILL, signal.SIGTERM):
            if which in self._due and at >= self._due[which]:
                if which in self.sent:
                    return None
                self.sent.append(which)
                return which
        return None

    def _hasten(self, terminate_at: float, *, patience_s: float) -> None:
        for which, due in ((signal.SIGTERM, terminate_at), (signal.SIGKILL, terminate_at + patience_s)):
            self._due[which] = min(due, self._due.get(which, due))
