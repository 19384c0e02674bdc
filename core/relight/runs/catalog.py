"""The runs folder: where it is, which runs it holds, and how a run is created and found."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from relight.errors import ConfigError, RelightError, RunNotFound, UsageError
from relight.runs.about import clean_name, read_about
from relight.runs.durable_file import make_folder, sync_folder
from relight.runs.ids import new_run_ids
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record_or_none, write_record
from relight.runs.records import Home, ImportedFrom, Parent, PreparedTask, RunRecord
from relight.version import __version__

RUNS_VARIABLE = "RELIGHT_RUNS"
TRASH = ".trash"
"""Folder of the deleted runs in the runs folder, each named `<run>@<time>`; see `runs.trash`."""
_UNFINISHED = ".creating-"
_UNFINISHED_KEPT_S = 3600.0


Fill = Callable[[RunLayout], ImportedFrom]
"""Puts files into the folder of a run before the run appears, and returns where they came from."""


class CreatedRun(NamedTuple):
    """A run. `created` is False when an earlier call with the same token created it."""

    layout: RunLayout
    created: bool


def runs_folder(given: Path | str | None = None, *, start: str | None = None) -> Path:
    """Return the absolute path of the runs folder: `given`, else RELIGHT_RUNS, else ./runs. It need not exist.

    A relative path starts at `start`, by default at the current folder.
    """
    chosen = given or os.environ.get(RUNS_VARIABLE) or "runs"
    if "\0" in str(chosen):
        raise UsageError(f"{str(chosen)!r} is not a valid folder name.")
    return Path(start or Path.cwd(), Path(chosen).expanduser())


def create_run(
    folder: Path,
    prepared: PreparedTask,
    *,
    name: str | None = None,
    token: str | None = None,
    run_id: str | None = None,
    parent: Parent | None = None,
    fill: Fill | None = None,
) -> CreatedRun:
    """Create a run's folder: complete and durable, or not at all.

    It is built under a hidden name and renamed, so no process ever sees half a run. If an earlier call used the same
    `token`, even at the same moment in another process, that call's run is returned. `run_id` is the run's id instead
    of one made from its name, and its token, too. `fill` puts files into the folder before the run appears; when it
    raises, no run is created. Raises `RelightError` when the runs folder cannot be written, and `ConfigError` for a
    config that JSON cannot represent; nothing is left behind then.
    """
    name = clean_name(name) or prepared.reference.name
    _check_config(prepared.config)
    record = RunRecord(
        run="",
        name=name,
        created_s=time.time(),
        task=prepared.reference,
        config=prepared.config,
        best_metric=prepared.objective.metric,
        higher_is_better=prepared.objective.higher_is_better,
        direction_guessed=prepared.objective.guessed,
        parent=parent,
        token=run_id or token,
        relight=__version__,
    )
    try:
        make_folder(folder)
        record = msgspec.structs.replace(record, home=find_home(folder))
        ids = new_run_ids(record.name, token=record.token) if run_id is None else iter([run_id])
        return _create(folder, record, ids, fill)
    except OSError as error:
        _refuse(folder, error)


def find_home(folder: Path) -> Home:
    """Return what identifies a runs folder that exists: its path and its inode."""
    return Home(path=os.path.realpath(folder), inode=folder.stat().st_ino)


def list_layouts(folder: Path) -> list[RunLayout]:
    """Return every run in `folder` by id, damaged ones included. Other files and folders are skipped.

    So are folders that this user may not enter, such as `lost+found`. A missing folder holds no runs. Raises
    `RelightError` for one that cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name[0] != "." and _is_folder(entry))
    except FileNotFoundError as error:
        dangling = _find_dangling_link(folder)
        if dangling is None:
            return []
        raise RelightError(f"{dangling}. Choose another with --runs or {RUNS_VARIABLE}.") from error
    except OSError as error:
        raise RelightError(
            f"The runs folder {str(folder)!r} cannot be read: {error.strerror or error}. "
            f"Choose another with --runs or {RUNS_VARIABLE}."
        ) from error
    layouts = (RunLayout(folder / name) for name in names)
    return [layout for layout in layouts if layout.is_run()]


def find_run(folder: Path, wanted: str) -> RunLayout:
    """Return the run with that id, else the only one with that name, else the only one whose id begins with it.

    Raises `RunNotFound`, which names the closest match, or all matches when there are several.
    """
    layouts = list_layouts(folder)
    for layout in layouts:
        if layout.run_id == wanted:
            return layout
    names = dict(_names_of(layouts))
    matches = [layout for layout in layouts if names.get(layout.run_id) == wanted]
    if not matches and wanted:
        matches = [layout for layout in layouts if layout.run_id.startswith(wanted)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        several = ", ".join(layout.run_id for layout in matches[:10]) + (", …" if len(matches) > 10 else "")
        raise RunNotFound(f"{wanted!r} could be {len(matches)} runs: {several}. Give the full id.")
    raise RunNotFound(_not_found(folder, wanted, names))


def _find_dangling_link(folder: Path) -> str | None:
    """Say which part of the path is a link that leads nowhere; None when none is."""
    for path in (folder, *folder.parents):
        if os.path.islink(path) and not os.path.exists(path):  # noqa: PTH110, PTH114  they never raise
            return f"{str(path)!r} is a link to a folder that is missing"
    return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _create(folder: Path, record: RunRecord, ids: Iterator[str], fill: Fill | None) -> CreatedRun:
    if record.token is not None:
        earlier = _run_with_token(folder, record.token)
        if earlier is not None:
            return CreatedRun(earlier, False)
    _remove_unfinished(folder)
    building = RunLayout(folder / f"{_UNFINISHED}{os.getpid()}-{secrets.token_hex(6)}")
    try:
        building.folder.mkdir()
        for part in (building.attempts, building.metrics):
            part.mkdir()
        building.lock.touch()
        if fill is not None:
            record = msgspec.structs.replace(record, imported_from=fill(building))
        for run_id in ids:
            layout = RunLayout(folder / run_id)
            write_record(building.record, msgspec.structs.replace(record, run=run_id))
            try:
                building.folder.rename(layout.folder)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise
                if record.token is not None and _has_token(layout, record.token):
                    return CreatedRun(layout, False)
                continue  # that id is taken by another run
            sync_folder(folder)
            return CreatedRun(layout, True)
    finally:
        shutil.rmtree(building.folder, ignore_errors=True)
    raise RelightError(f"No free id for {record.name!r} in {str(folder)!r}. Choose another name with --name.")


def _check_config(value: Any, key: str = "") -> None:
    """Refuse infinities and NaN: JSON would turn them into null, and a resume would train with that."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key} = {value} cannot be stored in a run's config. Use a finite number.")
    if isinstance(value, Mapping):
        for inner, item in value.items():
            _check_config(item, f"{key}.{inner}" if key else str(inner))
    elif isinstance(value, list | tuple):
        for item in value:
            _check_config(item, key)


def _run_with_token(folder: Path, token: str) -> RunLayout | None:
    endings = tuple(run_id[1:] for run_id in new_run_ids("-", token=token))
    endings = tuple("-" + ending.rpartition("-")[2] for ending in endings)
    for layout in list_layouts(folder):
        if layout.run_id.endswith(endings) and _has_token(layout, token):
            return layout
    return None


def _has_token(layout: RunLayout, token: str) -> bool:
    record = read_record_or_none(layout.record, RunRecord)
    return record is not None and record.token == token


def _remove_unfinished(folder: Path) -> None:
    """Remove the hidden folders of launchers that were killed while creating a run, once they are an hour old."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _UNFINISHED_KEPT_S:
                shutil.rmtree(path, ignore_errors=True)


def _refuse(folder: Path, error: OSError) -> NoReturn:
    why = _find_dangling_link(folder) or error.strerror or error
    raise RelightError(
        f"No run can be created in {str(folder)!r}: {why}. Choose another folder with --runs or {RUNS_VARIABLE}."
    ) from error


def _names_of(layouts: list[RunLayout]) -> Iterator[tuple[str, str]]:
    for layout in layouts:
        record = read_record_or_none(layout.record, RunRecord)
        name = read_about(layout).about.name
        yield layout.run_id, name or (layout.run_id if record is None else record.name)


def _not_found(folder: Path, wanted: str, names: Mapping[str, str]) -> str:
    import difflib

    if _is_in_trash(folder, wanted):
        return f"Run {wanted!r} is in the trash of {str(folder)!r}. Restore it with: relight restore {wanted}"
    if not names:
        return f"There is no run {wanted!r}: {str(folder)!r} has no runs. Choose another folder with --runs."
    near = difflib.get_close_matches(wanted, [*names, *names.values()], n=1)
    hint = f"Did you mean {near[0]!r}?" if near else "To see all runs: relight list."
    return f"There is no run {wanted!r} in {str(folder)!r}. {hint}"


def _is_in_trash(folder: Path, run_id: str) -> bool:
    try:
        return any(name.rpartition("@")[0] == run_id for name in os.listdir(folder / TRASH))  # noqa: PTH208
    except OSError:
        return False
