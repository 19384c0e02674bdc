"""Copies a run's checkpoints elsewhere: packs first, then records and curves, and the manifest last.

    pack -> records, logs, metrics -> manifest (create only) -> retention there: manifest, then its packs

When a manifest is there, everything that belongs to it is there. Nothing of a checkpoint is ever overwritten.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from relight.checkpoints.file_names import (
    CheckpointName,
    label_file_name,
    parse_label_name,
    parse_manifest_name,
    parse_pack_name,
)
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.manifest import Manifest, ManifestHead, PackEntry, decode_head, decode_manifest
from relight.checkpoints.retention import KEEPING_LABELS, BestRule, RetentionPolicy, plan_retention
from relight.checkpoints.snapshot_header import facts_of
from relight.checkpoints.store import CheckpointStore
from relight.errors import DamagedCheckpoint, DamagedFile
from relight.mirror.local_files import FileMark, LocalFile, OnSent, SourceGone, mark_file
from relight.mirror.mirrored_files import (
    LABELS,
    MANIFEST_BYTES,
    MANIFESTS,
    PACKS,
    RECORD,
    attempt_of,
    attempt_path,
    list_files,
    most_bytes,
    parse_start,
)
from relight.mirror.pack_check import PackCheck
from relight.mirror.remote import AlreadyThere, MirrorRefused, Remote, RemoteFile, probe
from relight.regular_file import SMALL_BYTES
from relight.runs.layout import RunLayout
from relight.runs.run_record import read_run_record

NEWEST = 2
"""How many of the newest checkpoints are kept there, besides the best one and those that are pinned."""
_CLOCKS_DIFFER_S = 60.0
"""How much the clock of the other place may be behind before a changed file counts as copied."""


@dataclass(frozen=True)
class Waiting:
    """What is not there yet, although it should be."""

    checkpoints: tuple[CheckpointInfo, ...] = ()
    """Newest first: after an outage, the newest one matters most."""
    bytes: int = 0


@dataclass
class _Known:
    """What is there, as far as this process knows: no other one changes it."""

    manifests: dict[CheckpointName, CheckpointInfo] = field(default_factory=dict)
    copied_s: dict[CheckpointName, float] = field(default_factory=dict)
    packs: dict[str, int] = field(default_factory=dict)
    labels: set[str] = field(default_factory=set)
    files: dict[str, FileMark] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)
    """Files that were written once and are equal here and there: run.json and the start records."""


class Copier:
    """Copies one run to one place. Only one process may do so for a run at a time."""

    def __init__(self, layout: RunLayout, remote: Remote, *, on_sent: OnSent, url: str) -> None:
        self._layout = layout
        self._remote = remote
        self._on_sent = on_sent
        self._url = url
        self._store = CheckpointStore(layout.checkpoints)
        self._known: _Known | None = None
        self._damaged: dict[CheckpointName, str] = {}

    @property
    def is_connected(self) -> bool:
        """Whether it is known what is there."""
        return self._known is not None

    @property
    def newest(self) -> tuple[CheckpointInfo, float] | None:
        """The newest checkpoint there, and when it was complete there."""
        if self._known is None or not self._known.manifests:
            return None
        name = max(self._known.manifests)
        return self._known.manifests[name], self._known.copied_s[name]

    @property
    def count(self) -> int:
        """How many checkpoints are there."""
        return len(self._known.manifests) if self._known is not None else 0

    @property
    def damage(self) -> str | None:
        """A sentence about the newest checkpoint that cannot be copied because it is damaged here."""
        return self._damaged[max(self._damaged)] if self._damaged else None

    def disconnect(self) -> None:
        """Forget what is there: after a failure that is no longer certain."""
        self._known = None

    def connect(self) -> None:
        """Probe the place and learn what is there. Raises `MirrorError`, and `MirrorRefused` if it may not be used."""
        probe(self._remote)
        known = _Known()
        there = self._remote.list_files()
        self._refuse_other_run(known, there)
        for path, file in there.items():
            folder, _, name = path.rpartition("/")
            if folder == PACKS and most_bytes(path) is not None:
                known.packs[name] = file.bytes
            elif folder == LABELS and most_bytes(path) is not None:
                known.labels.add(name)
            elif folder == MANIFESTS and most_bytes(path) is not None:
                self._read_manifest(known, path, file)
            elif most_bytes(path) is not None and self._is_copied(path, file):
                mark = mark_file(self._layout.folder / path)
                if mark is not None:
                    known.files[path] = mark
        self._known = known

    def find_waiting(self, *, ended: bool) -> Waiting:
        """Return what is missing there: all, without a connection. Only what is verified, until the run has `ended`."""
        known = self._known or _Known()
        local = [
            info
            for info in self._store.list().checkpoints
            if (info.verified or ended) and info.name not in self._damaged and info.name not in known.manifests
        ]
        keep = plan_retention(self._with_labels([*known.manifests.values(), *local]), self._policy()).kept
        wanted = {info.name for info, _ in keep}
        waiting = tuple(info for info in reversed(local) if info.name in wanted)
        missing = {pack for info in waiting for pack in info.packs if pack not in known.packs}
        sizes = self._store.operations.file_sizes(self._store.layout.packs) if missing else {}
        return Waiting(waiting, sum(sizes.get(pack, 0) for pack in missing))

    def claim(self) -> None:
        """Take the run and its attempts there, once. Raises `MirrorRefused` if another machine has done so."""
        known = self._require_known()
        numbers = self._layout.list_attempts()
        for path in (RECORD, *(attempt_path(number) for number in numbers)):
            if path in known.claimed:
                continue
            try:
                with LocalFile(self._layout.folder / path) as file:
                    data = b"".join(file.read(self._on_sent))
            except SourceGone:
                continue
            try:
                self._remote.create(path, data)
            except AlreadyThere:
                if self._remote.read(path, most_bytes=SMALL_BYTES) != data:
                    raise self._refusal(path) from None
            known.claimed.add(path)

    def copy(self, info: CheckpointInfo) -> None:
        """Copy a checkpoint, unless it is damaged or no longer here. Raises `MirrorError` and `MirrorRefused`."""
        known = self._require_known()
        try:
            with LocalFile(info.path) as file:
                data = b"".join(file.read(self._on_sent))
            manifest = decode_manifest(data, file_name=info.path.name)
            for pack in manifest.packs:
                if known.packs.get(pack.file) != pack.bytes:
                    self._put_pack(manifest, pack)
                    known.packs[pack.file] = pack.bytes
        except (DamagedCheckpoint, SourceGone) as error:
            # The retention deletes the manifest first: if that is still here, the rest should be.
            if self._store.operations.exists(info.path):
                self._damaged[info.name] = f"The checkpoint at step {info.step} was not copied: {error}"
            return
        self.copy_files()
        self._refuse_another_line(info)
        self._put_manifest(info, data)
        known.manifests[info.name] = replace(info, verified=True)
        known.copied_s[info.name] = time.time()

    def copy_files(self) -> None:
        """Copy the records, logs, metrics and labels that have changed since the last time."""
        known = self._require_known()
        for path in list_files(self._layout):
            mark = mark_file(self._layout.folder / path)
            limit = most_bytes(path)
            if path in known.claimed or mark is None or mark == known.files.get(path) or limit is None:
                continue
            try:
                with LocalFile(self._layout.folder / path) as file:
                    if path.endswith(".txt"):
                        file.keep_end()
                    if file.size_bytes <= limit:
                        self._remote.put(path, file.read(self._on_sent), file.size_bytes)
            except SourceGone:
                continue
            known.files[path] = mark
        labels = {
            name
            for name in self._list_labels()
            if (parsed := parse_label_name(name)) is not None and parsed[1] in KEEPING_LABELS
        }
        for name in sorted(labels - known.labels):
            self._remote.put(f"{LABELS}/{name}", (), 0)
            known.labels.add(name)
        for name in sorted(known.labels - labels):
            parsed = parse_label_name(name)
            if parsed is not None and self._store.operations.exists(self._store.layout.manifests / parsed[0].manifest):
                self._remote.delete(f"{LABELS}/{name}")
                known.labels.discard(name)

    def retain(self, waiting: Waiting) -> None:
        """Delete what the rule there no longer keeps: the manifest first, then the packs that no other one names.

        So go packs that a broken attempt left behind, but not those of `waiting`, nor newer ones than the newest
        checkpoint there.
        """
        known = self._require_known()
        for info in plan_retention(self._with_labels(list(known.manifests.values())), self._policy()).removed:
            self._remote.delete(f"{MANIFESTS}/{info.name.manifest}")
            del known.manifests[info.name]
            for name in [label_file_name(info.name.stem, label) for label in KEEPING_LABELS]:
                if name in known.labels:
                    self._remote.delete(f"{LABELS}/{name}")
                    known.labels.discard(name)
        named = {pack for info in (*known.manifests.values(), *waiting.checkpoints) for pack in info.packs}
        newest = max((name.sequence for name in known.manifests), default=0)
        for file_name in sorted(known.packs.keys() - named):
            pack = parse_pack_name(file_name)
            if pack is not None and pack.sequence <= newest:
                self._remote.delete(f"{PACKS}/{file_name}")
                del known.packs[file_name]

    def _require_known(self) -> _Known:
        assert self._known is not None, "connect first"
        return self._known

    def _policy(self) -> RetentionPolicy:
        try:
            objective = read_run_record(self._layout).objective
        except DamagedFile:
            return RetentionPolicy(newest=NEWEST)
        return RetentionPolicy(newest=NEWEST, best=(BestRule(higher_is_better=objective.higher_is_better),))

    def _with_labels(self, infos: Sequence[CheckpointInfo]) -> list[CheckpointInfo]:
        """Return the checkpoints with their labels here. What is sent is verified on the way."""
        labels: dict[CheckpointName, tuple[str, ...]] = {}
        for name in (*self._list_labels(), *(self._known.labels if self._known is not None else ())):
            parsed = parse_label_name(name)
            if parsed is not None and parsed[1] in KEEPING_LABELS:
                labels[parsed[0]] = tuple({*labels.get(parsed[0], ()), parsed[1]})
        return [replace(info, verified=True, labels=labels.get(info.name, ())) for info in infos]

    def _list_labels(self) -> list[str]:
        return self._store.operations.list_folder(self._store.layout.labels)

    def _put_pack(self, manifest: Manifest, pack: PackEntry) -> None:
        with LocalFile(self._store.layout.packs / pack.file) as file:
            if file.size_bytes != pack.bytes:
                raise DamagedCheckpoint(f"Pack {pack.file} has {file.size_bytes:,} bytes instead of {pack.bytes:,}.")
            self._remote.put(f"{PACKS}/{pack.file}", self._checked(file, PackCheck(manifest, pack)), pack.bytes)

    def _checked(self, file: LocalFile, check: PackCheck) -> Iterator[bytes]:
        for chunk in file.read(self._on_sent):
            check.add(chunk)
            yield chunk
        check.finish()

    def _put_manifest(self, info: CheckpointInfo, data: bytes) -> None:
        path = f"{MANIFESTS}/{info.name.manifest}"
        try:
            self._remote.create(path, data)
        except AlreadyThere:
            # The answer to an earlier attempt may have been lost.
            if self._remote.read(path, most_bytes=MANIFEST_BYTES) != data:
                raise self._refusal(path) from None

    def _read_manifest(self, known: _Known, path: str, file: RemoteFile) -> None:
        name = path.rpartition("/")[2]
        data = self._remote.read(path, most_bytes=MANIFEST_BYTES)
        try:
            head = decode_head(data, file_name=name)
        except DamagedCheckpoint as error:
            raise MirrorRefused(
                f"The copy at {self._url} has a damaged manifest: {error} Move {path} away there, then try again."
            ) from error
        here = self._store.layout.manifests / name
        if mark_file(here) is not None:
            with LocalFile(here) as local:
                if b"".join(local.read(self._on_sent)) != data:
                    raise self._refusal(path)
        known.manifests[head.checkpoint_name] = _describe(head)
        known.copied_s[head.checkpoint_name] = file.modified_s

    def _is_copied(self, path: str, file: RemoteFile) -> bool:
        """Return whether a file of an earlier attempt has certainly not changed since it was copied."""
        mark = mark_file(self._layout.folder / path)
        return (
            mark is not None
            and attempt_of(path) is not None
            and mark.bytes == file.bytes
            and file.modified_s > mark.mtime_ns / 1e9 + _CLOCKS_DIFFER_S
        )

    def _refuse_other_run(self, known: _Known, there: dict[str, RemoteFile]) -> None:
        """Raise unless what is there comes from this run's folder, as it is or as it was."""
        latest = self._layout.latest_attempt()
        starts = {number: path for path in there if (number := parse_start(path)) is not None}
        newest = max(starts, default=0)
        if newest > latest:
            raise self._refusal(starts[newest])
        # No two attempts have the same start record, so equal newest ones have the same history.
        for path in filter(there.__contains__, (RECORD, starts.get(newest, RECORD))):
            try:
                with LocalFile(self._layout.folder / path) as file:
                    same = b"".join(file.read(self._on_sent)) == self._remote.read(path, most_bytes=SMALL_BYTES)
            except SourceGone:
                same = False
            if not same:
                raise self._refusal(path)
            known.claimed.add(path)
        known.claimed.update(starts.values())

    def _refuse_another_line(self, info: CheckpointInfo) -> None:
        """Raise if another machine has begun an attempt or made a checkpoint since: asked just before each commit.

        In one line of attempts a later checkpoint has a later or the same attempt, and no number is used twice.
        """
        known = self._require_known()
        latest = self._layout.latest_attempt()
        for path in self._remote.list_files("attempts"):
            if (parse_start(path) or 0) > latest:
                raise self._refusal(path)
        for path in self._remote.list_files(MANIFESTS):
            name = parse_manifest_name(path.rpartition("/")[2])
            if name is None or name == info.name:
                continue
            other = known.manifests.get(name)
            if (
                other is None
                or name.sequence == info.sequence
                or ((name.sequence < info.sequence) == (other.attempt > info.attempt) and other.attempt != info.attempt)
            ):
                raise self._refusal(path)

    def _refusal(self, path: str) -> MirrorRefused:
        number = parse_start(path)
        if path == RECORD:
            what = "has another run with the same id"
        elif number is not None:
            what = f"has another attempt {number}: the run was continued elsewhere, from that copy"
        else:
            what = (
                f"has a checkpoint that this run does not have ({path.rpartition('/')[2]}): it was continued elsewhere"
            )
        return MirrorRefused(
            f"The copy at {self._url} {what}. Nothing was overwritten. To keep both, copy this one to another place: "
            f"relight mirror {self._layout.run_id} URL"
        )


def _describe(head: ManifestHead) -> CheckpointInfo:
    """Describe a checkpoint of the copy by its manifest; it has no path here."""
    name = head.checkpoint_name
    return CheckpointInfo(
        **facts_of(head),
        name=name,
        path=Path(name.manifest),
        metrics=head.read_metrics(),
        bytes=head.tensor_bytes,
        new_bytes=0,
        packs=tuple(pack.file for pack in head.packs),
        verified=True,
    )
