"""Cuts the checkpoints of a training of several ranks: rank 0 decides, and the others add their own state.

Where the model is everyone's (DDP), rank 0 alone saves it. Where `fully_shard` has split it, or the ranks have gathered
gradients that they have not exchanged yet, each rank has a writer that saves its own part, and rank 0's writer commits
the checkpoint when all parts are durable.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import msgspec
from torch import Tensor

from relight.checkpoints.deletion import sweep
from relight.checkpoints.encoded_snapshot import encode_snapshot
from relight.checkpoints.snapshot_header import RankShare, SnapshotHeader, TensorSpec
from relight.checkpoints.store import CheckpointStore
from relight.checkpoints.typed_json import decode_state, encode_state
from relight.errors import SaveError
from relight.runs.records import Objective
from relight.training.checkpoint_cutter import CheckpointCutter
from relight.training.metric_numbers import Values, to_numbers
from relight.training.ranks.group import Asking, RankGroup
from relight.training.ranks.rank_state import (
    CheckpointKey,
    RankMessage,
    add_rank_states,
    decode_messages,
    encode_rank_state,
    find_gradients,
    have_own_gradients,
    own_name,
)
from relight.training.state.snapshot import describe_tensors

_SLOTS = 2
"""How many snapshots wait in a writer at most."""
_LOOK_S = 0.2
"""How often a rank that waits looks whether the others are still there."""
_log = logging.getLogger("relight")


class RankedCutter:
    """The cutter of one rank. All ranks call the same methods at the same step edges.

    A checkpoint is committed only when every rank's state is in it: a rank that dies before leaves the former one.
    """

    def __init__(self, group: RankGroup, store: CheckpointStore, make_cutter: Callable[[], CheckpointCutter]) -> None:
        """`make_cutter` makes this rank's cutter with its writer: at once in rank 0, elsewhere when it is needed."""
        self._group = group
        self._store = store
        self._make_cutter = make_cutter
        self._cutter: CheckpointCutter | None = make_cutter() if group.rank == 0 else None
        self._step: int | None = None
        self._is_shared = False
        """Whether the last checkpoint has parts of several ranks."""
        self._has_part = group.rank == 0
        """Whether this rank's writer saves a part of the last checkpoint."""
        self._told: list[RankMessage] = []
        self._sequence = 0
        self._unnamed: str | None = None
        """Why rank 0 could not name the last checkpoint."""

    @property
    def leader(self) -> CheckpointCutter | None:
        """The cutter of rank 0, which decides; None in the other ranks."""
        return self._cutter if self._group.rank == 0 else None

    @property
    def durable_step(self) -> int | None:
        """The step of the newest durable checkpoint. A rank that saves no part of the last one takes it for durable."""
        return self._cutter.durable_step if self._cutter is not None and self._has_part else self._step

    @property
    def last_cut_step(self) -> int | None:
        """The step of the last snapshot that this rank saves."""
        return None if self._cutter is None else self._cutter.last_cut_step

    @property
    def failure(self) -> str | None:
        """Why saving fails at present, as this rank knows it."""
        return None if self._cutter is None else self._unnamed or self._cutter.failure

    @property
    def has_work(self) -> bool:
        """Whether this rank's writer holds a snapshot that is not durable yet."""
        return self._cutter is not None and self._cutter.has_work

    @property
    def lost(self) -> str:
        """Which rank is lost that had to save a part of the last checkpoint; "" if none is."""
        return self._group.find_lost(parted=True) if self._is_shared else ""

    @property
    def can_rescue(self) -> bool:
        """Whether the last edge can still be saved after an error: not without the other ranks."""
        return False

    def is_due(self, step: int) -> bool:
        """Tell whether to cut a checkpoint at this step edge."""
        leader = self.leader
        if leader is None:
            return self._group.end_step(step, due=False)
        return self._group.end_step(step, due=leader.is_due(step), fixed_in=leader.count_to_fixed(step))

    def is_due_before_pause(self, step: int) -> bool:
        """Tell whether to cut before a validation."""
        due = self.leader is not None and self.leader.is_due_before_pause(step)
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
        """Go on without the other ranks: what is left to do is the same for each of them."""
        self._group.parted = True

    def check(self, header: SnapshotHeader) -> None:
        """Raise `UnsupportedState` if this rank's snapshot cannot be saved."""
        encode_snapshot(header)
        if self._cutter is None and (
            _is_split(header) or find_gradients(header.state, {spec.name for spec in header.tensors})
        ):
            self._cutter = self._make_cutter()  # its writer takes a second to start

    def cut(self, header: SnapshotHeader, tensors: Mapping[str, Tensor]) -> None:
        """Send this rank's own state to rank 0, and save what this rank saves."""
        group = self._group
        if not group.parted:
            key = self._name(header) if group.rank == 0 else None
            own = encode_rank_state(header.state, tensors, rank=group.rank, key=key, is_split=_is_split(header))
            self._told = decode_messages(group.gather(own))
        self._step = header.step
        key = self._told[0].key
        is_shared = any(message.is_split for message in self._told) or have_own_gradients(self._told)
        self._is_shared, self._has_part = is_shared, is_shared or group.rank == 0
        if is_shared and key is not None:
            self._cut_part(header, tensors, key)
        elif not is_shared and group.rank == 0:
            self._cut_whole(header, tensors, key)

    def _name(self, header: SnapshotHeader) -> CheckpointKey | None:
        """Choose the name under which the writers will save; None if the disk refuses."""
        assert self._cutter is not None
        try:
            if not self._sequence and not self._cutter.has_work:
                sweep(self._store)  # no rank has begun to write yet
            free = self._store.reserve_sequence(step=header.step)
        except (SaveError, OSError) as error:
            if str(error) != self._unnamed:
                _log.warning("%s Training continues.", error)
            self._unnamed = str(error)
            return None
        self._unnamed = None
        # Snapshots that still wait in this rank's writer may have to take a number, too.
        self._sequence = max(self._sequence, free + (0 if self._sequence else _SLOTS * self._cutter.has_work)) + 1
        return CheckpointKey(self._sequence - 1, header.token)

    def _cut_whole(self, header: SnapshotHeader, tensors: Mapping[str, Tensor], key: CheckpointKey | None) -> None:
        """Hand everything to rank 0's writer. Without a name it takes the next number, when the disk works again."""
        assert self._cutter is not None
        state, added = add_rank_states(header.state, self._told)
        whole = {**tensors, **added}
        header = msgspec.structs.replace(header, state=state, tensors=describe_tensors(whole))
        if key is not None:
            share = RankShare(0, 1, key.sequence)
            header = msgspec.structs.replace(header, token=key.token, share=share)
        self._cutter.cut(header, whole)

    def _cut_part(self, header: SnapshotHeader, tensors: Mapping[str, Tensor], key: CheckpointKey) -> None:
        """Hand this rank's part to its writer. Rank 0's also has everything that is not split."""
        rank = self._group.rank
        specs, part = list(header.tensors), dict(tensors)
        if rank == 0:
            state, added = add_rank_states(header.state, self._told)
            specs, part = specs + describe_tensors(added), part | added
            header = msgspec.structs.replace(header, state=state)
        else:
            specs, part = self._select_own(header, tensors)
            header = msgspec.structs.replace(header, state=None, environment={})
        share = RankShare(rank, self._group.world_size, key.sequence)
        if self._cutter is None:
            self._cutter = self._make_cutter()
        self._cutter.cut(msgspec.structs.replace(header, tensors=specs, token=key.token, share=share), part)

    def _select_own(
        self, header: SnapshotHeader, tensors: Mapping[str, Tensor]
    ) -> tuple[list[TensorSpec], dict[str, Tensor]]:
        """Return what a rank above 0 saves: its rows of what is split, and the gradients that only it has."""
        specs = [spec for spec in header.tensors if spec.slice is not None]
        part = {spec.name: tensors[spec.name] for spec in specs}
        rank = self._group.rank
        if self._told[rank].gradients != self._told[0].gradients:
            gathered = {
                own_name(reference.name, rank): tensors[reference.name]
                for found in find_gradients(header.state, tensors).values()
                for reference in found.values()
            }
            specs, part = specs + describe_tensors(gathered), part | gathered
        return specs, part

    def set_best(self, objective: Objective) -> None:
        """Tell the writer which of two checkpoints is better."""
        if self.leader is not None:
            self.leader.set_best(objective)

    def poll(self) -> None:
        """Read what the writer has reported so far."""
        if self._cutter is not None:
            self._cutter.poll()

    def drain(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` until every snapshot is durable; the ranks without a writer wait at their end.

        Not for the part of a rank that is lost: it may never come. The writers finish on their own.
        """
        if self._cutter is None:
            return True
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = deadline - time.monotonic()
            if self._cutter.drain(min(_LOOK_S, max(0.0, left_s))):
                return True
            if left_s <= 0.0 or self._cutter.failure is not None or self.lost:
                return False

    def close(self) -> None:
        """Disconnect from the writer."""
        if self._cutter is not None:
            self._cutter.close()


def _is_split(header: SnapshotHeader) -> bool:
    return any(spec.slice is not None for spec in header.tensors)
