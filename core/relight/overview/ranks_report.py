"""What each rank of a run is doing: its process, how far it is, and how it failed."""

from __future__ import annotations

import msgspec

from relight.runs.fingerprint import read_environment
from relight.runs.layout import RunLayout
from relight.runs.process_identity import host_name, is_alive
from relight.runs.progress import Progress, read_progress
from relight.runs.record_file import read_record_or_none
from relight.runs.records import ProcessIdentity, RankEnd, RanksFailure


class RankReport(msgspec.Struct, frozen=True, kw_only=True):
    """One rank of an attempt."""

    rank: int
    pid: int | None
    """None unless it is alive on this machine."""
    host: str
    """The machine that it is on; "" before it has started."""
    step: int
    """Its last step edge. Ranks wait for each other: in a hang, look at the one with the lowest step."""
    exit_code: int | None = None
    signal: str | None = None
    """How it failed; both None for a rank that has not."""
    gpu: int | None = None
    """The card that it trains on, by the number of nvidia-smi; None on a CPU, and before it has begun."""
    log: str
    """Path of its log."""


def report_ranks(
    layout: RunLayout, attempt: int, *, world_size: int, gpus: tuple[int, ...] = ()
) -> tuple[RankReport, ...]:
    """Return what each rank of the attempt is doing; nothing for a training in one process.

    `gpus` are the cards that were chosen for it, if any were.
    """
    if world_size < 2:
        return ()
    failures = find_failures(layout, attempt, world_size=world_size)
    failed = {each.rank: each for failure in failures for each in failure.failed}
    reports = []
    for rank in range(world_size):
        own = layout.of_rank(rank).attempt(attempt)
        identity = read_record_or_none(own.rank_process, ProcessIdentity)
        ended = failed.get(rank, RankEnd(rank))
        reports.append(
            RankReport(
                rank=rank,
                pid=identity.pid if identity is not None and is_alive(identity) else None,
                host=identity.host if identity is not None else "",
                step=(read_progress(own.progress) or Progress()).step,
                exit_code=ended.exit_code,
                signal=ended.signal,
                gpu=find_card((read_environment(own.environment) or {}).get("device"), gpus),
                log=str(own.log),
            )
        )
    return tuple(reports)


def list_rank_pids(layout: RunLayout, attempt: int) -> dict[int, int]:
    """Return the pid of each rank of an attempt that is alive on this machine; {} for one process."""
    found = {}
    for rank in layout.list_ranks(attempt):
        identity = read_record_or_none(layout.of_rank(rank).attempt(attempt).rank_process, ProcessIdentity)
        if identity is not None and is_alive(identity):
            found[rank] = identity.pid
    return found


def find_card(device: object, gpus: tuple[int, ...]) -> int | None:
    """Return which of the machine's cards "cuda:1" is for a process that sees `gpus`; None for another device."""
    name, _, index = device.partition(":") if isinstance(device, str) else ("", "", "")
    if name != "cuda" or not index.isdecimal():
        return None
    number = int(index)
    if not gpus:
        return number
    return gpus[number] if number < len(gpus) else None


def find_failures(layout: RunLayout, attempt: int, *, world_size: int) -> list[RanksFailure]:
    """Return which ranks failed, one record for each machine: its first rank's folder has it."""
    paths = [layout.of_rank(rank).attempt(attempt).ranks_failure for rank in range(world_size)]
    return [record for path in paths if (record := read_record_or_none(path, RanksFailure)) is not None]


def word_rank(report: RankReport) -> str:
    """Say what a rank is doing: "rank 1 at step 412 (pid 4121)"."""
    if report.signal is not None or report.exit_code is not None:
        how = report.signal or f"exit code {report.exit_code}"
        return f"rank {report.rank} ended by {how} at step {report.step}"
    card = f" on GPU {report.gpu}" if report.gpu is not None else ""
    elsewhere = report.host and report.host != host_name()
    where = f" (on {report.host})" if elsewhere else f" (pid {report.pid})" if report.pid else ""
    return f"rank {report.rank} at step {report.step}{card}{where}"
