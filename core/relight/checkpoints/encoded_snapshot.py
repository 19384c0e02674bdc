"""A snapshot's header in the form in which it reaches the disk: everything that could be refused has been."""

from __future__ import annotations

import math

import msgspec

from relight.checkpoints.manifest import encode_metrics
from relight.checkpoints.snapshot_header import SnapshotHeader, TensorSpec, check_tensors
from relight.checkpoints.typed_json import Convert, encode_state


class EncodedSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """`SnapshotHeader` with state, metrics and environment as typed JSON; also how it travels to the writer process."""

    step: int
    epoch: int
    attempt: int
    reason: str
    time_s: float
    token: str
    score: float | None
    metrics: msgspec.Raw
    environment: msgspec.Raw
    state: msgspec.Raw
    tensors: tuple[TensorSpec, ...]


def encode_snapshot(header: SnapshotHeader, *, convert: Convert | None = None) -> EncodedSnapshot:
    """Encode a header, or raise `UnsupportedState` with the name of what a checkpoint cannot hold."""
    check_tensors(header.tensors)
    score = None if header.score is None or not math.isfinite(header.score) else float(header.score)
    return EncodedSnapshot(
        step=header.step,
        epoch=header.epoch,
        attempt=header.attempt,
        reason=header.reason,
        time_s=float(header.time_s),
        token=header.token,
        score=score,
        metrics=encode_metrics(header.metrics),
        environment=msgspec.Raw(encode_state(header.environment, owner="environment")),
        state=msgspec.Raw(encode_state(header.state, convert=convert)),
        tensors=tuple(header.tensors),
    )
