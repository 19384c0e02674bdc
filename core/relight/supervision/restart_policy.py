"""Decides whether an attempt that crashed or was ended by a signal is restarted, and after which delay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relight.runs.evidence import PastAttempt

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
SAME_ERROR_LIMIT = 2
"""Resuming is exact, so an error that occurs twice in a row at the same step will occur a third time."""
SAME_STEP_LIMIT = 3
"""Two different errors or signals at the same step may be a coincidence."""


@dataclass(frozen=True)
class RestartDecision:
    """What to do after an attempt. `reason` is a sentence for the user, empty when restarts are off."""

    restart: bool
    delay_s: float = 0.0
    reason: str = ""


def decide_restart(history: Sequence[PastAttempt]) -> RestartDecision:
    """Decide what to do after the last attempt of `history`, which has all attempts, oldest first.

    Only an attempt that crashed or that a signal ended is restarted, never one that finished or that a user stopped.
    Restarts since the last start by a user count against `max_restarts`; the delay doubles with each of them, from 1 s
    to 60 s.
    """
    last = history[-1]
    allowed = last.start.max_restarts
    if last.exit is None or allowed <= 0:
        return RestartDecision(restart=False)
    by_signal = last.exit.stop_signal if last.exit.outcome == "stopped" else None
    if last.exit.outcome != "crashed" and by_signal is None:
        return RestartDecision(restart=False)
    chain = _since_a_user_started_it(history)
    done = len(chain) - 1
    if done >= allowed:
        times = "once" if done == 1 else f"{done} times"
        return RestartDecision(
            restart=False,
            reason=f"It was already restarted {times}, the most that was allowed. Resume it to continue.",
        )
    alike, same_error = _crashes_at_the_last_step(chain)
    if alike >= SAME_STEP_LIMIT or (same_error and alike >= SAME_ERROR_LIMIT):
        return RestartDecision(
            restart=False,
            reason=f"It crashed {alike} times in a row at step {last.exit.step}, so it was not restarted again.",
        )
    delay_s = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**done)
    return RestartDecision(
        restart=True,
        delay_s=delay_s,
        reason=f"Restarted automatically after {by_signal or 'a crash'} at step {last.exit.step} "
        f"(restart {done + 1} of {allowed}).",
    )


def count_crashes_at_the_last_step(history: Sequence[PastAttempt]) -> int:
    """Return how many of the last attempts crashed at the same step, counting those that a user started, too."""
    return _crashes_at_the_last_step(history)[0] if history and history[-1].exit is not None else 0


def _since_a_user_started_it(history: Sequence[PastAttempt]) -> list[PastAttempt]:
    chain: list[PastAttempt] = []
    for attempt in reversed(history):
        chain.append(attempt)
        if attempt.start.reason != "restart":
            break
    return chain[::-1]


def _crashes_at_the_last_step(chain: Sequence[PastAttempt]) -> tuple[int, bool]:
    """Return how many of the last attempts crashed at the same step, and whether the last two had the same error."""
    last = chain[-1].exit
    assert last is not None
    alike = 0
    for attempt in reversed(chain):
        if attempt.exit is None or attempt.exit.outcome != "crashed" or attempt.exit.step != last.step:
            break
        alike += 1
    before = chain[-2].exit if alike >= 2 else None
    return alike, before is not None and last.error is not None and before.error == last.error
