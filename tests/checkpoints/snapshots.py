"""Makes small snapshots for tests, like those that a training hands to the store."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from relight.checkpoints.dtypes import count_bytes
from relight.checkpoints.pack import order_for_pack
from relight.checkpoints.snapshot_header import SnapshotHeader, TensorRef, TensorSpec
from relight.checkpoints.writer_client import WriterClient


def make_tensor(name: str, dtype: str, shape: tuple[int, ...], *, seed: int) -> tuple[TensorSpec, memoryview]:
    """Return a tensor whose bytes depend only on `seed`."""
    nbytes = count_bytes(dtype, shape)
    return TensorSpec(name, dtype, shape, nbytes), memoryview(bytearray(random.Random(seed).randbytes(nbytes)))


def make_snapshot(
    step: int,
    *,
    frozen: int = 0,
    trained: int = 300,
    score: float | None = None,
    metrics: Mapping[str, float] | None = None,
    state: Any = None,
    extra: Sequence[tuple[TensorSpec, memoryview]] = (),
    **others: Any,
) -> tuple[SnapshotHeader, list[memoryview]]:
    """Return a snapshot at `step` with `frozen` numbers that never change and `trained` ones that always do."""
    tensors = [
        make_tensor("model.head.weight", "F32", (trained,), seed=step),
        make_tensor("model.head.bias", "BF16", (3, 2), seed=step + 10_000),
        make_tensor("optimizer.head.weight.step", "I64", (), seed=step + 20_000),
        *extra,
    ]
    if frozen:
        tensors.append(make_tensor("model.backbone.weight", "F32", (frozen,), seed=7))
    header = SnapshotHeader(
        step=step,
        epoch=step // 10,
        reason=others.pop("reason", "periodic"),
        time_s=others.pop("time_s", 1_700_000_000.0 + step),
        tensors=[spec for spec, _ in tensors],
        state={"step": step, "weight": TensorRef("model.head.weight")} if state is None else state,
        metrics=dict(metrics or {"train/loss": 1.0 / step}),
        score=score,
        **others,
    )
    return header, [data for _, data in tensors]


def stage_snapshot(client: WriterClient, header: SnapshotHeader, buffers: Sequence[memoryview]) -> None:
    """Fill the memory of a snapshot as a trainer does, and report each tensor."""
    memory = client.stage(header)
    for count, i in enumerate(order_for_pack(header.tensors), 1):
        memory[i][:] = buffers[i]
        client.note_copied(count)
