"""Packs that are written while their snapshot is copied: when each tensor may be read, and when a guess is dropped."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import pytest

from relight.checkpoints.arrival import Abandoned, Arrival, ArrivingPack, WrongGuess
from relight.checkpoints.manifest import Manifest
from relight.checkpoints.pack import order_for_pack
from relight.checkpoints.sharing import guess_written, place_tensors
from relight.checkpoints.snapshot_header import SnapshotHeader
from relight.checkpoints.store import CheckpointStore
from tests.checkpoints.snapshots import make_snapshot, make_tensor

Snapshot = tuple[SnapshotHeader, list[memoryview]]


def commit(folder: Path, *snapshots: Snapshot) -> Manifest:
    store = CheckpointStore(folder)
    infos = [store.commit(*snapshot) for snapshot in snapshots]
    return store.read_manifest(infos[-1])


def begin(snapshot: Snapshot, parent: Manifest, arrival: Arrival) -> ArrivingPack:
    header, buffers = snapshot
    written = guess_written(header.tensors, parent)
    return ArrivingPack(header.tensors, buffers, written=written, parent=parent, arrival=arrival)


def test_a_tensor_is_yielded_when_it_has_arrived_and_hashed_when_all_have(tmp_path: Path) -> None:
    big = [make_tensor(f"model.{i}", "F32", (300_000,), seed=i) for i in range(4)]
    parent = commit(
        tmp_path,
        make_snapshot(1, extra=[make_tensor(s.name, "F32", s.shape, seed=100 + i) for i, (s, _) in enumerate(big)]),
    )
    header, buffers = make_snapshot(2, extra=big)
    order = order_for_pack(header.tensors)
    arrival = Arrival()
    pack = begin((header, buffers), parent, arrival)
    passed: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for run in pack:
            passed.put(bytes(run))

    reader = threading.Thread(target=read)
    reader.start()
    first = next(
        count for count in range(1, len(order) + 1) if sum(len(buffers[i]) for i in order[:count]) >= 256 << 10
    )
    arrival.note_copied(first - 1)
    with pytest.raises(queue.Empty):
        passed.get(timeout=0.2)
    arrival.note_copied(first)
    assert [passed.get(timeout=30) for _ in order[:first]] == [buffers[i] for i in order[:first]]
    with pytest.raises(queue.Empty):
        passed.get(timeout=0.2)
    assert pack.digests == [""] * len(order)
    arrival.complete()
    reader.join(30)
    assert not reader.is_alive()
    assert [passed.get(timeout=30) for _ in order[first:]] == [buffers[i] for i in order[first:]]
    assert pack.digests == [entry.digest for entry in commit(tmp_path / "other", (header, buffers)).tensors]


def test_abandoning_a_snapshot_ends_every_wait_for_it(tmp_path: Path) -> None:
    parent = commit(tmp_path, make_snapshot(1))
    arrival = Arrival()
    pack = begin(make_snapshot(2), parent, arrival)
    arrival.abandon()
    with pytest.raises(Abandoned):
        list(pack)
    with pytest.raises(Abandoned):
        arrival.wait_until_complete()


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ([make_snapshot(1, frozen=500)], make_snapshot(2, frozen=500)),
        ([make_snapshot(1)], make_snapshot(1)),
        ([make_snapshot(1, frozen=500), make_snapshot(2, frozen=500)], make_snapshot(3, extra=[])),
        (
            [make_snapshot(1, extra=[make_tensor("model.tied", "F32", (300,), seed=1)])],
            make_snapshot(2, extra=[make_tensor("model.tied", "F32", (300,), seed=3)]),
        ),
        (
            [make_snapshot(1, extra=[make_tensor("model.tied", "F32", (300,), seed=8)])],
            make_snapshot(2, extra=[make_tensor("model.tied", "F32", (300,), seed=2)]),
        ),
    ],
    ids=["frozen from now on", "nothing has changed", "the frozen one is gone", "no longer tied", "tied from now on"],
)
def test_a_guess_is_right_or_given_up(tmp_path: Path, before: list[Snapshot], now: Snapshot) -> None:
    parent = commit(tmp_path, *before)
    arrival = Arrival()
    arrival.complete()
    pack = begin(now, parent, arrival)
    digests = [entry.digest for entry in commit(tmp_path / "other", now).tensors]
    right = place_tensors(now[0].tensors, digests, parent=parent).written
    if right == guess_written(now[0].tensors, parent):
        assert b"".join(pack) == b"".join(now[1][i] for i in right)
        assert pack.digests == digests
    else:
        with pytest.raises(WrongGuess):
            list(pack)


def test_the_guess_is_the_tensors_written_last_time(tmp_path: Path) -> None:
    tied = [make_tensor("model.tied", "F32", (300,), seed=step) for step in (1, 2, 3)]
    parent = commit(
        tmp_path, make_snapshot(1, frozen=900, extra=tied[:1]), make_snapshot(2, frozen=900, extra=tied[1:2])
    )
    new = make_tensor("model.new", "F32", (7,), seed=1)
    header, buffers = make_snapshot(3, frozen=900, extra=[tied[2], new])
    names = [header.tensors[i].name for i in guess_written(header.tensors, parent)]
    assert names == ["optimizer.head.weight.step", "model.head.weight", "model.new", "model.head.bias"]
    digests = [entry.digest for entry in commit(tmp_path / "other", (header, buffers)).tensors]
    assert place_tensors(header.tensors, digests, parent=parent).written == guess_written(header.tensors, parent)
