"""What differs first between two checkpoints or two sets of metrics, and how it is described."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

from relight.checkpoints.manifest import Manifest
from relight.checkpoints.snapshot_header import SnapshotHeader, TensorSpec
from relight.checkpoints.store import CheckpointStore
from relight.drill.differences import StateDifference, find_differences, find_metric_difference

Tensors = dict[str, bytes]
BASE: Tensors = {"model.w": struct.pack("<4f", 1, 2, 3, 4), "optimizer.w.exp_avg": b"\0" * 16, "rng.torch": b"\1" * 16}
STATE = {"parts": {"loader": {"epoch": 0, "batch": 7}, "scheduler": {"last_epoch": 7}}}


class Saved:
    """A checkpoint in its own store."""

    def __init__(self, folder: Path, tensors: Tensors = BASE, state: Any = STATE, *, step: int = 7) -> None:
        kinds = {name: ("U8", (16,)) if name.startswith("rng") else ("F32", (2, 2)) for name in tensors}
        header = SnapshotHeader(
            step=step,
            epoch=0,
            reason="periodic",
            time_s=1.0,
            tensors=[TensorSpec(name, *kinds[name], len(data)) for name, data in tensors.items()],
            state=state,
        )
        self.store = CheckpointStore(folder)
        self.info = self.store.commit(header, [memoryview(data) for data in tensors.values()])

    @property
    def manifest(self) -> Manifest:
        return self.store.read_manifest(self.info)

    def read(self, name: str) -> bytearray:
        with self.store.open(self.info) as reader:
            return reader.read(name)


def compare(one: Saved, other: Saved) -> list[StateDifference]:
    return find_differences(one.manifest, other.manifest, read_resumed=one.read, read_uninterrupted=other.read)


def test_equal_states_have_no_difference_whatever_the_order_of_their_keys(tmp_path: Path) -> None:
    turned = {"parts": dict(reversed(STATE["parts"].items()))}
    assert compare(Saved(tmp_path / "a"), Saved(tmp_path / "b", dict(reversed(BASE.items())), turned)) == []


def test_the_first_element_of_a_tensor_that_differs_is_named_with_both_values(tmp_path: Path) -> None:
    other = BASE | {"model.w": struct.pack("<4f", 1, 2, 3.5, 5)}
    (difference,) = compare(Saved(tmp_path / "a"), Saved(tmp_path / "b", other))
    assert difference == StateDifference("tensor", "model.w", "element [1, 0]: 3.0 after the resume, 3.5 without it")


def test_causes_come_before_effects(tmp_path: Path) -> None:
    tensors = {name: bytes(byte ^ 1 for byte in data) for name, data in BASE.items()}
    state = {"best": 0.5, "parts": {"loader": {"epoch": 0, "batch": 8}, "scheduler": {"last_epoch": 8}}}
    found = compare(Saved(tmp_path / "a"), Saved(tmp_path / "b", tensors, state))
    assert [(difference.part, difference.name) for difference in found] == [
        ("data position", "parts.loader.batch"),
        ("generator", "rng.torch"),
        ("schedule", "parts.scheduler.last_epoch"),
        ("tensor", "model.w"),
        ("optimizer", "optimizer.w.exp_avg"),
        ("metric", "best"),
    ]
    assert found[0].detail == "7 after the resume, 8 without it"


def test_a_tensor_that_only_one_has_is_a_difference(tmp_path: Path) -> None:
    fewer = {name: data for name, data in BASE.items() if name != "optimizer.w.exp_avg"}
    (difference,) = compare(Saved(tmp_path / "a", fewer), Saved(tmp_path / "b"))
    assert (difference.name, difference.detail) == ("optimizer.w.exp_avg", "only in the uninterrupted run")


def test_numbers_of_another_type_are_different(tmp_path: Path) -> None:
    (difference,) = compare(Saved(tmp_path / "a", state={"x": 1}), Saved(tmp_path / "b", state={"x": 1.0}))
    assert difference.name == "x"


def test_the_first_logged_value_that_differs_by_one_bit_is_found() -> None:
    ours = {1: {"train/loss": 0.5}, 2: {"train/loss": math.nan}, 3: {"train/loss": 0.1 + 0.2}}
    theirs = {1: {"train/loss": 0.5}, 2: {"train/loss": math.nan}, 3: {"train/loss": 0.3}}
    found = find_metric_difference(ours, theirs)
    assert found is not None
    assert found[0] == 3
    assert found[1].name == "train/loss"
    assert find_metric_difference(ours, ours) is None
    assert find_metric_difference({1: {"a": 0.0}}, {1: {"a": -0.0}}) is not None
