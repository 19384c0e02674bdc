"""The ranks of an attempt as processes: finding them, sending signals to them, and which of them made it fail."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass

import msgspec

from relight.overview.ranks_report import find_failures
from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.process_identity import current_process, is_alive
from relight.runs.record_file import read_record_or_none, write_record
from relight.runs.records import ProcessIdentity, TrainerOutcome
from relight.supervision.launcher import ProcessEnd


def record_rank(layout: RunLayout, *, rank: int, attempt: int) -> AttemptLayout:
    """Record this process as a rank of an attempt; return the files that it writes there."""
    own = layout.of_rank(rank).attempt(attempt)
    own.folder.mkdir(parents=True, exist_ok=True)
    if rank:  # a rank finds in its own folder what it reads of an attempt
        own.start.write_bytes(layout.attempt(attempt).start.read_bytes())
    write_record(own.rank_process, current_process(), durable=False)
    return own


class LiveRanks:
    """The ranks of an attempt, found by what each of them wrote when it started."""

    def __init__(self, layout: RunLayout, attempt: int, world_size: int) -> None:
        self._records = [layout.of_rank(rank).attempt(attempt).rank_process for rank in range(world_size)]

    def find(self) -> list[ProcessIdentity]:
        """Return the ranks that are alive."""
        found = [read_record_or_none(path, ProcessIdentity) for path in self._records]
        return [identity for identity in found if identity is not None and is_alive(identity)]

    def send(self, which: signal.Signals) -> bool:
        """Send a signal to every live rank, SIGKILL also to its workers; return whether there was one."""
        alive = self.find()
        for identity in alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if which is signal.SIGKILL and os.getpgid(identity.pid) == identity.pid:
                    os.killpg(identity.pid, which)
                else:
                    os.kill(identity.pid, which)
        return bool(alive)


@dataclass(frozen=True)
class RanksVerdict:
    """How an attempt of several ranks ended: as the rank did that failed first, or as rank 0 says."""

    end: ProcessEnd
    outcome: TrainerOutcome | None
    prefix: str = ""
    """Begins the sentence about a failure: "Rank 1 of 2: "."""


def judge_ranks(layout: RunLayout, attempt: int, world_size: int, *, end: ProcessEnd, asked: bool) -> RanksVerdict:
    """Tell why an attempt of several ranks ended. `end` is that of torchrun's agent; `asked`: a stop was requested.

    If a rank was killed or raised, the others lose their connection to it and end with errors of their own, which say
    nothing about the cause.
    """
    outcomes = [
        read_record_or_none(layout.of_rank(rank).attempt(attempt).outcome, TrainerOutcome) for rank in range(world_size)
    ]
    first = outcomes[0]
    # When one rank fails, torchrun sends SIGTERM to the others, and rank 0 may take that for a stop.
    if first is not None and first.outcome != "crashed" and (asked or first.outcome == "finished"):
        return RanksVerdict(end, first)
    failures = find_failures(layout, attempt, world_size=world_size)
    first_of_each = [failure.failed[0] for failure in failures if failure.failed]
    killed = (each for each in first_of_each if each.signal is not None and outcomes[each.rank] is None)
    if (failed := next(killed, None)) is not None:
        return RanksVerdict(
            ProcessEnd(signal=failed.signal, peak_memory_bytes=end.peak_memory_bytes), None,
            f"Rank {failed.rank} of {world_size}: ",
        )  # fmt: skip
    if not failures and end.signal is not None:
        return RanksVerdict(end, None, "torchrun, which had started the ranks: ")
    rank = _find_first_crash(layout, attempt, outcomes)
    if rank is None:
        return RanksVerdict(end, first)
    crash = outcomes[rank]
    assert crash is not None
    prefix = f"Rank {rank} of {world_size}: "
    return RanksVerdict(end, msgspec.structs.replace(crash, reason=f"{prefix}{crash.reason or crash.error or ''}"))


def _find_first_crash(layout: RunLayout, attempt: int, outcomes: list[TrainerOutcome | None]) -> int | None:
    """Return the rank that recorded its crash first: the others crash only when they miss its answers."""
    times: dict[int, int] = {}
    for rank, outcome in enumerate(outcomes):
        if outcome is not None and outcome.outcome == "crashed":
            with contextlib.suppress(OSError):
                times[rank] = layout.of_rank(rank).attempt(attempt).outcome.stat().st_mtime_ns
    return min(times, key=times.__getitem__, default=None)
