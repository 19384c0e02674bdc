"""A snapshot header as it reaches the disk: everything that a checkpoint cannot hold has been refused."""

from __future__ import annotations

import math

import msgspec

from relight.checkpoints.manifest import encode_metrics
from relight.checkpoints.snapshot_header import (
    RankShare,
    SnapshotFacts,
    SnapshotHeader,
    TensorSpec,
    check_tensors,
    facts_of,
)
from relight.checkpoints.typed_json import encode_state


class EncodedSnapshot(SnapshotFacts, frozen=True, kw_only=True):
    """A `SnapshotHeader` whose state, metrics and environment are typed JSON. As JSON it goes to the writer process."""

    token: str
    metrics: msgspec.Raw
    environment: msgspec.Raw
    state: msgspec.Raw
    tensors: tuple[TensorSpec, ...]
    share: RankShare | None = None


def encode_snapshot(header: SnapshotHeader) -> EncodedSnapshot:
    """Encode a header. Raises `UnsupportedState`, with the name of what a checkpoint cannot hold."""
    check_tensors(header.tensors)
    score = None if header.score is None or not math.isfinite(header.score) else float(header.score)
    return EncodedSnapshot(
        **facts_of(header) | {"time_s": float(header.time_s), "score": score},
        token=header.token,
        metrics=encode_metrics(header.metrics),
        environment=msgspec.Raw(encode_state(header.environment, owner="environment")),
        state=msgspec.Raw(encode_state(header.state)),
        tensors=tuple(header.tensors),
        share=header.share,
    )
