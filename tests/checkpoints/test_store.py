"""The store: commit, list, find, open, share, label, and leave foreign files alone."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from relight.checkpoints.deletion import apply_retention, sweep
from relight.checkpoints.dtypes import ITEM_BYTES
from relight.checkpoints.listing import newest_durable
from relight.checkpoints.quarantine import quarantine_checkpoint
from relight.checkpoints.recovery import find_newest_good, verify_store
from relight.checkpoints.retention import RetentionPolicy, plan_retention
from relight.checkpoints.snapshot_header import TensorRef
from relight.checkpoints.store import CheckpointStore
from relight.errors import CheckpointNotFound, DamagedCheckpoint, SaveError, UnsupportedState
from relight.runs.records import Objective
from tests.checkpoints.snapshots import make_snapshot, make_tensor


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    run = tmp_path / "a 0" / "a'; echo x"
    run.mkdir(parents=True)
    return CheckpointStore(run / "checkpoints")


def test_a_checkpoint_comes_back_as_it_was_committed(store: CheckpointStore) -> None:
    header, buffers = make_snapshot(
        3, score=0.5, metrics={"train/loss": float("inf")}, environment={"torch": "2.13.0", "threads": (1, 2)}
    )
    info = store.commit(header, buffers)
    assert (info.sequence, info.step, info.epoch, info.reason, info.score) == (1, 3, 0, "periodic", 0.5)
    assert info.metrics == {"train/loss": float("inf")}
    assert info.time_s == header.time_s
    assert store.list().checkpoints == [info]
    with store.open(info) as reader:
        assert reader.tensor_names == [spec.name for spec in header.tensors]
        assert reader.state == {"step": 3, "weight": TensorRef("model.head.weight")}
        assert reader.environment == {"torch": "2.13.0", "threads": (1, 2)}
        for spec, data in zip(header.tensors, buffers, strict=True):
            assert reader.spec(spec.name) == spec
            assert reader.read(spec.name) == data
            assert b"".join(reader.read_chunks(spec.name)) == data


@settings(deadline=None, max_examples=40)
@given(
    tensors=st.lists(
        st.tuples(st.sampled_from(sorted(ITEM_BYTES)), st.lists(st.integers(0, 5), max_size=3).map(tuple)), max_size=12
    ),
    equal=st.booleans(),
)
def test_tensors_of_every_type_and_shape_come_back(
    tmp_path_factory: pytest.TempPathFactory, tensors: list[tuple[str, tuple[int, ...]]], equal: bool
) -> None:
    store = CheckpointStore(tmp_path_factory.mktemp("store") / "checkpoints")
    extra = [make_tensor(f"t{i}", *tensor, seed=0 if equal else i) for i, tensor in enumerate(tensors)]
    for step in (1, 2):
        header, buffers = make_snapshot(step, extra=extra)
        info = store.commit(header, buffers)
        assert store.check(info) == []
        with store.open(info) as reader:
            for spec, data in zip(header.tensors, buffers, strict=True):
                assert reader.read(spec.name) == data


def test_a_snapshot_without_tensors_is_a_checkpoint_without_a_pack(store: CheckpointStore) -> None:
    header, _ = make_snapshot(1)
    header.tensors.clear()
    info = store.commit(header, [])
    assert (info.packs, info.bytes) == ((), 0)
    assert store.check(info) == []
    assert find_newest_good(store)[0] is not None


def test_a_hundred_thousand_tiny_tensors_are_saved_checked_and_read(store: CheckpointStore) -> None:
    extra = [make_tensor(f"model.blocks.{i}.scale", "F32", (), seed=i) for i in range(100_000)]
    header, buffers = make_snapshot(1, extra=extra)
    info = store.commit(header, buffers)
    assert store.check(info) == []
    with store.open(info) as reader:
        assert reader.read("model.blocks.99999.scale") == extra[99_999][1]


def test_any_safetensors_tool_opens_a_pack(store: CheckpointStore) -> None:
    weights = np.arange(12, dtype="<f4").reshape(3, 4)
    spec, _ = make_tensor("model.w", "F32", (3, 4), seed=0)
    info = store.commit(*make_snapshot(1, extra=[(spec, memoryview(weights.tobytes()))]))
    with safe_open(store.layout.packs / info.packs[0], "np") as pack:
        assert np.array_equal(pack.get_tensor("model.w"), weights)


def test_sequence_numbers_are_never_used_twice(store: CheckpointStore) -> None:
    sequences = [store.commit(*make_snapshot(step)).sequence for step in (1, 2, 3)]
    assert sequences == [1, 2, 3]
    quarantine_checkpoint(store, store.list().checkpoints[-1].name)
    assert store.commit(*make_snapshot(4)).sequence == 4


def test_a_checkpoint_is_found_by_its_sequence_or_said_to_be_gone(store: CheckpointStore) -> None:
    infos = [store.commit(*make_snapshot(5)) for _ in range(3)]
    assert store.find_sequence(2) == infos[1]
    quarantine_checkpoint(store, infos[1].name)
    with pytest.raises(CheckpointNotFound, match=r"Checkpoint 2 .* no longer exists"):
        store.find_sequence(2)


def test_the_same_snapshot_twice_is_one_checkpoint(store: CheckpointStore) -> None:
    header, buffers = make_snapshot(1)
    assert store.commit(header, buffers) == store.commit(header, buffers)
    assert len(store.list().checkpoints) == 1


def test_find_returns_the_newer_of_two_checkpoints_at_one_step(store: CheckpointStore) -> None:
    store.commit(*make_snapshot(5))
    again = store.commit(*make_snapshot(5))
    assert store.find(5) == again


def test_find_returns_latest_best_or_a_step_and_otherwise_says_what_exists(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointNotFound, match=r"no checkpoint in .* yet"):
        store.find("latest")
    for step, score in ((1, None), (2, 0.9), (3, float("nan")), (4, 0.9), (5, 0.1)):
        store.commit(*make_snapshot(step, score=score))
    assert store.find("latest").step == 5
    assert store.find("best", objective=Objective(higher_is_better=True)).step == 2
    assert store.find("best", objective=Objective(higher_is_better=False)).step == 5
    assert "best" in store.find("best", objective=Objective(higher_is_better=True)).labels
    assert store.find(3).step == store.find("3").step == 3
    for wanted, words in ((7, "no checkpoint at step 7.* 1, 2, 3, 4, 5"), ("newest", "'newest'")):
        with pytest.raises(CheckpointNotFound, match=words):
            store.find(wanted)


def test_best_without_a_score_gives_a_clear_error(store: CheckpointStore) -> None:
    store.commit(*make_snapshot(1, score=float("nan")))
    with pytest.raises(CheckpointNotFound, match="'validation/accuracy' was not measured"):
        store.find("best", objective=Objective("validation/accuracy"))


def test_unchanged_tensors_are_shared_with_the_parent(store: CheckpointStore) -> None:
    infos = [store.commit(*make_snapshot(step, frozen=9_000, trained=1000)) for step in range(1, 11)]
    total = sum(path.stat().st_size for path in store.layout.packs.iterdir())
    differing = 36_000 + 10 * 4_020
    assert total <= differing + 10 * 4096
    assert infos[-1].packs == (infos[-1].name.pack, infos[0].name.pack)
    assert infos[-1].bytes > 10 * (infos[-1].new_bytes - 4096 - 2000) - 36_000
    for info in infos:
        assert store.check(info) == []


def test_a_checkpoint_that_changed_nothing_costs_no_tensor_bytes(store: CheckpointStore) -> None:
    header, buffers = make_snapshot(1)
    first = store.commit(header, buffers)
    again, _ = make_snapshot(1)
    second = store.commit(again, buffers)
    assert second.packs == first.packs
    assert len(list(store.layout.packs.iterdir())) == 1


def test_a_pack_is_not_kept_alive_for_a_small_part_of_it(store: CheckpointStore) -> None:
    store.commit(*make_snapshot(1, frozen=100, trained=10_000))
    second = store.commit(*make_snapshot(2, frozen=100, trained=10_000))
    assert second.packs == (second.name.pack,)


def test_nothing_is_shared_with_a_truncated_pack(store: CheckpointStore) -> None:
    first = store.commit(*make_snapshot(1, frozen=10_000))
    pack = store.layout.packs / first.packs[0]
    os.truncate(pack, pack.stat().st_size - 1)
    second = store.commit(*make_snapshot(2, frozen=10_000))
    assert second.packs == (second.name.pack,)


def test_tied_weights_are_written_once(store: CheckpointStore) -> None:
    spec, data = make_tensor("model.embedding", "F32", (1000,), seed=3)
    tied = type(spec)("model.output", spec.dtype, spec.shape, spec.nbytes)
    info = store.commit(*make_snapshot(1, trained=10, extra=[(spec, data), (tied, data)]))
    assert info.bytes > 8000 > info.new_bytes - 4096
    with store.open(info) as reader:
        assert reader.read("model.output") == reader.read("model.embedding") == data


def test_a_tensor_is_checked_against_an_expected_digest(store: CheckpointStore) -> None:
    header, buffers = make_snapshot(1)
    with pytest.raises(DamagedCheckpoint, match=r"model\.head\.bias"):
        store.commit(header, buffers, expected_digests={"model.head.bias": "0" * 32})
    assert store.list().checkpoints == []


def test_labels_are_on_the_disk_and_copy_no_tensor(store: CheckpointStore) -> None:
    info = store.commit(*make_snapshot(1))
    before = {path.name for path in store.layout.packs.iterdir()}
    store.pin(info)
    store.add_label(info, "exported")
    store.mark_verified(info)
    found = CheckpointStore(store.layout.folder).find(1)
    assert (found.labels, found.verified) == (("exported", "pinned"), True)
    assert {path.name for path in store.layout.packs.iterdir()} == before
    store.pin(info, on=False)
    store.pin(info, on=False)
    assert store.find(1).labels == ("exported",)


def test_a_label_on_a_checkpoint_that_is_gone_is_refused(store: CheckpointStore) -> None:
    info = store.commit(*make_snapshot(1))
    info.path.unlink()
    with pytest.raises(CheckpointNotFound):
        store.pin(info)


def test_a_state_that_cannot_be_saved_is_refused_before_anything_is_written(store: CheckpointStore) -> None:
    header, buffers = make_snapshot(1, state={"scheduler": {"lr_lambda": lambda: 1}})
    with pytest.raises(UnsupportedState, match=r"state\['scheduler'\]\['lr_lambda'\]"):
        store.commit(header, buffers)
    assert not store.layout.folder.exists()


def test_foreign_files_are_never_touched(store: CheckpointStore) -> None:
    for step in range(1, 6):
        store.mark_verified(store.commit(*make_snapshot(step)))
    foreign = [
        folder / name
        for folder in (store.layout.folder, *store.layout.folders)
        for name in ("notes.txt", "00000001-s1-abcdef01.backup", "0001-s1-abcdef01.json", "-s1.safetensors")
    ]
    for path in foreign:
        path.write_text("mine")
    apply_retention(store, plan_retention(store.list().checkpoints, RetentionPolicy(best=())))
    sweep(store)
    find_newest_good(store)
    assert [info.step for info in store.list().checkpoints] == [4, 5]
    assert all(path.read_text() == "mine" for path in foreign)


def test_a_reader_can_finish_although_its_checkpoint_is_removed(store: CheckpointStore) -> None:
    header, buffers = make_snapshot(1)
    infos = [store.commit(header, buffers), *(store.commit(*make_snapshot(step)) for step in (2, 3))]
    for info in infos:
        store.mark_verified(info)
    with store.open(infos[0]) as reader:
        apply_retention(store, plan_retention(store.list().checkpoints, RetentionPolicy(best=())))
        assert [info.step for info in store.list().checkpoints] == [2, 3]
        assert reader.read("model.head.weight") == buffers[0]


def test_listing_sees_what_another_process_did(store: CheckpointStore) -> None:
    other = CheckpointStore(store.layout.folder)
    for step in (1, 2):
        info = store.commit(*make_snapshot(step))
        assert other.list().checkpoints[-1] == info
    shutil.move(info.path, info.path.with_name("away"))
    assert [left.step for left in other.list().checkpoints] == [1]


def test_the_newest_durable_step_is_known_from_file_names(store: CheckpointStore, tmp_path: Path) -> None:
    assert newest_durable(store.layout.folder) is None
    assert newest_durable(tmp_path / "nothing") is None
    for step in (9, 10, 8):
        store.commit(*make_snapshot(step))
    (store.layout.manifests / "00000099-s1-abcdef01.tmp").touch()
    assert newest_durable(store.layout.folder) == (3, 8)


def test_a_folder_that_cannot_be_written_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="step 1 was not saved"):
        CheckpointStore(tmp_path / "file" / "checkpoints").commit(*make_snapshot(1))


def test_the_digest_depends_on_what_was_computed_and_on_nothing_else(tmp_path: Path) -> None:
    def digest(folder: str, *steps: int, **others: Any) -> str:
        store = CheckpointStore(tmp_path / folder)
        for step in steps[:-1]:
            store.commit(*make_snapshot(step, frozen=2000))
        return store.digest(store.commit(*make_snapshot(steps[-1], frozen=2000, **others)))

    alone = digest("alone", 3)
    assert alone == digest("shared", 1, 2, 3)
    assert alone == digest(
        "otherwise", 3, reason="signal", time_s=1.0, attempt=9, metrics={}, score=0.1, environment={"host": "other"}
    )
    assert alone == digest("reordered", 3, state={"weight": TensorRef("model.head.weight"), "step": 3})
    assert alone != digest("another step", 4)
    assert alone != digest("another state", 3, state={"step": 3, "weight": TensorRef("model.head.bias")})
    assert alone != digest("another tensor", 3, extra=[make_tensor("model.x", "U8", (1,), seed=0)])
    assert alone != digest("another type", 3, state={"step": 3.0, "weight": TensorRef("model.head.weight")})


def test_the_store_says_its_format(store: CheckpointStore) -> None:
    store.commit(*make_snapshot(1))
    assert json.loads(store.layout.format.read_bytes()) == {"format": "relight-checkpoints", "version": 1}


def test_a_store_that_was_copied_without_its_empty_folders_works(store: CheckpointStore) -> None:
    info = store.commit(*make_snapshot(1))
    for folder in (store.layout.temporary, store.layout.quarantine, store.layout.labels):
        folder.rmdir()
    assert store.pin(info).labels == ("pinned",)
    assert find_newest_good(store)[0] is not None
    store.layout.temporary.rmdir()
    store.commit(*make_snapshot(2))
    store.layout.quarantine.rmdir()
    quarantine_checkpoint(store, info.name)
    assert [left.step for left in store.list().checkpoints] == [2]


def test_nothing_is_saved_into_a_store_of_a_later_format(store: CheckpointStore) -> None:
    store.commit(*make_snapshot(1))
    store.layout.format.write_text('{"format":"relight-checkpoints","version":2}')
    with pytest.raises(SaveError, match=r"step 2 was not saved: .* has format 2"):
        store.commit(*make_snapshot(2))


def test_what_a_writer_does_at_the_same_time_never_looks_like_damage(memory_path: Path) -> None:
    folder = memory_path / "checkpoints"
    CheckpointStore(folder).commit(*make_snapshot(1, frozen=2000))
    done = threading.Event()
    seen: list[object] = []

    def watch() -> None:
        store = CheckpointStore(folder)
        while not done.is_set():
            seen.extend(store.list().damaged)
            seen.extend(verify_store(store).damaged)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        store = CheckpointStore(folder)
        for step in range(2, 120):
            store.mark_verified(store.commit(*make_snapshot(step, frozen=2000 if step % 7 else 0)))
            apply_retention(store, plan_retention(store.list().checkpoints, RetentionPolicy(best=())))
    finally:
        done.set()
        watcher.join()
    assert seen == []


def test_a_run_folder_that_was_removed_does_not_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.parent.mkdir()
    store = CheckpointStore(folder)
    info = store.commit(*make_snapshot(1))
    shutil.rmtree(folder.parent)
    with pytest.raises(SaveError, match="was moved or removed"):
        store.commit(*make_snapshot(2))
    with pytest.raises(SaveError, match="could not be pinned"):
        store.pin(info)
    with pytest.raises(OSError, match="No such file"):
        store.mark_verified(info)
    with pytest.raises(OSError, match="No such file"):
        quarantine_checkpoint(store, info.name)
    assert not folder.parent.exists()


def test_a_store_that_is_just_being_made_is_not_damaged(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    for folder in (store.layout.folder, *store.layout.folders):
        folder.mkdir()
    assert verify_store(store).damaged == []
    info = store.commit(*make_snapshot(1))
    store.layout.format.unlink()
    assert [entry.reason for entry in verify_store(store).damaged] == ["It is missing."]
    assert store.find("latest").name == info.name
