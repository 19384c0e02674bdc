"""After a fault at any operation, earlier checkpoints stay, nothing incomplete is listed, and saving recovers."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from relight.checkpoints.arrival import Arrival
from relight.checkpoints.deletion import apply_retention, sweep
from relight.checkpoints.file_operations import FileOperations
from relight.checkpoints.recovery import find_newest_good
from relight.checkpoints.retention import RetentionPolicy, plan_retention
from relight.checkpoints.store import CheckpointStore
from relight.errors import RelightError, SaveError
from tests.checkpoints.faults import CHANGING, READING, FaultAt
from tests.checkpoints.snapshots import make_snapshot


def count_calls(work: Callable[[CheckpointStore], object], folder: Path, kinds: tuple[str, ...]) -> int:
    operations = FaultAt(0, 0, kinds)
    work(CheckpointStore(folder, operations=operations))
    return operations.calls


def assert_whole(folder: Path, steps: set[int]) -> None:
    """Assert that every listed checkpoint is intact, and that those of `steps` are listed."""
    store = CheckpointStore(folder)
    listing = store.list()
    assert listing.damaged == []
    assert {info.step for info in listing.checkpoints} >= steps
    for info in listing.checkpoints:
        assert store.check(info) == []


FAULTS = [errno.EIO, errno.ENOSPC, errno.EINTR, errno.EMFILE, errno.EDQUOT, errno.EROFS, "short"]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: errno.errorcode.get(fault, fault))
@pytest.mark.parametrize("which", ["first", "third", "third, begun early", "second, begun on a wrong guess"])
def test_a_fault_at_any_change_of_a_commit_leaves_what_was_there(
    memory_path: Path, fault: int | str, which: str
) -> None:
    there = {"first": set(), "second": {2}, "third": {1, 2}}[which.partition(",")[0]]

    def commit(store: CheckpointStore) -> object:
        if "begun" not in which:
            return store.commit(header, buffers)
        arrival = Arrival()
        arrival.complete()
        return store.commit(header, buffers, arrival=arrival)

    def prepare(folder: Path) -> Path:
        for step in sorted(there):
            CheckpointStore(folder).commit(*make_snapshot(step, frozen=3000))
        return folder

    header, buffers = make_snapshot(3, frozen=3000)
    calls = count_calls(commit, prepare(memory_path / "dry"), CHANGING)
    assert calls >= 8
    for at in range(1, calls + 1):
        folder = prepare(memory_path / f"at-{at}")
        operations = FaultAt(at, fault)
        store = CheckpointStore(folder, operations=operations)
        try:
            commit(store)
            saved = {3}
        except SaveError as error:
            saved = set()
            assert "step 3 was not saved" in str(error)
            assert fault != "short"
        assert operations.failed is not None
        if fault == errno.EINTR and operations.failed == "write":
            assert saved, "an interrupted write is continued"
        assert_whole(folder, there | saved)
        named = {pack for info in CheckpointStore(folder).list().checkpoints for pack in info.packs}
        found = {path.name for path in (folder / "packs").glob("*")}
        assert found == named, "a pack was left that no manifest names"
        # The fault is gone: now the same snapshot can be saved, and the next one.
        store.commit(header, buffers)
        store.commit(*make_snapshot(4, frozen=3000))
        assert_whole(folder, there | {3, 4})
        sweep(store)
        assert_whole(folder, there | {3, 4})
        assert list(store.layout.temporary.iterdir()) == []


@pytest.mark.parametrize("fault", [errno.EIO, errno.EMFILE, errno.ENOMEM], ids=errno.errorcode.get)
def test_a_fault_at_any_read_of_a_commit_leaves_what_was_there(memory_path: Path, fault: int) -> None:
    def prepare(folder: Path) -> Path:
        for step in (1, 2):
            CheckpointStore(folder).commit(*make_snapshot(step, frozen=3000))
        return folder

    header, buffers = make_snapshot(3, frozen=3000)
    calls = count_calls(lambda store: store.commit(header, buffers), prepare(memory_path / "dry"), READING)
    for at in range(1, calls + 1):
        folder = prepare(memory_path / f"at-{at}")
        store = CheckpointStore(folder, operations=FaultAt(at, fault, READING))
        try:
            store.commit(header, buffers)
        except SaveError:
            pass
        assert_whole(folder, {1, 2})
        store.commit(header, buffers)
        assert_whole(folder, {1, 2, 3})


@pytest.mark.parametrize("fault", [errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_a_fault_while_old_checkpoints_are_removed_leaves_intact_ones(memory_path: Path, fault: int) -> None:
    def prepare(folder: Path) -> Path:
        store = CheckpointStore(folder)
        for step in range(1, 6):
            store.mark_verified(store.commit(*make_snapshot(step, frozen=0 if step < 3 else 3000)))
        return folder

    def retain(store: CheckpointStore) -> None:
        apply_retention(store, plan_retention(store.list().checkpoints, RetentionPolicy(best=())))

    calls = count_calls(retain, prepare(memory_path / "dry"), CHANGING)
    for at in range(1, calls + 1):
        folder = prepare(memory_path / f"at-{at}")
        store = CheckpointStore(folder, operations=FaultAt(at, fault))
        try:
            retain(store)
        except OSError:
            pass
        assert_whole(folder, {4, 5})
        retain(store)
        sweep(store)
        assert_whole(folder, {4, 5})
        assert len(list(store.layout.packs.iterdir())) == 3


@pytest.mark.parametrize("fault", [errno.EIO, errno.EROFS, errno.EMFILE], ids=errno.errorcode.get)
def test_a_fault_during_recovery_never_loses_a_checkpoint(memory_path: Path, fault: int) -> None:
    def prepare(folder: Path) -> Path:
        store = CheckpointStore(folder)
        for step in (1, 2, 3):
            store.commit(*make_snapshot(step))
        pack = store.layout.packs / store.find(3).packs[0]
        pack.write_bytes(pack.read_bytes()[:-1] + b"?")
        return folder

    kinds = CHANGING + READING
    calls = count_calls(find_newest_good, prepare(memory_path / "dry"), kinds)
    for at in range(1, calls + 1):
        folder = prepare(memory_path / f"at-{at}")
        store = CheckpointStore(folder, operations=FaultAt(at, fault, kinds))
        try:
            found = find_newest_good(store)[0]
            # A checkpoint that cannot be read from the disk is passed over, and an older one is used.
            assert found is None or found.step in (1, 2)
            if fault != errno.EIO:
                assert found is not None
        except (OSError, RelightError):
            pass
        restored = CheckpointStore(folder)
        files = {path.name for path in folder.rglob("*.json")} | {path.name for path in folder.rglob("*.safetensors*")}
        assert len(files) == 7, "a file was lost"
        good = find_newest_good(restored)[0]
        assert good is not None or fault == errno.EIO
        if fault != errno.EIO:
            assert good is not None
            assert good.step == 2


def test_the_message_about_a_full_disk_says_how_much_is_needed_and_free(memory_path: Path) -> None:
    class Full(FileOperations):
        def reserve(self, file: int, nbytes: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SaveError, match=r"step 1 was not saved: the disk is full \(1.22 kB needed, .* free at .*\)\."):
        CheckpointStore(memory_path, operations=Full()).commit(*make_snapshot(1))


def test_a_file_system_without_direct_writes_and_reservation_still_works(memory_path: Path) -> None:
    class Plain(FileOperations):
        def set_direct(self, file: int, on: bool) -> bool:
            return False

        def reserve(self, file: int, nbytes: int) -> None:
            pass

    store = CheckpointStore(memory_path, operations=Plain())
    assert store.check(store.commit(*make_snapshot(1, trained=2_000_000))) == []
