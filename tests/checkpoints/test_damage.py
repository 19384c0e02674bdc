"""Damage of every kind is found in every file, wrong bytes are never read, and the right older checkpoint is used."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from relight.checkpoints import checkpoint_reader
from relight.checkpoints.deletion import sweep
from relight.checkpoints.file_operations import SYSTEM, FileOperations
from relight.checkpoints.file_stream import address_of
from relight.checkpoints.quarantine import quarantine_checkpoint
from relight.checkpoints.recovery import find_newest_good, verify_store
from relight.checkpoints.store import CheckpointStore
from relight.errors import DamagedCheckpoint
from tests.checkpoints.snapshots import make_snapshot

STEPS = 4
PACK_BYTES = 20_000
Damage = Callable[[Path, random.Random], bool]
"""Damages a file; returns False if the bytes did not change."""


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with four checkpoints; the third and fourth share frozen weights with the second."""
    folder = tmp_path_factory.mktemp("pristine") / "checkpoints"
    store = CheckpointStore(folder)
    for step in range(1, STEPS + 1):
        frozen = 0 if step == 1 else 4000
        store.commit(*make_snapshot(step, frozen=frozen, trained=2000, metrics={"train/loss": 1 / step}))
    return folder


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> CheckpointStore:
    shutil.copytree(pristine, tmp_path / "checkpoints")
    return CheckpointStore(tmp_path / "checkpoints")


def flip_bit(path: Path, chance: random.Random) -> bool:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return True


def zero_block(path: Path, chance: random.Random) -> bool:
    data = bytearray(path.read_bytes())
    begin = chance.randrange(0, len(data), 4096)
    length = len(data[begin : begin + 4096])
    changed = any(data[begin : begin + 4096])
    data[begin : begin + 4096] = bytes(length)
    path.write_bytes(data)
    return changed


def truncate(path: Path, chance: random.Random) -> bool:
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data))])
    return True


def append(path: Path, chance: random.Random) -> bool:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randint(1, 5000)))
    return True


def replace_with_garbage(path: Path, chance: random.Random) -> bool:
    path.write_bytes(chance.randbytes(path.stat().st_size))
    return True


def empty(path: Path, chance: random.Random) -> bool:
    path.write_bytes(b"")
    return True


def delete(path: Path, chance: random.Random) -> bool:
    path.unlink()
    return True


def swap_with_a_neighbor(path: Path, chance: random.Random) -> bool:
    other = chance.choice([other for other in path.parent.iterdir() if other != path])
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)
    return True


def make_stale(path: Path, chance: random.Random) -> bool:
    older = sorted(path.parent.iterdir())[0]
    if older == path:
        return False
    path.write_bytes(older.read_bytes())
    return True


def shift_a_byte(path: Path, chance: random.Random) -> bool:
    data = path.read_bytes()
    moved = data[1:] + data[:1]
    path.write_bytes(moved)
    return moved != data


DAMAGES: list[Damage] = [
    flip_bit, zero_block, truncate, append, replace_with_garbage, empty, delete, swap_with_a_neighbor, make_stale,
    shift_a_byte,
]  # fmt: skip


def files_of(store: CheckpointStore) -> list[Path]:
    return sorted([*store.layout.manifests.iterdir(), *store.layout.packs.iterdir()])


def read_everything(store: CheckpointStore) -> dict[int, bool]:
    """Return for each step whether every tensor could be read. Assert that whatever could be read is right."""
    readable = {}
    for info in store.list().checkpoints:
        header, buffers = make_snapshot(info.step, frozen=0 if info.step == 1 else 4000, trained=2000)
        try:
            with store.open(info) as reader:
                assert reader.state == header.state
                for spec, data in zip(header.tensors, buffers, strict=True):
                    assert reader.read(spec.name) == data, "wrong bytes were read without an error"
            readable[info.step] = True
        except DamagedCheckpoint:
            readable[info.step] = False
    return readable


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_all_damage_is_found_and_the_newest_intact_checkpoint_is_taken(
    store: CheckpointStore, pristine: Path, damage: Damage
) -> None:
    chance = random.Random(damage.__name__)
    rounds = {flip_bit: 12, zero_block: 4}.get(damage, 2)
    trials = 0
    for name in [path.relative_to(store.layout.folder) for path in files_of(store)]:
        if damage is delete and name.parts[0] == "manifests":
            continue  # Without its manifest there is no checkpoint, and no trace of one.
        for _ in range(rounds):
            shutil.rmtree(store.layout.folder)
            shutil.copytree(pristine, store.layout.folder)
            if not damage(store.layout.folder / name, chance):
                continue
            trials += 1
            fresh = CheckpointStore(store.layout.folder)
            before = {path: path.read_bytes() for path in files_of(fresh)}
            assert verify_store(fresh).damaged, f"{damage.__name__} of {name} was not found"
            assert {path: path.read_bytes() for path in files_of(fresh)} == before, "verify changed something"
            readable = read_everything(fresh)
            whole = [step for step in range(1, STEPS + 1) if readable.get(step)]
            good, passed = find_newest_good(fresh)
            # A checkpoint whose pack has a damaged header is passed over, even if all tensors can be read.
            assert (good.step if good else None) in (max(whole, default=None), *whole)
            assert passed or (good is not None and good.step == STEPS)
            assert all(readable.get(info.step, False) for info in [good] if info)
            kept = {path.name for path in store.layout.folder.rglob("*") if path.is_file()}
            assert {path.name for path in before} <= kept, "a damaged file was deleted"
    assert trials >= 4


def test_two_thousand_bit_flips_are_all_found(store: CheckpointStore) -> None:
    class Cached(FileOperations):
        def forget_cached(self, file: int) -> None:
            """Do nothing: reading from the disk each time would be slow and prove nothing more."""

    chance, cached = random.Random(0), Cached()
    for path in files_of(store):
        pristine = path.read_bytes()
        for _ in range(2000 // len(files_of(store)) + 1):
            flip_bit(path, chance)
            assert verify_store(CheckpointStore(store.layout.folder, operations=cached)).damaged
        path.write_bytes(pristine)
    assert not verify_store(CheckpointStore(store.layout.folder)).damaged


def test_damage_of_the_newest_costs_only_the_newest(store: CheckpointStore) -> None:
    newest = store.find("latest")
    flip_bit(store.layout.packs / newest.packs[0], random.Random(1))
    good, passed = find_newest_good(store)
    assert good is not None
    assert (good.step, good.verified) == (3, True)
    assert [(over.step, newest.packs[0] in over.reason) for over in passed] == [(4, True)]
    assert {path.name for path in store.layout.quarantine.iterdir()} == {newest.path.name, newest.packs[0]}
    assert [info.step for info in store.list().checkpoints] == [1, 2, 3]


def test_damage_of_shared_bytes_costs_every_checkpoint_that_shares_them(store: CheckpointStore) -> None:
    shared = store.layout.packs / store.find(2).name.pack
    with store.open(store.find(2)) as reader:
        entry = next(entry for entry in reader.manifest.tensors if entry.name == "model.backbone.weight")
    data = bytearray(shared.read_bytes())
    data[entry.offset] ^= 1
    shared.write_bytes(data)
    good, passed = find_newest_good(store)
    assert good is not None
    assert good.step == 1
    assert [over.step for over in passed] == [4, 3, 2]
    assert {path.name for path in store.layout.quarantine.iterdir()} >= {over.path.name for over in passed}
    assert store.commit(*make_snapshot(9, frozen=4000, trained=2000)).sequence == 5
    assert find_newest_good(store)[0] == store.find(9) or store.find(9).verified


def test_a_shared_pack_stays_where_it_is_while_another_checkpoint_needs_it(store: CheckpointStore) -> None:
    second = store.find(2)
    second.path.write_bytes(b"garbage")
    quarantine_checkpoint(store, second.name)
    assert (store.layout.packs / second.name.pack).exists()
    assert store.check(store.find(3)) == []


def test_nothing_is_swept_while_a_manifest_cannot_be_read(store: CheckpointStore) -> None:
    store.find(4).path.write_bytes(b"garbage")
    packs = set(store.layout.packs.iterdir())
    sweep(store)
    assert set(store.layout.packs.iterdir()) == packs


def test_a_checkpoint_of_a_later_version_is_passed_over_but_never_moved(store: CheckpointStore) -> None:
    import msgspec

    from relight.checkpoints.manifest import VERSION, encode_manifest

    newest = store.find("latest")
    later = encode_manifest(msgspec.structs.replace(store.read_manifest(newest), version=VERSION + 1))
    newest.path.write_bytes(later)
    good, passed = find_newest_good(store)
    assert good is not None
    assert good.step == 3
    assert "later Relight" in passed[0].reason
    assert newest.path.read_bytes() == later


def test_without_quarantine_nothing_is_moved(store: CheckpointStore) -> None:
    flip_bit(store.layout.packs / store.find(4).packs[0], random.Random(1))
    before = sorted(store.layout.folder.rglob("*"))
    good, _ = find_newest_good(store, quarantine=False)
    assert good is not None
    assert good.step == 3
    assert sorted(store.layout.folder.rglob("*")) == before


def test_verify_reports_every_damaged_file_with_its_path(store: CheckpointStore) -> None:
    first, last = store.find(1), store.find(4)
    flip_bit(store.layout.packs / first.packs[0], random.Random(2))
    truncate(last.path, random.Random(3))
    store.layout.format.write_text("{}")
    calls: list[tuple[int, int]] = []
    report = verify_store(store, on_progress=lambda done, total: calls.append((done, total)))
    assert {entry.path for entry in report.damaged} == {
        store.layout.packs / first.packs[0],
        last.path,
        store.layout.format,
    }
    assert report.checked == 3
    assert calls[-1] == (report.bytes, report.bytes)


def test_an_empty_or_missing_store_is_not_damaged(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "nothing")
    assert find_newest_good(store) == (None, [])
    assert verify_store(store).damaged == []
    assert store.list().checkpoints == []


class Direct(FileOperations):
    """A disk that gives direct reads in pieces, with an interruption now and then, or refuses them after a while."""

    def __init__(self, seed: int = 0, *, refuse_after: int | None = None) -> None:
        self.reads = 0
        self._chance = random.Random(seed)
        self._refuse_after = refuse_after
        self._on: set[int] = set()

    def set_direct(self, file: int, on: bool) -> bool:
        (self._on.add if on else self._on.discard)(file)
        return True

    def close(self, file: int) -> None:
        assert file not in self._on, "a file was left in the direct mode"
        super().close(file)

    def read_into(self, file: int, buffer: memoryview, offset: int) -> int:
        if file not in self._on:
            return super().read_into(file, buffer, offset)
        self.reads += 1
        if self._refuse_after is not None and self.reads > self._refuse_after:
            raise OSError(errno.EINVAL, "no direct reads here")
        address = address_of(buffer)
        assert address is not None
        assert address % 4096 == len(buffer) % 4096 == offset % 4096 == 0
        if self._chance.random() < 0.2:
            raise InterruptedError
        pages = self._chance.randint(1, len(buffer) // 4096)
        return super().read_into(file, buffer[: pages * 4096], offset)


@pytest.mark.parametrize("refuse_after", [None, 0, 3])
def test_direct_reads_find_damage_in_every_tensor(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch, refuse_after: int | None
) -> None:
    monkeypatch.setattr(checkpoint_reader, "_CHUNK_BYTES", 2 << 12)
    info = store.find(4)
    for tensor in [None, *(entry for entry in store.read_manifest(info).tensors if entry.bytes)]:
        disk = Direct(refuse_after=refuse_after)
        direct = CheckpointStore(store.layout.folder, operations=disk)
        if tensor is None:
            assert direct.check(info, from_disk=True) == []
        else:
            path = store.layout.packs / store.read_manifest(info).packs[tensor.pack].file
            pristine = path.read_bytes()
            data = bytearray(pristine)
            data[tensor.offset + tensor.bytes - 1] ^= 1
            path.write_bytes(data)
            damaged = direct.check(info, from_disk=True)
            assert [(entry.path, f"'{tensor.name}'" in entry.reason) for entry in damaged] == [(path, True)]
            path.write_bytes(pristine)
        assert disk.reads > 0


def test_the_read_back_passes_the_page_cache_by(store: CheckpointStore) -> None:
    info = store.find(4)
    file = SYSTEM.open(store.layout.packs / info.packs[0])
    try:
        if not SYSTEM.set_direct(file, True):
            pytest.skip("this file system has no direct reads")
    finally:
        SYSTEM.close(file)
    disk = Direct()
    assert CheckpointStore(store.layout.folder, operations=disk).check(info) == []
    assert disk.reads == 0
    for system in (CheckpointStore(store.layout.folder), store):
        assert system.check(info, from_disk=True) == []


def test_a_pack_that_shrinks_while_it_is_read_back_is_damaged(store: CheckpointStore) -> None:
    info = store.find(4)

    class Shrinking(FileOperations):
        def size(self, file: int) -> int:
            return super().size(file) + 1

    for path in (store.layout.packs / name for name in info.packs):
        os.truncate(path, path.stat().st_size - 1)
    damaged = CheckpointStore(store.layout.folder, operations=Shrinking()).check(info, from_disk=True)
    assert damaged and all("ends in the middle of" in entry.reason for entry in damaged)
