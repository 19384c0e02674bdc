"""Checkpoints that the writers of several ranks make together: all parts, or none."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from relight.checkpoints import receipt_exchange
from relight.checkpoints.arrival import Abandoned
from relight.checkpoints.deletion import apply_retention, sweep
from relight.checkpoints.encoded_snapshot import EncodedSnapshot, encode_snapshot
from relight.checkpoints.export import export_weights
from relight.checkpoints.file_names import CheckpointName, is_receipt_name, parse_part_name
from relight.checkpoints.file_operations import SYSTEM, FileOperations
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.manifest import LaterVersion, decode_manifest, encode_manifest
from relight.checkpoints.recovery import verify_store
from relight.checkpoints.retention import RetentionPolicy, plan_retention
from relight.checkpoints.snapshot_header import RankShare, Slice, SnapshotHeader, TensorRef, TensorSpec
from relight.checkpoints.store import CheckpointStore
from relight.errors import DamagedCheckpoint, SaveError
from relight.supervision.checkpoint_copy import copy_checkpoint, copy_weights
from tests.checkpoints.simulator.disk import MOST_EXHAUSTIVE
from tests.checkpoints.simulator.log import Acknowledge, Create, Entry, Recorder, Rename, Sync
from tests.checkpoints.simulator.trial import StoreRecovery, try_all

ROWS = 10
WIDTH = 3
WEIGHT = "model.layer.weight"


def weight_bytes(step: int) -> bytes:
    """Return the whole weight at a step: ten rows of three floats."""
    return bytes((step * 31 + i * 7) % 251 for i in range(ROWS * WIDTH * 4))


def make_part(
    step: int, rank: int, world_size: int, *, sequence: int, rows: Sequence[int] | None = None, frozen: bool = True
) -> tuple[EncodedSnapshot, list[memoryview]]:
    """Return what rank `rank` saves: its rows of a trained and of a frozen weight, and rank 0 the bias as well."""
    each = -(-ROWS // world_size)
    begin, end = rows or (min(rank * each, ROWS), min((rank + 1) * each, ROWS))
    tensors: list[TensorSpec] = []
    buffers: list[memoryview] = []

    def add(name: str, whole: bytes) -> None:
        width = len(whole) // ROWS // 4
        data = whole[begin * width * 4 : end * width * 4]
        place = Slice(name, (ROWS, width), begin)
        tensors.append(TensorSpec(f"{name}[{begin}:{end}]", "F32", (end - begin, width), len(data), place))
        buffers.append(memoryview(data))

    if end > begin or rank == 0:
        add(WEIGHT, weight_bytes(step))
        if frozen:
            add("model.frozen.weight", weight_bytes(1000) + weight_bytes(2000))
    if rank == 0:
        tensors.append(TensorSpec("model.layer.bias", "U8", (4,), 4))
        buffers.append(memoryview(bytes([step % 251] * 4)))
    modules = {key: TensorRef(f"model.{key}") for key in ("layer.weight", "layer.bias")}
    if frozen:
        modules["frozen.weight"] = TensorRef("model.frozen.weight")
    header = SnapshotHeader(
        step=step, epoch=0, reason="periodic", time_s=1.7e9 + step, tensors=tensors, token=f"{step:08x}",
        state={"format": 1, "parts": {"model": {"kind": "module", "tensors": modules}}} if rank == 0 else None,
        share=RankShare(rank, world_size, sequence),
    )  # fmt: skip
    return encode_snapshot(header), buffers


def save(
    folder: Path, step: int, world_size: int, *, sequence: int | None = None, operations: FileOperations = SYSTEM
) -> CheckpointInfo:
    """Save a checkpoint with one store for each rank, as their writers do."""
    store = CheckpointStore(folder, operations=operations)
    number = sequence or store.reserve_sequence(step=step)
    for rank in range(1, world_size):
        CheckpointStore(folder, operations=operations).contribute(*make_part(step, rank, world_size, sequence=number))
    return store.commit(*make_part(step, 0, world_size, sequence=number))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8, 16])
def test_the_parts_of_any_number_of_ranks_are_one_checkpoint(folder: Path, world_size: int) -> None:
    info = save(folder, 5, world_size)
    store = CheckpointStore(folder)
    assert [each.name for each in store.list().checkpoints] == [info.name]
    assert verify_store(store).damaged == []
    with store.open(info) as reader:
        assert set(reader.tensor_names) == {WEIGHT, "model.frozen.weight", "model.layer.bias"}
        assert reader.spec(WEIGHT) == TensorSpec(WEIGHT, "F32", (ROWS, WIDTH), ROWS * WIDTH * 4)
        assert bytes(reader.read(WEIGHT)) == weight_bytes(5)
        for begin in range(ROWS):
            for end in range(begin, ROWS + 1):
                rows = bytearray((end - begin) * WIDTH * 4)
                reader.read_rows_into(WEIGHT, rows, row=begin)
                assert rows == weight_bytes(5)[begin * WIDTH * 4 : end * WIDTH * 4]
    assert not any(map(is_receipt_name, SYSTEM.list_folder(store.layout.packs)))


def test_the_state_digest_does_not_depend_on_the_number_of_ranks(folder: Path, tmp_path: Path) -> None:
    digests = {
        CheckpointStore(tmp_path / str(size)).digest(save(tmp_path / str(size), 5, size)) for size in (1, 2, 3, 16)
    }
    assert len(digests) == 1
    assert digests != {CheckpointStore(folder).digest(save(folder, 6, 2))}


def test_a_checkpoint_shares_what_a_rank_has_saved_before(folder: Path) -> None:
    first, second = save(folder, 1, 2), save(folder, 2, 2)
    store = CheckpointStore(folder)
    entries = {entry.name: entry for entry in store.read_manifest(second).tensors}
    packs = store.read_manifest(second).packs
    frozen = {packs[entries[f"model.frozen.weight[{rows}]"].pack].file for rows in ("0:5", "5:10")}
    assert frozen == {first.name.pack_of(0), first.name.pack_of(1)}
    apply_retention(store, plan_retention(store.list().checkpoints, RetentionPolicy(best=())))
    assert verify_store(store).damaged == []


def test_without_a_ranks_receipt_there_is_no_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = save(folder, 1, 2)
    store = CheckpointStore(folder)
    monkeypatch.setattr(receipt_exchange, "_SILENT_S", 0.1)
    monkeypatch.setattr(receipt_exchange, "_SILENT_ALONE_S", 0.1)
    with pytest.raises(SaveError, match="rank 1 has not handed over its part"):
        store.commit(*make_part(2, 0, 2, sequence=2))
    with pytest.raises(Abandoned):
        store.commit(*make_part(2, 0, 2, sequence=2), is_alone=lambda: True)
    assert [info.name for info in store.list().checkpoints] == [before.name]
    assert sorted(SYSTEM.list_folder(store.layout.packs)) == [before.name.pack_of(0), before.name.pack_of(1)]


def test_rank_0_waits_for_the_receipt(folder: Path) -> None:
    store = CheckpointStore(folder)
    sequence = store.reserve_sequence(step=1)
    late = threading.Timer(0.3, lambda: CheckpointStore(folder).contribute(*make_part(1, 1, 2, sequence=sequence)))
    late.start()
    assert store.commit(*make_part(1, 0, 2, sequence=sequence)).step == 1
    late.join()


def test_rank_0_gives_up_what_another_rank_has_dropped(folder: Path) -> None:
    store, other = CheckpointStore(folder), CheckpointStore(folder)
    store.reserve_sequence(step=1)
    other.contribute(*make_part(2, 1, 2, sequence=2))
    with pytest.raises(receipt_exchange.Outdone):
        store.commit(*make_part(1, 0, 2, sequence=1))
    assert store.commit(*make_part(2, 0, 2, sequence=2)).step == 2


def test_a_receipt_without_its_manifest_is_swept_and_never_listed(folder: Path) -> None:
    save(folder, 1, 2)
    CheckpointStore(folder).contribute(*make_part(2, 1, 2, sequence=2))
    store = CheckpointStore(folder)
    assert [info.step for info in store.list().checkpoints] == [1]
    sweep(store, spare_newer=True)
    name = CheckpointName(2, 2, f"{2:08x}")
    left = {name.pack_of(1), name.receipt_of(1)}
    assert left <= set(SYSTEM.list_folder(store.layout.packs))
    save(folder, 3, 2, sequence=3)
    sweep(store, spare_newer=True)
    assert not left & set(SYSTEM.list_folder(store.layout.packs))
    CheckpointStore(folder).contribute(*make_part(4, 1, 2, sequence=4))
    sweep(store)
    assert {parse_part_name(name)[0].step for name in SYSTEM.list_folder(store.layout.packs)} == {1, 3}  # type: ignore[index]


def test_retention_leaves_what_another_rank_is_writing(folder: Path) -> None:
    store = CheckpointStore(folder)
    for step in (1, 2, 3):
        store.mark_verified(save(folder, step, 2))
    CheckpointStore(folder).contribute(*make_part(4, 1, 2, sequence=4))
    assert apply_retention(store, plan_retention(store.list().checkpoints, RetentionPolicy(best=())))
    assert store.commit(*make_part(4, 0, 2, sequence=4)).step == 4
    assert verify_store(store).damaged == []


def test_a_writer_that_starts_again_never_writes_a_committed_part_again(folder: Path) -> None:
    store = CheckpointStore(folder)
    store.reserve_sequence(step=1)
    part = make_part(1, 1, 2, sequence=1)
    CheckpointStore(folder).contribute(*part)
    pack = store.layout.packs / CheckpointName(1, 1, f"{1:08x}").pack_of(1)
    before = SYSTEM.identify(pack)
    assert CheckpointStore(folder).contribute(*part) == 0  # its receipt is there
    store.commit(*make_part(1, 0, 2, sequence=1))
    assert CheckpointStore(folder).contribute(*part) == 0  # it is committed
    assert SYSTEM.identify(pack) == before
    assert verify_store(store).damaged == []


def test_while_the_last_checkpoint_is_not_committed_nothing_older_is_shared(folder: Path) -> None:
    save(folder, 1, 2)
    other, store = CheckpointStore(folder), CheckpointStore(folder)
    other.contribute(*make_part(2, 1, 2, sequence=2))
    other.contribute(*make_part(3, 1, 2, sequence=3))
    info = store.commit(*make_part(3, 0, 2, sequence=3))
    assert CheckpointName(1, 1, f"{1:08x}").pack_of(1) not in info.packs


@pytest.mark.parametrize("rows", [(4, 10), (6, 10), (5, 9)], ids=["twice", "missing", "too few"])
def test_parts_that_do_not_make_a_tensor_whole_are_no_checkpoint(folder: Path, rows: tuple[int, int]) -> None:
    store = CheckpointStore(folder)
    store.reserve_sequence(step=1)
    CheckpointStore(folder).contribute(*make_part(1, 1, 2, sequence=1, rows=rows))
    with pytest.raises(DamagedCheckpoint, match="of tensor"):
        store.commit(*make_part(1, 0, 2, sequence=1))
    assert store.list().checkpoints == []


@pytest.mark.parametrize("damage", ["flipped", "cut", "another checkpoint"])
def test_a_damaged_receipt_is_no_checkpoint(folder: Path, damage: str) -> None:
    store = CheckpointStore(folder)
    store.reserve_sequence(step=1)
    CheckpointStore(folder).contribute(*make_part(1, 1, 2, sequence=1))
    path = store.layout.packs / CheckpointName(1, 1, f"{1:08x}").receipt_of(1)
    data = path.read_bytes()
    if damage == "flipped":
        path.write_bytes(data.replace(b'"bytes":', b'"bytez":', 1))
    elif damage == "cut":
        path.write_bytes(data[:40])
    else:
        CheckpointStore(folder).contribute(*make_part(9, 1, 2, sequence=1))
        (store.layout.packs / CheckpointName(1, 9, f"{9:08x}").receipt_of(1)).rename(path)
    with pytest.raises(DamagedCheckpoint, match=r"00000001-s1-00000001-r1\.receipt"):
        store.commit(*make_part(1, 0, 2, sequence=1))
    assert store.list().checkpoints == []


def test_a_flipped_byte_in_one_part_is_found(folder: Path) -> None:
    info = save(folder, 1, 2)
    store = CheckpointStore(folder)
    path = store.layout.packs / info.name.pack_of(1)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert len(verify_store(store).damaged) == 1
    with store.open(info) as reader:
        reader.read_rows_into(WEIGHT, bytearray(5 * WIDTH * 4), row=0)  # in the other pack
        with pytest.raises(DamagedCheckpoint):
            reader.read_rows_into("model.layer.weight", bytearray(7 * WIDTH * 4), row=0)
            reader.read_rows_into("model.frozen.weight", bytearray(7 * WIDTH * 4), row=0)


def test_an_export_and_a_branch_have_the_whole_weights(folder: Path, tmp_path: Path) -> None:
    info = save(folder, 5, 3)
    store = CheckpointStore(folder)
    exported = export_weights(store, info, tmp_path / "weights.safetensors")
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(exported.path, "np") as file:
        assert sorted(file.keys()) == ["frozen.weight", "layer.bias", "layer.weight"]
        assert file.get_tensor("layer.weight").tobytes() == weight_bytes(5)
    (tmp_path / "branch").mkdir()
    copy = CheckpointStore(tmp_path / "branch" / "checkpoints")
    assert copy.digest(copy_checkpoint(store, info, copy)) == store.digest(info)
    weights = copy_weights(store, info, copy)
    with copy.open(weights) as reader:
        assert bytes(reader.read(WEIGHT)) == weight_bytes(5)


def test_a_manifest_with_parts_has_the_later_version(folder: Path) -> None:
    info = save(folder, 5, 2)
    store = CheckpointStore(folder)
    data = info.path.read_bytes()
    assert b'"version":2' in data
    manifest = store.read_manifest(info)
    assert encode_manifest(manifest) == data
    later = encode_manifest(msgspec.structs.replace(manifest, version=3))
    with pytest.raises(LaterVersion, match="written by a later Relight"):
        decode_manifest(later, file_name=info.path.name)


@pytest.fixture
def recorded(memory_path: Path) -> tuple[list[Entry], set[tuple[int, str]]]:
    """The log of two writers that make two checkpoints and keep one, and of a receipt whose manifest never comes."""
    folder = memory_path / "recorded"
    recorder = Recorder(folder)
    existed: set[tuple[int, str]] = set()
    for step in (1, 2):
        info = save(folder, step, 2, operations=recorder)
        store = CheckpointStore(folder, operations=recorder)
        state = (step, store.digest(info))
        existed.add(state)
        recorder.log.append(Acknowledge(*state))
        store.mark_verified(info)
        apply_retention(store, plan_retention(store.list().checkpoints, RetentionPolicy(newest=1, best=())))
    CheckpointStore(folder, operations=recorder).contribute(*make_part(3, 1, 2, sequence=3))
    return recorder.log, existed


@pytest.mark.thorough
@pytest.mark.parametrize("journaled", [True, False], ids=["ext4-like", "worst-case POSIX"])
def test_no_power_cut_loses_or_tears_a_checkpoint_of_two_writers(
    recorded: tuple[list[Entry], set[tuple[int, str]]], memory_path: Path, journaled: bool
) -> None:
    log, existed = recorded
    verdict = try_all(
        log, memory_path / "crashed", journaled=journaled, existed=existed, recover=StoreRecovery(), exhaustive=6
    )
    assert verdict.examples == []
    assert verdict.broken == 0
    assert verdict.disks > 150


@pytest.mark.thorough
def test_leaving_out_the_sync_of_the_other_ranks_pack_is_noticed(
    recorded: tuple[list[Entry], set[tuple[int, str]]], memory_path: Path
) -> None:
    log, existed = recorded
    created = {entry.path: entry.inode for entry in log if isinstance(entry, Create)}
    inodes = {
        created[entry.source] for entry in log if isinstance(entry, Rename) and entry.target.endswith("-r1.safetensors")
    }
    changed = [entry for entry in log if not (isinstance(entry, Sync) and entry.inode in inodes)]
    assert len(changed) < len(log)
    assert try_all(
        changed, memory_path / "crashed", journaled=False, existed=existed, recover=StoreRecovery(),
        stop_at_first=True, exhaustive=MOST_EXHAUSTIVE,
    ).broken  # fmt: skip
