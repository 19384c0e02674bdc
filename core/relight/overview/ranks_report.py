"""What each rank of a run is doing: its process, how far it is, and how it failed."""

from __future__ import annotations

import msgspec

from relight.runs.layout import RunLayout
from relight.runs.process_identity import is_alive
from relight.runs.progress import Progress, read_progress
from relight.runs.record_file import read_record_or_none
from relight.runs.records import ProcessIdentity, RankEnd, RanksFailure


class RankReport(msgspec.Struct, frozen=True, kw_only=True):
    """One rank of an attempt."""

    rank: int
    pid: int | None
    """None unless it is alive on this machine."""
    step: int
    """Its last step edge. Ranks wait for each other: in a hang, look at the one with the lowest step."""
    exit_code: int | None = None
    signal: str | None = None
    """How it failed; both None for a rank that has not."""
    log: str
    """Path of its log."""


def report_ranks(layout: RunLayout, attempt: int, *, world_size: int) -> tuple[RankReport, ...]:
    """Return what each rank of the attempt is doing; nothing for a training in one process."""
    if world_size < 2:
        return ()
    failure = read_record_or_none(layout.attempt(attempt).ranks_failure, RanksFailure)
    failed = {each.rank: each for each in failure.failed} if failure is not None else {}
    reports = []
    for rank in range(world_size):
        own = layout.of_rank(rank).attempt(attempt)
        identity = read_record_or_none(own.rank_process, ProcessIdentity)
        ended = failed.get(rank, RankEnd(rank))
        reports.append(
            RankReport(
                rank=rank,
                pid=identity.pid if identity is not None and is_alive(identity) else None,
                step=(read_progress(own.progress) or Progress()).step,
                exit_code=ended.exit_code,
                signal=ended.signal,
                log=str(own.log),
            )
        )
    return tuple(reports)


def word_rank(report: RankReport) -> str:
    """Say what a rank is doing: "rank 1 at step 412 (pid 4121)"."""
    if report.signal is not None or report.exit_code is not None:
        how = report.signal or f"exit code {report.exit_code}"
        return f"rank {report.rank} ended by {how} at step {report.step}"
    return f"rank {report.rank} at step {report.step}" + (f" (pid {report.pid})" if report.pid else "")
