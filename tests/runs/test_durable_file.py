"""Files are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from relight.runs import durable_file
from relight.runs.durable_file import make_folder, write_durably


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_writes_replaces_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"one")
    write_durably(path, b"two")
    assert path.read_bytes() == b"two"
    assert _names(tmp_path) == ["file"]


def test_a_folder_that_has_gone_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_durably(tmp_path / "run" / "attempts" / "file", b"x")
    assert _names(tmp_path) == []


def test_make_folder_makes_missing_parents(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_without_replacing_the_first_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"first", replace=False)
    with pytest.raises(FileExistsError):
        write_durably(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert _names(tmp_path) == ["file"]


def test_of_many_that_write_at_once_without_replacing_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "file"
    barrier = threading.Barrier(8)
    won: list[int] = []

    def write(number: int) -> None:
        barrier.wait()
        try:
            write_durably(path, b"%d" % number, replace=False)
        except FileExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert path.read_bytes() == b"%d" % won[0]


def test_a_file_system_without_hard_links_still_decides_who_was_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "file"
    write_durably(path, b"first", replace=False)
    with pytest.raises(FileExistsError):
        write_durably(path, b"second", replace=False)
    assert path.read_bytes() == b"first"


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable_file.os, "write", full)
    with pytest.raises(OSError, match="No space"):
        write_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["file"]


def test_the_file_is_fsynced_before_it_gets_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def replace(*arguments: object) -> None:
        calls.append("rename")
        real_replace(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(durable_file.os, "fsync", fsync)
    monkeypatch.setattr(durable_file.os, "replace", replace)
    write_durably(tmp_path / "file", b"x")
    assert calls == ["file", "rename", "folder"]
    calls.clear()
    write_durably(tmp_path / "file", b"y", durable=False)
    assert calls == ["rename"]


def test_a_kill_just_before_the_rename_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_durably(path, b"old")
    code = (
        "import os, signal, sys; from pathlib import Path; from relight.runs import durable_file\n"
        "durable_file.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "durable_file.write_durably(Path(sys.argv[1]), b'new')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_long_name_still_gets_a_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_durably(path, b"x")
    assert path.read_bytes() == b"x"


def test_make_folder_says_when_a_file_stands_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        make_folder(tmp_path / "file" / "folder")


def test_paths_that_need_care(weird_folder: Path) -> None:
    write_durably(weird_folder / "run.json", b"{}")
    assert (weird_folder / "run.json").read_bytes() == b"{}"
