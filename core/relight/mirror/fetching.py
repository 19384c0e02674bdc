"""Fetches the copy of a run into a runs folder: every byte is verified before the run appears there.

The files are downloaded into a hidden folder. If the connection breaks, the next attempt continues there. What comes
from elsewhere is not trusted: only names of a run's own files are written, links are not followed, and sizes are
bounded.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from relight.checkpoints.file_names import parse_label_name, parse_manifest_name
from relight.checkpoints.listing import newest_durable
from relight.checkpoints.manifest import Manifest, PackEntry, decode_manifest
from relight.checkpoints.quarantine import quarantine_checkpoint
from relight.checkpoints.store import CheckpointStore
from relight.checkpoints.store_format import make_folders
from relight.errors import DamagedCheckpoint, RelightError, RunBusy
from relight.mirror.address import MirrorAddress, is_run_id
from relight.mirror.connection import connect
from relight.mirror.mirrored_files import (
    LABELS,
    MANIFEST_BYTES,
    MANIFESTS,
    MOST_FILES,
    PACKS,
    RECORD,
    most_bytes,
    parse_start,
)
from relight.mirror.remote import RANGE_BYTES, MirrorError, NotThere, Remote, RemoteFile
from relight.mirror.report import set_mirror
from relight.regular_file import open_regular
from relight.runs.durable_file import make_folder, sync_folder, write_durably
from relight.runs.layout import RunLayout
from relight.runs.record_file import write_record
from relight.runs.records import MirrorState
from relight.runs.run_record import read_run_record
from relight.wording import count, describe_bytes, name_some

FETCHING = ".fetching-"
"""Begins the name of the hidden folder in which a run is put together."""
_TRIES = 3
"""How often the list of checkpoints is read when a running training removes some at the same time."""
_WRITING = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

OnProgress = Callable[[int, int], None]
"""Called with (bytes that are here, bytes in total)."""


class FetchedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was fetched. `notes` are sentences about checkpoints that are damaged there."""

    layout: RunLayout
    checkpoints: int
    bytes: int
    notes: tuple[str, ...] = ()


class CopyPosition(NamedTuple):
    """How far a copy elsewhere is: its newest attempt and checkpoint."""

    attempt: int
    sequence: int
    step: int


def fetch_run(address: MirrorAddress, run_id: str, runs: Path, *, on_progress: OnProgress | None = None) -> FetchedRun:
    """Fetch a run into the runs folder. It appears there when all is downloaded and verified, or not at all.

    `run_id` may be the beginning of an id that no other run there shares. The run's mirror is set to where it came
    from. Raises `RelightError` if there is no such run there, if the runs folder has it already, or if no checkpoint of
    it is intact; and `MirrorError` if the connection breaks: call again to continue.
    """
    with _explained(address.url):
        run_id = _find_run(address, run_id)
    layout = RunLayout(runs / run_id)
    if os.path.lexists(layout.folder):
        raise RelightError(f"Run {run_id!r} is already in {str(runs)!r}. Delete it there to fetch it again.")
    remote = connect(address, run_id)
    with _explained(address.of_run(run_id)):
        files = remote.list_files()
        _check_count(files)
        try:
            make_folder(runs)
            building = RunLayout(runs / f"{FETCHING}{run_id}")
            building.folder.mkdir(exist_ok=True)
            with _locked(building, run_id):
                fetched = _Fetch(remote, building, on_progress).run(files)
                set_mirror(building, address)
                _note_copied(building, address, files)
                (building.folder / "fetch.lock").unlink()
                sync_folder(building.folder)
                building.folder.rename(layout.folder)
                sync_folder(runs)
        except OSError as error:
            raise RelightError(
                f"Run {run_id!r} cannot be fetched to {str(runs)!r}: {error.strerror or error} ({error.filename})."
            ) from error
    return msgspec.structs.replace(fetched, layout=layout)


def find_or_fetch(
    address: MirrorAddress, run_id: str, runs: Path, *, on_progress: OnProgress | None = None
) -> FetchedRun | RunLayout:
    """Return the run of the runs folder if it is as far as its copy; fetch it if it is not there at all.

    So a script that resumes from a copy works on a fresh machine and on one that has the run. Raises `RelightError` if
    the copy is ahead: another machine has continued the run.
    """
    layout = RunLayout(runs / run_id)
    if not layout.is_run():
        return fetch_run(address, run_id, runs, on_progress=on_progress)
    position = _read_position(address, run_id)
    newest = newest_durable(layout.checkpoints)
    here = (layout.latest_attempt(), newest[0] if newest is not None else 0)
    if position is not None and (position.attempt > here[0] or position.sequence > here[1]):
        raise RelightError(
            f"The copy at {address.of_run(run_id)} is ahead of the run in {str(runs)!r}: attempt {position.attempt}, "
            f"step {position.step:,}. Delete the run here (relight delete {run_id}) and fetch that copy, or resume the "
            f"one here without it (relight resume {run_id})."
        )
    if not layout.mirror.exists():
        set_mirror(layout, address)
    return layout


def is_copied(address: MirrorAddress, run_id: str) -> bool:
    """Return whether the mirror has a run of that id. Raises `MirrorError` if it cannot be asked."""
    return _read_position(address, run_id) is not None


def _read_position(address: MirrorAddress, run_id: str) -> CopyPosition | None:
    with _explained(address.of_run(run_id)):
        files = connect(address, run_id).list_files()
    if RECORD not in files:
        return None
    attempts = [number for path in files if (number := parse_start(path)) is not None]
    names = (parse_manifest_name(path.removeprefix(f"{MANIFESTS}/")) for path in files if path.startswith(MANIFESTS))
    newest = max(filter(None, names), default=None)
    return CopyPosition(
        attempt=max(attempts, default=0),
        sequence=newest.sequence if newest is not None else 0,
        step=newest.step if newest is not None else 0,
    )


class _Fetch:
    """One attempt to put a run together in its hidden folder."""

    def __init__(self, remote: Remote, building: RunLayout, on_progress: OnProgress | None) -> None:
        self._remote = remote
        self._building = building
        self._store = CheckpointStore(building.checkpoints)
        self._on_progress = on_progress
        self._notes: list[str] = []
        self._here = 0
        self._total = 0

    def run(self, files: dict[str, RemoteFile]) -> FetchedRun:
        for folder in (self._building.attempts, self._building.metrics):
            folder.mkdir(exist_ok=True)
        self._building.lock.touch()
        make_folders(self._store.layout, self._store.operations)
        manifests = self._fetch_checkpoints(files)
        files = self._remote.list_files()  # the records may be newer than the checkpoints, never older
        _check_count(files)
        for path, file in sorted(files.items()):
            self._fetch_small(path, file, manifests)
        read_run_record(self._building)
        self._verify()
        infos, notes = self._store.list().checkpoints, self._notes
        if notes and not infos:
            raise RelightError(f"No checkpoint of this copy is intact. {' '.join(notes)}")
        return FetchedRun(
            layout=self._building, checkpoints=len(infos), bytes=sum(info.bytes for info in infos), notes=tuple(notes)
        )

    def _fetch_checkpoints(self, files: dict[str, RemoteFile]) -> list[Manifest]:
        """Download all checkpoints, the newest first."""
        for attempt in range(_TRIES):
            try:
                return self._fetch_listed(files if attempt == 0 else self._remote.list_files())
            except NotThere:
                continue  # its training is running, and has just replaced one
        return self._fetch_listed(self._remote.list_files())

    def _fetch_listed(self, files: dict[str, RemoteFile]) -> list[Manifest]:
        manifests: list[tuple[str, bytes]] = []
        decoded: list[Manifest] = []
        self._notes.clear()
        for path in sorted((path for path in files if path.startswith(f"{MANIFESTS}/")), reverse=True):
            if most_bytes(path) is None:
                continue
            data = self._remote.read(path, most_bytes=MANIFEST_BYTES)
            try:
                decoded.append(decode_manifest(data, file_name=path.rpartition("/")[2]))
                manifests.append((path, data))
            except DamagedCheckpoint as error:
                self._notes.append(f"A checkpoint was left out: {error}")
        self._forget_others(decoded)
        packs = {pack.file: pack for manifest in decoded for pack in manifest.packs}
        self._total = sum(pack.bytes for pack in packs.values())
        self._here = 0
        self._check_space(packs.values(), files)
        for pack in packs.values():
            self._fetch_pack(pack, files.get(f"{PACKS}/{pack.file}"))
        for path, data in manifests:
            write_durably(self._building.folder / path, data)
        return decoded

    def _fetch_pack(self, pack: PackEntry, there: RemoteFile | None) -> None:
        """Download a pack, from where an earlier attempt stopped."""
        if there is None:
            raise NotThere(f"Pack {pack.file} is missing there.")
        path = self._store.layout.packs / pack.file
        part = self._store.layout.temporary / pack.file
        if path.is_file() and not path.is_symlink() and path.stat().st_size == pack.bytes:
            self._note(pack.bytes)
            return
        if there.bytes != pack.bytes:
            raise MirrorError(f"Pack {pack.file} has {there.bytes:,} bytes there instead of {pack.bytes:,}.")
        descriptor = open_regular(part, flags=_WRITING)
        try:
            begin = min(os.fstat(descriptor).st_size, pack.bytes)
            os.ftruncate(descriptor, begin)
            self._note(begin)
            while begin < pack.bytes:
                data = self._remote.read_range(f"{PACKS}/{pack.file}", begin, min(RANGE_BYTES, pack.bytes - begin))
                if not data:
                    raise MirrorError(f"Pack {pack.file} ends at {begin:,} bytes there instead of {pack.bytes:,}.")
                view = memoryview(data)
                while view:
                    written = os.pwrite(descriptor, view, begin)
                    begin += written
                    view = view[written:]
                self._note(len(data))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.replace(path)
        sync_folder(path.parent)

    def _fetch_small(self, path: str, file: RemoteFile, manifests: list[Manifest]) -> None:
        limit = most_bytes(path)
        folder, _, name = path.rpartition("/")
        if limit is None or folder in (PACKS, MANIFESTS):
            return
        if folder == LABELS:
            label = parse_label_name(name)
            if label is None or label[0] not in {manifest.checkpoint_name for manifest in manifests}:
                return
        target = self._building.folder / path
        try:
            data = self._remote.read(path, most_bytes=limit) if file.bytes else b""
        except NotThere:
            return
        if folder not in (LABELS, ""):
            target.parent.mkdir(parents=True, exist_ok=True)
        write_durably(target, data)
        # A training that is running elsewhere counts as running as long as its files change.
        os.utime(target, (file.modified_s, file.modified_s))

    def _verify(self) -> None:
        """Read every byte back. A damaged checkpoint goes to quarantine."""
        for info in self._store.list().checkpoints:
            damaged = self._store.check(info, from_disk=True)
            if not damaged:
                self._store.mark_verified(info)
                continue
            self._notes.append(f"The checkpoint at step {info.step} was left out: {damaged[0].reason}")
            quarantine_checkpoint(self._store, info.name)

    def _forget_others(self, wanted: list[Manifest]) -> None:
        """Remove what an earlier attempt fetched and the copy no longer has."""
        layout = self._store.layout
        manifests = {manifest.checkpoint_name.manifest for manifest in wanted}
        packs = {pack.file for manifest in wanted for pack in manifest.packs}
        for folder, keep in ((layout.manifests, manifests), (layout.packs, packs), (layout.temporary, packs)):
            for path in folder.iterdir():
                if path.name not in keep:
                    path.unlink()

    def _check_space(self, packs: Iterable[PackEntry], files: dict[str, RemoteFile]) -> None:
        layout = self._store.layout
        here = {path.name for folder in (layout.packs, layout.temporary) for path in folder.iterdir()}
        missing = sum(pack.bytes for pack in packs if pack.file not in here)
        missing += sum(
            file.bytes for path, file in files.items()
            if most_bytes(path) is not None and not path.startswith(f"{PACKS}/")
        )  # fmt: skip
        free = self._store.operations.free_bytes(layout.folder)
        if missing > free:
            raise RelightError(
                f"The disk has too little space: {describe_bytes(missing)} needed, {describe_bytes(free)} free at "
                f"{str(self._building.folder.parent)!r}."
            )

    def _note(self, new_bytes: int) -> None:
        self._here += new_bytes
        if self._on_progress is not None:
            self._on_progress(self._here, self._total)


def _find_run(address: MirrorAddress, wanted: str) -> str:
    there = [name for name in connect(address).list_folders() if is_run_id(name)]
    matches = [name for name in there if name == wanted] or [name for name in there if name.startswith(wanted)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RelightError(
            f"{wanted!r} could be several runs at {address.url}: {name_some(matches)}. Give the full id."
        )
    runs = f"There are: {name_some(there)}." if there else "There are no runs."
    raise RelightError(f"There is no run {wanted!r} at {address.url}. {runs}")


def _check_count(files: dict[str, RemoteFile]) -> None:
    if len(files) > MOST_FILES:
        raise RelightError(f"The copy has {count(len(files), 'file')}, more than a run has. It was not fetched.")


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except MirrorError as error:
        raise type(error)(f"{url} cannot be read: {error}") from error
    except DamagedCheckpoint as error:
        raise RelightError(f"The copy at {url} is damaged: {error}") from error


def _note_copied(building: RunLayout, address: MirrorAddress, files: dict[str, RemoteFile]) -> None:
    """Record that what was fetched is there."""
    infos = CheckpointStore(building.checkpoints).list().checkpoints
    newest = infos[-1] if infos else None
    there = files.get(f"{MANIFESTS}/{newest.path.name}") if newest is not None else None
    state = MirrorState(
        url=address.url,
        time_s=time.time(),
        copied_sequence=newest.sequence if newest is not None else None,
        copied_step=newest.step if newest is not None else None,
        copied_s=there.modified_s if there is not None else None,
        checkpoints=len(infos),
    )
    write_record(building.mirror_state, state)


@contextmanager
def _locked(building: RunLayout, run_id: str) -> Iterator[None]:
    descriptor = open_regular(building.folder / "fetch.lock", flags=_WRITING)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunBusy(f"Run {run_id!r} is being fetched by another process already.") from None
    else:
        yield
    finally:
        os.close(descriptor)
