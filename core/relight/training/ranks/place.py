"""This process's place among the ranks of a training. Does not load torch."""

from __future__ import annotations

import os
from dataclasses import dataclass


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
