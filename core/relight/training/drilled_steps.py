"""Obeys a drill: at a step that the drill has chosen, this trainer kills itself with SIGKILL, or ends the training."""

from __future__ import annotations

import os
import signal
import time

from relight.runs.layout import DRILL_PREFIX, RunLayout
from relight.runs.record_file import read_record_or_none
from relight.runs.records import ENDED_BY_DRILL, DrillOrder
from relight.training.checkpoint_cutter import CheckpointCutter
from relight.training.ranks.group import Asking, RankGroup
from relight.training.ranks.ranked_cutter import RankedCutter
from relight.training.stopping import Stop

_DURABLE_WITHIN_S = 600.0
_LEAST_STEPS = 6
"""A training that takes long for each step is not ended before this one."""


def read_drill_order(layout: RunLayout, attempt: int) -> DrillOrder | None:
    """Return what a drill has ordered for this attempt; None for a run that is in no drill's folder."""
    if not layout.folder.parent.name.startswith(DRILL_PREFIX):
        return None
    order = read_record_or_none(layout.drill, DrillOrder)
    return order if order is not None and order.attempt == attempt else None


class DrilledSteps:
    """The steps of one attempt in a drill. With several ranks, rank 0 decides, and the rank in the order dies."""

    def __init__(
        self, order: DrillOrder, cutter: CheckpointCutter | RankedCutter, *, group: RankGroup | None = None
    ) -> None:
        self._order = order
        self._cutter = cutter
        self._group = group
        self._begun_s = time.monotonic()
        self._end_step = order.end_step

    def pass_edge(self, step: int) -> None:
        """Die at this step edge if the drill says so; choose it as the last one if the training has taken long enough.

        A clock decides only here, so that another attempt can end at the same edge: a step may have several.
        """
        order = self._order
        if order.end_after_s and step >= _LEAST_STEPS:
            is_late = time.monotonic() - self._begun_s >= order.end_after_s
            if self._follow_rank_0(is_late):
                self._end_step = min(step, self._end_step or step)
        if not order.in_validation:
            self._kill_from(step)

    def pass_validation(self, step: int) -> None:
        """Die in this validation if the drill says so."""
        if self._order.in_validation:
            self._kill_from(step)

    def find_end(self, step: int) -> Stop | None:
        """Return the drill's stop if the training is longer than the drill wants."""
        return Stop(ENDED_BY_DRILL) if 0 < self._end_step <= step else None

    def _kill_from(self, step: int) -> None:
        order = self._order
        if not 0 < order.kill_step <= step:
            return
        if not self._follow_rank_0((self._cutter.last_cut_step or 0) >= order.checkpoint_step):
            return
        self._cutter.drain(_DURABLE_WITHIN_S)
        self._follow_rank_0(True)  # the other ranks wait until the checkpoint is durable
        if self._group is not None and self._group.rank != order.rank:
            self._group.agree(Asking.DRILL)  # raises when the connection to the dead rank is lost
        os.kill(os.getpid(), signal.SIGKILL)

    def _follow_rank_0(self, answer: bool) -> bool:
        """Return rank 0's answer."""
        return answer if self._group is None else bool(self._group.follow(Asking.DRILL, value=int(answer)))
