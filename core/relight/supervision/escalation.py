"""How a stop escalates: which signal is due, and when. Pure: time comes in as an argument."""

from __future__ import annotations

import signal

from relight.runs.records import StopRequest

TERMINATE_TO_KILL_S = 10.0
"""Between SIGTERM, after which the trainer can still save at its next step edge, and SIGKILL."""
NOW_TO_KILL_S = 5.0
"""The same after a request to stop now."""


class StopEscalation:
    """The stop requests of one attempt and the signals that enforce them. Times are monotonic seconds.

    A trainer reads the request itself and ends at its next step edge. SIGTERM is due when the grace time is over, or at
    once after a request to stop now; SIGKILL is due some seconds later. So every stop ends.
    """

    def __init__(self) -> None:
        self._due: dict[signal.Signals, float] = {}
        self.sent: list[signal.Signals] = []

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return bool(self._due)

    def request(self, request: StopRequest, *, at: float) -> None:
        """Add a request. The same request again changes nothing, and another one can only make signals due sooner."""
        if request.now:
            self.end(at=at, patience_s=NOW_TO_KILL_S)
        else:
            self._hasten(at + max(0.0, request.grace_s), patience_s=TERMINATE_TO_KILL_S)

    def end(self, *, at: float, patience_s: float) -> None:
        """Make SIGTERM due at once and SIGKILL `patience_s` seconds later."""
        self._hasten(at, patience_s=patience_s)

    def next_signal(self, *, at: float) -> signal.Signals | None:
        """Return the strongest signal that is due, or None. Each signal is returned once."""
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
