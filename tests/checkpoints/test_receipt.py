"""Receipts of several writers are merged into one manifest, and each rank's pack belongs to its checkpoint."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from relight.checkpoints.deletion import sweep
from relight.checkpoints.file_names import CheckpointName, parse_pack_name
from relight.checkpoints.manifest import PackEntry, TensorEntry, encode_manifest
from relight.checkpoints.quarantine import quarantine_checkpoint
from relight.checkpoints.receipt import Receipt, merge_receipts
from relight.checkpoints.recovery import find_newest_good, verify_store
from relight.checkpoints.store import CheckpointStore
from tests.checkpoints.snapshots import make_snapshot

STEM = "00000012-s400-1a2b3c4d"
NAME = CheckpointName(12, 400, "1a2b3c4d")


def make_pack(file: str) -> PackEntry:
    return PackEntry(file, 8192, 4096, "0" * 32)


def make_entry(name: str, pack: int) -> TensorEntry:
    return TensorEntry(name, "U8", (8,), pack, 4096, 8, "1" * 32)


def test_one_receipt_is_the_manifests_packs_and_tensors() -> None:
    receipt = Receipt(make_pack("new"), (make_pack("old"),), (make_entry("a", 1), make_entry("b", 0)))
    assert merge_receipts([receipt]) == ((make_pack("new"), make_pack("old")), receipt.tensors)


def test_every_tensor_keeps_its_pack_when_receipts_are_merged() -> None:
    empty = TensorEntry("empty", "U8", (0,), -1, 0, 0, "2" * 32)
    first = Receipt(make_pack("rank 0"), (make_pack("old"),), (make_entry("a", 0), make_entry("b", 1)))
    second = Receipt(None, (make_pack("older"), make_pack("old")), (make_entry("c", 0), make_entry("d", 1), empty))
    packs, tensors = merge_receipts([first, second])
    assert [pack.file for pack in packs] == ["rank 0", "old", "older"]
    files = {entry.name: packs[entry.pack].file for entry in tensors if entry.bytes}
    assert files == {"a": "rank 0", "b": "old", "c": "older", "d": "old"}
    assert tensors[-1] == empty


@pytest.mark.parametrize("suffix", ["", "-r0", "-r3", "-r128"])
def test_a_packs_name_may_have_a_rank(suffix: str) -> None:
    assert parse_pack_name(f"{STEM}{suffix}.safetensors") == NAME


@pytest.mark.parametrize("suffix", ["-r", "-r01", "-r-1", "-r1-r2", "-3", "r3"])
def test_a_pack_with_any_other_suffix_is_foreign(suffix: str) -> None:
    assert parse_pack_name(f"{STEM}{suffix}.safetensors") is None


def test_the_pack_of_a_rank_belongs_to_its_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    store.commit(*make_snapshot(1))
    info = store.commit(*make_snapshot(2))
    ranked = f"{info.name.stem}-r1.safetensors"
    (store.layout.packs / info.name.pack).rename(store.layout.packs / ranked)
    manifest = store.read_manifest(info)
    packs = tuple(msgspec.structs.replace(pack, file=ranked) for pack in manifest.packs)
    info.path.write_bytes(encode_manifest(msgspec.structs.replace(manifest, packs=packs)))
    assert verify_store(store).damaged == []
    found = find_newest_good(store)[0]
    assert found is not None and found.packs == (ranked,)
    assert found.new_bytes == info.path.stat().st_size + packs[0].bytes
    quarantine_checkpoint(store, info.name)
    assert {path.name for path in store.layout.quarantine.iterdir()} == {info.path.name, ranked}
    (store.layout.packs / f"{info.name.stem}-r0.safetensors").write_bytes(b"left by a crash")
    sweep(store)
    assert [path.name for path in store.layout.packs.iterdir()] == [store.find(1).name.pack]
