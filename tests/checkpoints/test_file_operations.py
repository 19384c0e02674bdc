"""Stores work on limited file systems such as NFS, and every call goes through `FileOperations`."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relight.checkpoints import file_operations
from relight.checkpoints.file_operations import SYSTEM
from relight.checkpoints.recovery import find_newest_good, verify_store
from relight.checkpoints.store import CheckpointStore
from relight.errors import SaveError
from tests.checkpoints.snapshots import make_snapshot


@pytest.fixture
def by_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system, such as NFS, that cannot rename without replacing: a second link is made and the first removed."""
    monkeypatch.setattr(file_operations, "_native_rename", lambda: None)


@pytest.mark.usefixtures("by_links")
def test_a_name_that_is_taken_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    with pytest.raises(FileExistsError):
        SYSTEM.rename_new(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "old"
    assert (tmp_path / "new").exists()


@pytest.mark.usefixtures("by_links")
def test_a_request_that_nfs_sends_twice_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_twice(*arguments: Any, **options: Any) -> None:
        link(*arguments, **options)
        link(*arguments, **options)  # the answer to the first request was lost

    monkeypatch.setattr(os, "link", link_twice)
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in (1, 2):
        store.commit(*make_snapshot(step, frozen=20))
    assert [info.step for info in store.list().checkpoints] == [1, 2]
    assert verify_store(store).damaged == []
    assert list(store.layout.temporary.iterdir()) == []


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a different file system from `tmp_path`."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system, such as /dev/shm")
    folder = memory / f"relight-test-{os.getpid()}-{tmp_path.name}"
    folder.mkdir()
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


@pytest.mark.parametrize("name", ["packs", "manifests", "tmp"])
def test_a_store_on_two_disks_is_refused_in_one_sentence(tmp_path: Path, other_disk: Path, name: str) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    store.layout.folder.mkdir()
    (store.layout.folder / name).symlink_to(other_disk)
    with pytest.raises(SaveError, match=r"step 1 was not saved: .* on different disks.* on one disk"):
        store.commit(*make_snapshot(1))
    assert store.list().checkpoints == []
    assert [path for path in other_disk.iterdir() if path.suffix != ".json"] == [], "the attempt leaves nothing behind"


def test_a_store_that_is_a_link_to_another_disk_works(tmp_path: Path, other_disk: Path) -> None:
    (tmp_path / "checkpoints").symlink_to(other_disk)
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in (1, 2):
        store.mark_verified(store.commit(*make_snapshot(step)))
    assert verify_store(store).damaged == []
    assert store.find("latest").verified


def test_a_damaged_checkpoint_that_cannot_be_moved_is_passed_over(tmp_path: Path, other_disk: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    store.commit(*make_snapshot(1))
    bad = store.commit(*make_snapshot(2))
    pack = store.layout.packs / bad.name.pack
    pack.write_bytes(pack.read_bytes()[:-1])
    store.layout.quarantine.rmdir()
    store.layout.quarantine.symlink_to(other_disk)
    good, (passed,) = find_newest_good(store)
    assert good is not None
    assert (good.step, passed.step) == (1, 2)
    assert "could not be moved to quarantine (Invalid cross-device link)" in passed.reason
    assert bad.path.exists()


FILE_SYSTEM_CALLS = {
    *("access", "chmod", "exists", "fsync", "glob", "is_dir", "is_file", "iterdir", "lexists", "link", "listdir"),
    *(
        "lstat",
        "makedirs",
        "mkdir",
        "open",
        "read_bytes",
        "read_text",
        "rename",
        "resolve",
        "rglob",
        "rmdir",
        "samefile",
    ),
    *("scandir", "stat", "statvfs", "symlink_to", "touch", "truncate", "unlink", "walk", "write_bytes", "write_text"),
}
"""Functions of `os` and methods of `Path` that reach the file system."""


def find_file_system_calls(source: str) -> list[str]:
    """Return every call in `source` that reaches the file system, other than through `FileOperations` or a store."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    found = [ast.unparse(call) for call in calls if isinstance(call, ast.Name) and call.id == "open"]
    for call in calls:
        if isinstance(call, ast.Attribute) and call.attr in FILE_SYSTEM_CALLS:
            receiver = ast.unparse(call.value).rpartition(".")[2].lstrip("_")
            if receiver not in ("operations", "SYSTEM", "store", "self"):
                found.append(ast.unparse(call))
    return found


def test_the_store_reaches_the_file_system_only_through_its_operations() -> None:
    modules = sorted(Path(file_operations.__file__).parent.glob("*.py"))
    found = {path.name: find_file_system_calls(path.read_text()) for path in modules}
    assert found.pop("file_operations.py")
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize("call", ["path.exists()", "os.scandir(folder)", "open(path)", "self.layout.packs.stat()"])
def test_a_call_that_goes_around_the_operations_is_noticed(call: str) -> None:
    assert find_file_system_calls(call) == [call.partition("(")[0]]
