"""This process's place among the ranks of a training. Does not load torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from relight.runs.process_identity import identify_process
from relight.runs.records import ProcessIdentity

_FROM_AGENT = "TORCHELASTIC_RUN_ID"
"""torchrun's agent sets this variable for each rank."""


@dataclass(frozen=True)
class RankPlace:
    """One of several ranks, as torchrun's environment variables name it."""

    rank: int
    world_size: int
    local_rank: int


def find_place() -> RankPlace | None:
    """Return this process's place among several ranks; None without torchrun, or if it started one process."""
    world_size, rank = os.environ.get("WORLD_SIZE", ""), os.environ.get("RANK", "")
    if not (world_size.isdigit() and rank.isdigit()) or int(world_size) < 2:
        return None
    return RankPlace(int(rank), int(world_size), int(os.environ.get("LOCAL_RANK", rank)))


def find_agent() -> ProcessIdentity | None:
    """Return the process of the torchrun that started this one, also through other programs; None without torchrun.

    It stays the same when torchrun starts its ranks again.
    """
    if _FROM_AGENT not in os.environ:
        return None
    import psutil

    for parent in psutil.Process().parents():
        try:
            if _FROM_AGENT not in parent.environ():
                return identify_process(parent.pid)
        except (psutil.Error, OSError):
            return None
    return None
