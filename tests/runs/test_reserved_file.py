"""A file that must be rewritten when nothing else can be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from relight.runs import reserved_file
from relight.runs.reserved_file import ReservedFile


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """No new file can be written."""

    def refuse(path: Path, data: bytes, **_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(reserved_file, "write_durably", refuse)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_version_replaces_the_one_before(tmp_path: Path) -> None:
    file = ReservedFile(tmp_path / "saving.json")
    file.write(b"one")
    file.reserve()
    file.write(b"two", durable=False)
    assert file.path.read_bytes() == b"two"
    file.release()
    assert names(tmp_path) == ["saving.json"]


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("durable", [True, False])
def test_on_a_full_disk_the_reserve_becomes_the_new_version(tmp_path: Path, durable: bool) -> None:
    file = ReservedFile(tmp_path / "saving.json")
    file.path.write_bytes(b"an older and longer version")
    file.reserve()
    file.write(b"the disk is full", durable=durable)
    assert file.path.read_bytes() == b"the disk is full"
    file.release()
    assert names(tmp_path) == ["saving.json"]


@pytest.mark.usefixtures("full")
def test_the_former_version_is_the_next_reserve_so_that_a_full_disk_is_told_again_and_again(tmp_path: Path) -> None:
    file = ReservedFile(tmp_path / "saving.json")
    file.path.write_bytes(b"while there was space")
    file.reserve()
    inodes = {file.path.stat().st_ino, *(path.stat().st_ino for path in tmp_path.iterdir())}
    for version in (b"durable", b"the disk is full", b"durable again", b"and full again"):
        file.write(version)
        assert file.path.read_bytes() == version
        assert {path.stat().st_ino for path in tmp_path.iterdir()} == inodes, "a new file was needed"


@pytest.mark.usefixtures("full")
def test_without_a_reserve_the_error_is_the_writes_own(tmp_path: Path) -> None:
    file = ReservedFile(tmp_path / "saving.json")
    file.path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        file.write(b"new")
    assert file.path.read_bytes() == b"old"


@pytest.mark.usefixtures("full")
def test_what_is_larger_than_the_reserve_is_refused_whole(tmp_path: Path) -> None:
    file = ReservedFile(tmp_path / "outcome.json", room_bytes=10)
    file.reserve()
    with pytest.raises(OSError, match="No space left"):
        file.write(b"eleven byte")
    assert not file.path.exists()


def test_another_error_is_not_hidden_by_the_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_(path: Path, data: bytes, **_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    file = ReservedFile(tmp_path / "saving.json")
    file.reserve()
    monkeypatch.setattr(reserved_file, "write_durably", break_)
    with pytest.raises(OSError, match="Input/output"):
        file.write(b"x")
    assert not file.path.exists()


def test_a_folder_that_is_gone_is_no_reason_to_fail_at_reserving(tmp_path: Path) -> None:
    file = ReservedFile(tmp_path / "gone" / "saving.json")
    file.reserve()
    file.release()
    assert names(tmp_path) == []
