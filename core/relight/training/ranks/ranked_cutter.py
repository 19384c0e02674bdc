"""Cuts the checkpoints of a training of several ranks: rank 0 decides and saves, the others add their own state."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from torch import Tensor

from relight.checkpoints.encoded_snapshot import encode_snapshot
from relight.checkpoints.snapshot_header import SnapshotHeader
from relight.checkpoints.typed_json import decode_state, encode_state
from relight.runs.records import Objective
from relight.training.checkpoint_cutter import CheckpointCutter
from relight.training.metric_numbers import Values, to_numbers
from relight.training.ranks.group import Asking, RankGroup
from relight.training.ranks.rank_state import add_rank_states, encode_rank_state
from relight.training.state.snapshot import describe_tensors


class RankedCutter:
    """The cutter of one rank. All ranks call the same methods at the same step edges.

    A checkpoint becomes durable on rank 0 only when every rank's state is in it: a rank that dies before leaves the
    former checkpoint.
    """

    def __init__(self, group: RankGroup, cutter: CheckpointCutter | None) -> None:
        """Take the cutter of rank 0; the other ranks have none."""
        assert (cutter is not None) == (group.rank == 0)
        self._group = group
        self._cutter = cutter
        self._step: int | None = None
        self._gathered: list[bytes] = []

    @property
    def durable_step(self) -> int | None:
        """The step of the newest durable checkpoint. A rank without a writer takes its last one for durable."""
        return self._step if self._cutter is None else self._cutter.durable_step

    @property
    def last_cut_step(self) -> int | None:
        """The step of the last snapshot that this rank saves."""
        return None if self._cutter is None else self._cutter.last_cut_step

    @property
    def failure(self) -> str | None:
        """Why saving fails at present, as rank 0 knows it."""
        return None if self._cutter is None else self._cutter.failure

    @property
    def has_work(self) -> bool:
        """Whether rank 0's writer holds a snapshot that is not durable yet."""
        return self._cutter is not None and self._cutter.has_work

    @property
    def can_rescue(self) -> bool:
        """Whether the last edge can still be saved after an error: not without the other ranks."""
        return False

    def is_due(self, step: int) -> bool:
        """Tell whether to cut a checkpoint at this step edge."""
        due = self._cutter is not None and self._cutter.is_due(step)
        return self._group.end_step(due=due)

    def is_due_before_pause(self, step: int) -> bool:
        """Tell whether to cut before a validation."""
        due = self._cutter is not None and self._cutter.is_due_before_pause(step)
        return bool(self._group.follow(Asking.PAUSE, value=int(due)))

    def allow(self, can: bool) -> bool:
        """Tell whether every rank can save this edge."""
        return not self._group.agree(Asking.CUT, int(not can))[0]

    def choose_loop_end(self, is_time: bool) -> bool:
        """Tell whether rank 0 finds that it is time to save at the end of a loop."""
        return bool(self._group.follow(Asking.LOOP_END, value=int(is_time)))

    def share_values(self, values: Values) -> Values:
        """Return what rank 0 measured."""
        self._group.agree(Asking.EVALUATED)
        told: dict[str, float] = decode_state(self._group.gather(encode_state(dict(to_numbers(values))))[0])
        return told

    def part(self) -> None:
        """Go on without the other ranks: what is left to do is the same for each of them, and only rank 0 saves."""
        self._group.parted = True

    def check(self, header: SnapshotHeader) -> None:
        """Raise `UnsupportedState` if this rank's snapshot cannot be saved."""
        encode_snapshot(header)

    def cut(self, header: SnapshotHeader, tensors: Mapping[str, Tensor]) -> None:
        """Send this rank's own state to rank 0, which saves the states of all."""
        group = self._group
        if not group.parted:
            self._gathered = group.gather(encode_rank_state(header.state, dict(tensors), rank=group.rank))
        self._step = header.step
        if self._cutter is not None:
            state, added = add_rank_states(header.state, self._gathered)
            whole = {**tensors, **added}
            self._cutter.cut(msgspec.structs.replace(header, state=state, tensors=describe_tensors(whole)), whole)

    def set_best(self, objective: Objective) -> None:
        """Tell the writer which of two checkpoints is better."""
        if self._cutter is not None:
            self._cutter.set_best(objective)

    def poll(self) -> None:
        """Read what the writer has reported so far."""
        if self._cutter is not None:
            self._cutter.poll()

    def drain(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` until every snapshot is durable; the ranks without a writer wait at their end."""
        return self._cutter is None or self._cutter.drain(timeout_s)

    def close(self) -> None:
        """Disconnect from the writer."""
        if self._cutter is not None:
            self._cutter.close()
