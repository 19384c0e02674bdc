"""Deleting runs: a run's folder moves to the trash in one rename, and is removed seven days later.

The trash is `.trash` in the runs folder, so the rename stays on one file system. An entry is named
`<run>@<seconds since 1970>`, so the rename also records the time. What is being removed is first renamed to
`.removing-*`, so an entry is always complete: whatever kills the process, nothing comes back by half.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from relight.errors import RelightError, RunBusy, RunNotFound
from relight.runs.about import read_about
from relight.runs.catalog import TRASH, list_layouts
from relight.runs.durable_file import sync_folder
from relight.runs.evidence import gather_evidence
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock
from relight.runs.record_file import read_record_or_none
from relight.runs.records import RunRecord
from relight.runs.status import derive_status

KEPT_S = 7 * 86_400.0
_REMOVING = ".removing-"
_ENDING_WAIT_S = 5.0
"""How long to wait for the processes of a run that has just ended."""


class Deletion(msgspec.Struct, frozen=True, kw_only=True):
    """What deleting one run means."""

    run: str
    name: str
    path: str
    bytes: int
    """Disk space that becomes free once the run is removed."""
    files: int
    exports: int
    """Files of exported weights among them."""
    branches: tuple[str, ...]
    """Runs that were branched from it. They have their own copy of the checkpoint, so they keep working."""
    refusal: str | None
    """Why it cannot be deleted now."""


class TrashedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run in the trash."""

    run: str
    name: str
    deleted_s: float
    removed_s: float
    """When it will be removed, in seconds since 1970."""
    bytes: int
    path: str


def plan_deletion(layouts: Iterable[RunLayout]) -> list[Deletion]:
    """Say what deleting these runs would free, and which of them cannot be deleted. Changes nothing."""
    layouts = list(layouts)
    branches = _find_branches({layout.folder.parent for layout in layouts})
    return [_plan(layout, branches.get(layout.run_id, ())) for layout in layouts]


def delete_run(layout: RunLayout, *, now: bool = False) -> TrashedRun | None:
    """Move the run to the trash, where it is kept for seven days; with `now`, remove it at once and return None.

    Raises `RunBusy` while processes work on the run, and `RelightError` when its folder is only a link or cannot be
    moved; nothing has changed then.
    """
    _refuse(layout)
    folder = layout.folder.parent
    trash = _open_trash(folder)
    with _lock(layout):  # so no resume can begin meanwhile
        _refuse(layout, locked=True)  # a resume may have begun before
        moved = _move(layout.folder, trash, _new_removal() if now else None)
    sync_folder(trash)
    sync_folder(folder)
    if now:
        shutil.rmtree(moved, ignore_errors=True)
        if os.path.lexists(moved):
            raise RelightError(f"Run {layout.run_id!r} is deleted, but some of its files are left in {str(moved)!r}.")
        return None
    entry = _read_entry(moved)
    assert entry is not None
    return entry


def list_trash(folder: Path) -> list[TrashedRun]:
    """Return the runs in the trash of a runs folder, the last deleted first."""
    entries = (_read_entry(path) for path in _list_paths(folder))
    return sorted((entry for entry in entries if entry is not None), key=lambda entry: (-entry.deleted_s, entry.run))


def restore_run(folder: Path, wanted: str) -> RunLayout:
    """Bring the run with that id or name back from the trash: of several, the one that was deleted last.

    Raises `RunNotFound`, and `RelightError` when there is a run with its id.
    """
    entries = list_trash(folder)
    found = next((entry for entry in entries if wanted in (entry.run, entry.name)), None)
    if found is None:
        there = f"It has {', '.join(entry.run for entry in entries[:10])}." if entries else "The trash is empty."
        raise RunNotFound(f"There is no run {wanted!r} in the trash of {str(folder)!r}. {there}")
    layout = RunLayout(folder / found.run)
    try:
        if os.path.lexists(layout.folder):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        os.rename(found.path, layout.folder)  # noqa: PTH104
    except FileExistsError as error:
        raise RelightError(
            f"There is already a run {found.run!r} in {str(folder)!r}. Move it away before you restore this one."
        ) from error
    except OSError as error:
        raise RelightError(f"Run {found.run!r} could not be restored: {error.strerror or error}.") from error
    sync_folder(folder)
    sync_folder(folder / TRASH)
    return layout


def sweep_trash(folder: Path, *, everything: bool = False) -> list[str]:
    """Remove what has been in the trash for seven days, or `everything`; return the ids. Never raises `OSError`.

    Also finishes removals that were interrupted.
    """
    removed: list[str] = []
    for path in _list_paths(folder):
        if not path.name.startswith(_REMOVING):
            run, deleted_s = _parse(path.name)
            if not run or (not everything and time.time() - deleted_s < KEPT_S):
                continue
            doomed = path.with_name(_new_removal())
            try:
                path.rename(doomed)
            except OSError:
                continue  # another process was faster, or restored it
            removed.append(run)
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            shutil.rmtree(path, ignore_errors=True)
    return removed


def sweep_in_background(folder: Path) -> None:
    """Sweep the trash in a daemon thread, if there is anything to remove: gigabytes may take seconds."""
    now_s = time.time()
    if any(path.name.startswith(_REMOVING) or now_s - _parse(path.name)[1] >= KEPT_S for path in _list_paths(folder)):
        threading.Thread(target=sweep_trash, args=(folder,), name="relight-trash", daemon=True).start()


def _plan(layout: RunLayout, branches: tuple[str, ...]) -> Deletion:
    refusal = None
    try:
        _refuse(layout)
    except RelightError as error:
        refusal = str(error)
    size, files = _measure(layout.folder)
    return Deletion(
        run=layout.run_id,
        name=_name_of(layout, layout.run_id),
        path=str(layout.folder),
        bytes=size,
        files=files,
        exports=_count_exports(layout),
        branches=branches,
        refusal=refusal,
    )


def _refuse(layout: RunLayout, *, locked: bool = False) -> None:
    """Raise when the run may not be deleted. With `locked` this process holds its lock, so it is not training here."""
    if layout.folder.is_symlink():
        raise RelightError(
            f"Run {layout.run_id!r} is a link to a folder elsewhere, which Relight does not delete. Remove the link "
            f"{str(layout.folder)!r} or the folder itself."
        )
    if not layout.folder.is_dir():
        raise RunNotFound(f"Run {layout.run_id!r} is not in {str(layout.folder.parent)!r} any more.")
    evidence = gather_evidence(layout)
    report = derive_status(evidence)
    if report.status.is_live and (evidence.foreign or not locked):
        pid = f" (pid {evidence.trainer_pid})" if evidence.trainer_pid else ""
        raise RunBusy(f"Run {layout.run_id!r} is {report.status}{pid}, so it cannot be deleted. Stop it first.")


def _lock(layout: RunLayout) -> RunLock:
    try:
        return RunLock.acquire(layout, _ENDING_WAIT_S)
    except RunBusy as error:
        raise RunBusy(
            f"Run {layout.run_id!r} cannot be deleted: a process still works on it. Stop it first, or wait until its "
            "last checkpoint is written."
        ) from error


def _open_trash(folder: Path) -> Path:
    """Return the trash, and make it when it is missing."""
    trash = folder / TRASH
    try:
        trash.mkdir(exist_ok=True)
        if trash.is_symlink():
            raise NotADirectoryError(errno.ENOTDIR, "It is a link, which Relight does not follow")
    except OSError as error:
        raise RelightError(
            f"The trash {str(trash)!r} cannot be used: {error.strerror or error}. Move what is there away."
        ) from error
    sync_folder(folder)
    return trash


def _move(source: Path, trash: Path, name: str | None) -> Path:
    """Rename the folder into the trash; without `name`, under its own name and the time."""
    stamp = int(time.time())
    while True:
        target = trash / (name or f"{source.name}@{stamp}")
        try:
            # A rename replaces a folder only if it is empty, and no entry is.
            os.rename(source, target)  # noqa: PTH104
        except OSError as error:
            if name is None and error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                stamp += 1  # deleted, restored and deleted within a second
                continue
            raise RelightError(
                f"Run {source.name!r} could not be moved to the trash: {error.strerror or error} ({str(target)!r})."
            ) from error
        return target


def _new_removal() -> str:
    return f"{_REMOVING}{secrets.token_hex(8)}"


def _list_paths(folder: Path) -> list[Path]:
    """Return what is in the trash; nothing when there is none, or when it is a link."""
    trash = folder / TRASH
    try:
        if not stat.S_ISDIR(os.lstat(trash).st_mode):
            return []
        return sorted(path for path in trash.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []


def _read_entry(path: Path) -> TrashedRun | None:
    run, deleted_s = _parse(path.name)
    if not run:
        return None
    return TrashedRun(
        run=run,
        name=_name_of(RunLayout(path), run),
        deleted_s=deleted_s,
        removed_s=deleted_s + KEPT_S,
        bytes=_measure(path)[0],
        path=str(path),
    )


def _parse(name: str) -> tuple[str, float]:
    """Return run and time of an entry's name; "" for the name of anything else, with a time that never comes."""
    run, _, stamp = name.rpartition("@")
    return (run, float(stamp)) if run and stamp.isascii() and stamp.isdigit() else ("", float("inf"))


def _name_of(layout: RunLayout, run: str) -> str:
    record = read_record_or_none(layout.record, RunRecord)
    return read_about(layout).about.name or (run if record is None else record.name)


def _measure(folder: Path) -> tuple[int, int]:
    """Return the bytes on the disk and the number of files below a folder; links are not followed."""
    size, files = 0, 0
    counted: set[int] = set()
    for _, _, names, descriptor in os.fwalk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                files += 1
                if status.st_ino not in counted:  # two names of one file free its space once
                    counted.add(status.st_ino)
                    size += status.st_blocks * 512
    return size, files


def _count_exports(layout: RunLayout) -> int:
    try:
        return sum(path.suffix in (".safetensors", ".pth") for path in layout.exports.iterdir())
    except OSError:
        return 0


def _find_branches(folders: set[Path]) -> dict[str, tuple[str, ...]]:
    """Return the branches of each run, by its id."""
    found: dict[str, tuple[str, ...]] = {}
    for folder in folders:
        for layout in list_layouts(folder):
            record = read_record_or_none(layout.record, RunRecord)
            if record is not None and record.parent is not None:
                found[record.parent.run] = (*found.get(record.parent.run, ()), layout.run_id)
    return found
