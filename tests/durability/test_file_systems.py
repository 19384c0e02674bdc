"""File systems other than ext4 with space: the store works there, or one sentence says why not."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from relight.checkpoints.file_operations import SYSTEM
from relight.checkpoints.recovery import find_newest_good, verify_store
from relight.checkpoints.store import CheckpointStore
from relight.cli.application import app
from relight.errors import SaveError
from relight.runs.durable_file import sync_folder
from relight.runs.layout import RunLayout
from tests.checkpoints.snapshots import make_snapshot
from tests.cli.conftest import RunMaker
from tests.durability.disks import Disk, make_disk, need_disks
from tests.durability.lives import assert_right
from tests.durability.saver import snapshot_at
from tests.durability.trial import try_folder

pytestmark = [pytest.mark.xdist_group("disks")]


@contextlib.contextmanager
def ext2() -> Iterator[Path]:
    """No journal, and no fallocate: the C library writes zeros instead."""
    need_disks("ext2")
    with make_disk(megabytes=64, kind="ext2") as disk:
        yield disk.path


@contextlib.contextmanager
def fat(kind: str, driver: str | None = None) -> Iterator[Path]:
    """No hard links, no O_TMPFILE, and no case: `Trial` and `trial` are the same name."""
    need_disks(kind, driver=driver)
    with make_disk(megabytes=64, kind=kind, driver=driver) as disk:
        (disk.path / "Case").touch()
        assert (disk.path / "cASE").exists()
        yield disk.path


@contextlib.contextmanager
def casefolded() -> Iterator[Path]:
    """An ext4 folder that ignores case, as macOS does."""
    need_disks(mkfs=("-O", "casefold"))
    with make_disk(megabytes=64, mkfs=("-O", "casefold")) as disk:
        folder = disk.path / "folded"
        folder.mkdir()
        subprocess.run(["chattr", "+F", str(folder)], check=True)
        assert not (folder / "x").exists()
        yield folder


@contextlib.contextmanager
def journaled(kind: str) -> Iterator[Path]:
    """One of the larger file systems."""
    need_disks(kind)
    with make_disk(megabytes=320, kind=kind) as disk:
        yield disk.path


@contextlib.contextmanager
def overlay() -> Iterator[Path]:
    """The file system of a container."""
    need_disks()
    with make_disk(megabytes=64) as disk:
        lower, upper, work, merged = (disk.path / name for name in ("lower", "upper", "work", "merged"))
        for folder in (lower, upper, work, merged):
            folder.mkdir()
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        with mounted("-t", "overlay", "overlay", "-o", options, str(merged)):
            yield merged


@contextlib.contextmanager
def tmpfs() -> Iterator[Path]:
    """Memory: a sync does nothing there."""
    need_disks()
    with make_disk(megabytes=16) as disk:
        point = disk.path / "tmpfs"
        point.mkdir()
        with mounted("-t", "tmpfs", "-o", "size=64m", "relight-test", str(point)):
            yield point


@contextlib.contextmanager
def mounted(*words: str) -> Iterator[None]:
    said = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if said.returncode != 0:
        pytest.skip(f"this cannot be mounted here: {said.stderr.strip()[:200]}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", words[-1]], check=True)


FILE_SYSTEMS = {
    "ext2": ext2,
    "vfat": partial(fat, "vfat"),
    "exfat": partial(fat, "exfat"),
    "exfat by FUSE": partial(fat, "exfat", "exfat-fuse"),
    "ext4 without case": casefolded,
    "xfs": partial(journaled, "xfs"),
    "btrfs": partial(journaled, "btrfs"),
    "overlay": overlay,
    "tmpfs": tmpfs,
}


@pytest.mark.parametrize("name", FILE_SYSTEMS)
def test_runs_and_checkpoints_work_on(name: str) -> None:
    with FILE_SYSTEMS[name]() as folder:
        try_folder(folder)


def test_no_two_names_of_a_store_differ_in_case_alone(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    for step in range(1, 4):
        store.pin(store.commit(*make_snapshot(step)))
    names = [path.name for path in store.layout.folder.rglob("*")]
    assert names == [name.lower() for name in names]


@pytest.fixture
def disk() -> Iterator[Disk]:
    need_disks()
    with make_disk(megabytes=64) as made:
        yield made


@pytest.fixture
def read_only(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> RunLayout:
    """A finished run of 20 steps on a disk that is then mounted read-only."""
    monkeypatch.setenv("RELIGHT_RUNS", str(disk.path / "runs"))
    layout = RunMaker(disk.path / "runs")("trial")
    disk.unmount()
    disk.mount("ro")
    return layout


@pytest.mark.parametrize(
    "command",
    ["list", "show trial", "checkpoints trial", "metrics trial --csv", "logs trial", "verify trial", "digest trial"],
)
def test_everything_on_a_read_only_disk_can_be_read(read_only: RunLayout, command: str) -> None:
    answer = CliRunner().invoke(app, command.split())
    assert answer.exit_code == 0, answer.stderr
    assert answer.stderr == ""


def test_from_a_read_only_disk_weights_can_be_exported_elsewhere(read_only: RunLayout, tmp_path: Path) -> None:
    out = tmp_path / "weights.safetensors"
    answer = CliRunner().invoke(app, ["export", "trial", "--out", str(out)])
    assert answer.exit_code == 0, answer.stderr
    assert out.stat().st_size > 0


@pytest.mark.parametrize(
    "command",
    ["run digits --detach", "resume trial --from 10 --detach", "branch trial --from best --detach", "pin trial 10",
     "export trial"],
)  # fmt: skip
def test_commands_that_must_write_to_a_read_only_disk_give_one_sentence(read_only: RunLayout, command: str) -> None:
    answer = CliRunner().invoke(app, command.split())
    assert answer.exit_code == 1, answer.stdout
    (line,) = answer.stderr.strip().splitlines()
    assert "read-only" in line.lower(), line
    assert str(read_only.folder.parent) in line, "it does not say where"
    assert "RELIGHT_DEBUG" not in line, "that is how our own bugs are reported"


def test_a_save_to_a_read_only_disk_gives_one_sentence(read_only: RunLayout) -> None:
    store = CheckpointStore(read_only.checkpoints)
    with pytest.raises(SaveError, match="Read-only file system") as refused:
        store.commit(*make_snapshot(30))
    assert str(refused.value).startswith("The checkpoint at step 30 was not saved: ")
    good, passed = find_newest_good(store, quarantine=False)
    assert good is not None
    assert list(passed) == []


def test_a_disk_that_dies_under_a_store_gives_an_error_and_costs_nothing_else(disk: Disk) -> None:
    need_disks(power_cuts=True)
    store = CheckpointStore(disk.path / "checkpoints")
    store.commit(*snapshot_at(1))
    disk.cut_power()
    with pytest.raises(SaveError, match="step 2 was not saved"):
        store.commit(*snapshot_at(2))
    disk.come_back()
    good, passed = find_newest_good(CheckpointStore(disk.path / "checkpoints"))
    assert good is not None
    assert (good.step, list(passed)) == (1, [])


@pytest.mark.parametrize("sync", [SYSTEM.sync_folder, sync_folder], ids=["store", "records"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_no_name_counts_as_durable_on_a_disk_that_dies_during_the_sync(
    kind: str, sync: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    need_disks(kind, power_cuts=True)
    fsync = os.fsync
    with make_disk(megabytes=320, kind=kind) as disk:
        (disk.path / "before").touch()
        sync(disk.path)

        def die_first(file: int) -> None:
            disk.cut_power()
            fsync(file)

        (disk.path / "before").rename(disk.path / "after")
        monkeypatch.setattr("os.fsync", die_first)
        with pytest.raises(OSError, match="Input/output error"):
            sync(disk.path)
        disk.come_back()
        assert [path.name for path in disk.path.iterdir() if path.name != "lost+found"] == ["before"]


def test_a_store_that_was_copied_by_hand_is_intact(disk: Disk, tmp_path: Path) -> None:
    store = CheckpointStore(disk.path / "checkpoints")
    for step in range(1, 4):
        store.commit(*snapshot_at(step))
    shutil.copytree(store.layout.folder, tmp_path / "copy")
    copy = CheckpointStore(tmp_path / "copy")
    assert verify_store(copy).damaged == []
    for info in copy.list().checkpoints:
        assert_right(copy, info)
