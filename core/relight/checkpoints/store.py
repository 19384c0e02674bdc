"""The checkpoint store of one run: list, find, commit, open, check and label checkpoints."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from relight.checkpoints import labels
from relight.checkpoints.arrival import Arrival
from relight.checkpoints.atomic_file import remove_if_possible
from relight.checkpoints.checkpoint_reader import CheckpointReader
from relight.checkpoints.commit import commit_manifest, explain_failure
from relight.checkpoints.digest import state_digest
from relight.checkpoints.encoded_snapshot import EncodedSnapshot, encode_snapshot
from relight.checkpoints.file_names import (
    CheckpointName,
    StoreLayout,
    parse_label_name,
    parse_manifest_name,
    parse_pack_name,
)
from relight.checkpoints.file_operations import SYSTEM, UNREADABLE, FileIdentity, FileOperations
from relight.checkpoints.listing import (
    BEST,
    CheckpointInfo,
    CheckpointListing,
    DamagedEntry,
    find_best,
    with_best_label,
)
from relight.checkpoints.manifest import (
    LaterVersion,
    Manifest,
    ManifestHead,
    PackEntry,
    decode_head,
    decode_manifest,
)
from relight.checkpoints.pack_writer import Target, discard_pack, write_pack
from relight.checkpoints.receipt import Receipt
from relight.checkpoints.receipt_exchange import IsAlone, collect_receipts, hand_over, remove_receipts
from relight.checkpoints.retention import PINNED
from relight.checkpoints.snapshot_header import SnapshotHeader, facts_of
from relight.checkpoints.store_format import make_folders, refuse_later_format
from relight.errors import CheckpointNotFound, DamagedCheckpoint, SaveError
from relight.runs.records import Objective


class CheckpointStore:
    """The store in one folder. `commit` creates the folder.

    Any number of processes may read; only the process that holds the run's lock writes. Every answer comes from what is
    on the disk at that moment; only decoded manifests are cached between calls.
    """

    def __init__(self, folder: Path, *, operations: FileOperations = SYSTEM) -> None:
        self.layout = StoreLayout(folder)
        self.operations = operations
        self._heads: dict[str, tuple[FileIdentity, ManifestHead | DamagedCheckpoint]] = {}
        self._newest: tuple[FileIdentity, Manifest] | None = None
        self._format: FileIdentity | None = None
        self._handed = 0
        """The sequence number of the last receipt that this writer, of a rank above 0, has handed over."""
        self._unhanded: tuple[CheckpointName, Receipt] | None = None
        """A pack that is durable, and whose receipt could not be written yet."""
        self._guard = threading.Lock()

    def list(self, *, higher_is_better: bool | None = None) -> CheckpointListing:
        """List everything in the store. With `higher_is_better` the best checkpoint has the label `best`."""
        checkpoints: list[CheckpointInfo] = []
        damaged: list[DamagedEntry] = []
        # In this order nothing that a writer adds or removes at the same time looks like damage: it adds a pack before
        # its manifest, and removes it after.
        names = self.manifest_names()
        sizes = self.operations.file_sizes(self.layout.packs)
        labeled = labels.read(self.layout, self.operations)
        for name in names:
            path = self.layout.manifests / name.manifest
            try:
                head, size = self._read_head(path)
            except FileNotFoundError:
                continue
            except DamagedCheckpoint as error:
                damaged.append(DamagedEntry(path, str(error), isinstance(error, LaterVersion)))
                continue
            problem = _find_pack_problem(head, sizes)
            if problem is not None:
                damaged.append(DamagedEntry(path, problem))
                continue
            checkpoints.append(_describe(head, path, size, labeled.get(name, frozenset())))
        with self._guard:
            there = {name.manifest for name in names}
            self._heads = {file_name: head for file_name, head in self._heads.items() if file_name in there}
        if higher_is_better is not None:
            checkpoints = with_best_label(checkpoints, higher_is_better=higher_is_better)
        return CheckpointListing(checkpoints, damaged)

    def find(self, which: str | int, *, objective: Objective | None = None) -> CheckpointInfo:
        """Return the checkpoint "latest", "best" or at a step. `CheckpointNotFound` says what exists instead."""
        checkpoints = self.list().checkpoints
        if not checkpoints:
            raise CheckpointNotFound(f"There is no checkpoint in {self.layout.folder} yet.")
        if which == "latest":
            return checkpoints[-1]
        if which == BEST:
            objective = objective or Objective()
            best = find_best(checkpoints, higher_is_better=objective.higher_is_better)
            if best is None:
                measured = f"'{objective.metric}' was" if objective.metric else "the best metric was"
                raise CheckpointNotFound(
                    f"There is no best checkpoint: {measured} not measured at any of them. Use 'latest'."
                )
            return replace(best, labels=(BEST, *best.labels))
        step = which if isinstance(which, int) else int(which) if which.isdecimal() else None
        found = [info for info in checkpoints if info.step == step]
        if not found:
            steps = sorted({info.step for info in checkpoints})
            there = ", ".join(map(str, steps if len(steps) <= 12 else [*steps[:3], "...", *steps[-8:]]))
            wanted = f"'{which}': name latest, best or a step" if step is None else f"at step {step}"
            raise CheckpointNotFound(f"There is no checkpoint {wanted}. Steps with a checkpoint: {there}.")
        return found[-1]

    def find_sequence(self, sequence: int) -> CheckpointInfo:
        """Return the checkpoint with that sequence number; `CheckpointNotFound` when it no longer exists."""
        for info in self.list().checkpoints:
            if info.sequence == sequence:
                return info
        raise CheckpointNotFound(
            f"Checkpoint {sequence} in {self.layout.folder} no longer exists. Resume from another one."
        )

    def commit(
        self,
        header: SnapshotHeader | EncodedSnapshot,
        buffers: Sequence[memoryview],
        *,
        expected_digests: Mapping[str, str] | None = None,
        arrival: Arrival | None = None,
        is_alone: IsAlone = lambda: False,
    ) -> CheckpointInfo:
        """Make a snapshot durable and return its checkpoint. `buffers` are the bytes of each of its tensors.

        If the snapshot (by its token) is a checkpoint already, that one is returned. Tensors that the newest checkpoint
        has too are shared, not written. `arrival` tells when the buffers are filled, if they are not yet. Raises
        `SaveError` if the file system refuses, `DamagedCheckpoint` if a tensor does not match `expected_digests`,
        `UnsupportedState`, or `Abandoned` if the rest of the snapshot never arrives. The earlier checkpoints are
        unchanged then.

        A snapshot of rank 0 of several becomes a checkpoint when the other ranks have handed over theirs, by
        `contribute`. `is_alone` tells when the training has ended: then the wait for them is a short one.
        """
        snapshot = header if isinstance(header, EncodedSnapshot) else encode_snapshot(header)
        flat = [buffer if buffer.format == "B" and buffer.ndim == 1 else _flatten(buffer) for buffer in buffers]
        try:
            make_folders(self.layout, self.operations)
            self._refuse_later_format(snapshot.step)
            names = self.manifest_names()
            share = snapshot.share
            sequence = self._next_sequence(names) if share is None else share.sequence
            name = CheckpointName(sequence, snapshot.step, snapshot.token)
            if any(other.token == name.token and other.step == name.step for other in names):
                for info in self.list().checkpoints:
                    if (info.step, info.name.token) == (name.step, name.token):
                        return info
            rank = None if share is None or share.world_size == 1 else share.rank
            target = Target(name, self.layout, self.operations, self._read_parent(names), rank)
            if share is not None:
                # An earlier writer may have died before it could do that itself.
                remove_if_possible(self.layout.packs / target.pack, self.operations)
            receipt = write_pack(snapshot, flat, target=target, expected_digests=expected_digests, arrival=arrival)
            try:
                receipts = [receipt]
                if share is not None:
                    receipts += collect_receipts(share, target=target, step=snapshot.step, is_alone=is_alone)
                manifest, manifest_bytes = commit_manifest(snapshot, receipts, target=target)
            except Exception:
                discard_pack(receipt, target)
                raise
            if share is not None:
                remove_receipts(share, target=target)
        except OSError as error:
            raise explain_failure(error, snapshot, layout=self.layout, operations=self.operations) from error
        path = self.layout.manifests / name.manifest
        self._remember(path, manifest)
        return _describe(manifest, path, manifest_bytes, frozenset())

    def contribute(
        self, snapshot: EncodedSnapshot, buffers: Sequence[memoryview], *, arrival: Arrival | None = None
    ) -> int:
        """Make the part of a rank above 0 durable and hand over its receipt; return how many bytes were written.

        It becomes part of a checkpoint when rank 0's writer commits the manifest. Raises as `commit` does.
        """
        share = snapshot.share
        assert share is not None and share.rank
        try:
            name = CheckpointName(share.sequence, snapshot.step, snapshot.token)
            if self._has_contributed(name, share.rank):
                return 0
            self._refuse_later_format(snapshot.step)
            names = self.manifest_names()
            # While the checkpoint before is not committed, an older parent may lose its packs at any moment.
            parent = None if self._handed and names and names[-1].sequence < self._handed else self._read_parent(names)
            target = Target(name, self.layout, self.operations, parent, share.rank)
            if self._unhanded is None or self._unhanded[0] != name:
                self._unhanded = (name, write_pack(snapshot, buffers, target=target, arrival=arrival))
            receipt = self._unhanded[1]
            # The pack stays even if this fails: rank 0 may have seen the receipt before it was taken back.
            hand_over(receipt, share, target=target)
        except OSError as error:
            raise explain_failure(error, snapshot, layout=self.layout, operations=self.operations) from error
        self._handed, self._unhanded = share.sequence, None
        return 0 if receipt.new_pack is None else receipt.new_pack.bytes

    def reserve_sequence(self, *, step: int) -> int:
        """Make the folders for several writers, and return a number that no checkpoint and no leftover has.

        Only the process that holds the run's lock may call this. Raises `SaveError`; `step` is what would be saved.
        """
        try:
            make_folders(self.layout, self.operations)
            return self._next_sequence(self.manifest_names())
        except OSError as error:
            what = f"The checkpoint at step {step} was not saved"
            raise SaveError(f"{what}: {error.strerror or error} ({self.layout.folder}).") from error

    def read_manifest(self, info: CheckpointInfo) -> Manifest:
        """Read the whole manifest of a checkpoint. Raises `DamagedCheckpoint` or `CheckpointNotFound`."""
        try:
            data = self.operations.read_file(info.path)
        except FileNotFoundError:
            raise CheckpointNotFound(f"The checkpoint at step {info.step} no longer exists.") from None
        except OSError as error:
            raise _unreadable(error, info.path) from error
        return decode_manifest(data, file_name=info.path.name)

    def open(self, info: CheckpointInfo) -> CheckpointReader:
        """Open a checkpoint for reading. Raises `DamagedCheckpoint` if a pack is missing or has the wrong size."""
        return CheckpointReader(self.read_manifest(info), layout=self.layout, operations=self.operations)

    def digest(self, info: CheckpointInfo) -> str:
        """Return the state digest, which is equal for two checkpoints that hold the same training state."""
        manifest = self.read_manifest(info)
        if not manifest.is_split:
            return state_digest(manifest)
        with CheckpointReader(manifest, layout=self.layout, operations=self.operations) as reader:
            return reader.state_digest()

    def check(
        self, info: CheckpointInfo, *, from_disk: bool = False, on_read: Callable[[int], None] | None = None
    ) -> Sequence[DamagedEntry]:
        """Read every byte of a checkpoint, compare it with its digest, and return what is damaged. Changes nothing.

        With `from_disk` the bytes come from the disk itself: past the page cache, or, if the file system cannot do
        that, after asking the kernel to drop its own copies. `on_read` is called with the number of bytes just read.
        """
        try:
            with self.open(info) as reader:
                found = reader.check(from_disk=from_disk, on_read=on_read)
        except DamagedCheckpoint as error:
            return [DamagedEntry(info.path, str(error), isinstance(error, LaterVersion))]
        return [DamagedEntry(path, reason) for path, reason in found]

    def mark_verified(self, info: CheckpointInfo) -> None:
        """Note that every byte was read back and matches. A crash may lose the note: then it is checked again."""
        make_folders(self.layout, self.operations)
        labels.add(info.name, labels.VERIFIED, layout=self.layout, operations=self.operations, durable=False)

    def pin(self, info: CheckpointInfo, *, on: bool = True) -> CheckpointInfo:
        """Pin a checkpoint, so that the retention keeps it, or unpin it. Raises `SaveError`."""
        try:
            return self.add_label(info, PINNED) if on else self.remove_label(info, PINNED)
        except OSError as error:
            what = f"The checkpoint at step {info.step} could not be {'pinned' if on else 'unpinned'}"
            raise SaveError(f"{what}: {error.strerror or error} ({self.layout.labels}).") from error

    def add_label(self, info: CheckpointInfo, label: str) -> CheckpointInfo:
        """Put a label on a checkpoint, durably. Raises `OSError` or `CheckpointNotFound`."""
        make_folders(self.layout, self.operations)
        labels.add(info.name, label, layout=self.layout, operations=self.operations, durable=True)
        if not self.operations.exists(info.path):
            raise CheckpointNotFound(f"The checkpoint at step {info.step} no longer exists.")
        return replace(info, labels=tuple(sorted({*info.labels, label})))

    def remove_label(self, info: CheckpointInfo, label: str) -> CheckpointInfo:
        """Take a label off a checkpoint, if it has it. Raises `OSError`."""
        labels.remove(info.name, label, layout=self.layout, operations=self.operations)
        return replace(info, labels=tuple(other for other in info.labels if other != label))

    def manifest_names(self) -> Sequence[CheckpointName]:
        """Return the names of all manifests, damaged ones included, from the oldest to the newest."""
        return sorted(filter(None, map(parse_manifest_name, self.operations.list_folder(self.layout.manifests))))

    def _has_contributed(self, name: CheckpointName, rank: int) -> bool:
        """Tell whether an earlier writer of this rank has handed over its receipt for this checkpoint.

        In this order, because rank 0 removes the receipt after it has committed the manifest.
        """
        return any(
            self.operations.exists(path)
            for path in (self.layout.packs / name.receipt_of(rank), self.layout.manifests / name.manifest)
        )

    def _pack_sizes(self, packs: Iterable[PackEntry]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for pack in packs:
            with contextlib.suppress(OSError):
                sizes[pack.file] = self.operations.identify(self.layout.packs / pack.file).size
        return sizes

    def _read_head(self, path: Path) -> tuple[ManifestHead, int]:
        identity = self.operations.identify(path)
        with self._guard:
            cached = self._heads.get(path.name)
        if cached is None or cached[0] != identity:
            head: ManifestHead | DamagedCheckpoint
            try:
                head = decode_head(self.operations.read_file(path), file_name=path.name)
            except DamagedCheckpoint as error:
                head = error
            except FileNotFoundError:
                raise
            except OSError as error:
                raise _unreadable(error, path) from error
            cached = (identity, head)
            with self._guard:
                self._heads[path.name] = cached
        if isinstance(cached[1], DamagedCheckpoint):
            raise cached[1]
        return cached[1], identity.size

    def _read_parent(self, names: Sequence[CheckpointName]) -> Manifest | None:
        """Return the newest manifest that is intact and has all its packs. No older one is read."""
        for name in reversed(names):
            path = self.layout.manifests / name.manifest
            try:
                if self._newest is not None and self._newest[0] == self.operations.identify(path):
                    manifest = self._newest[1]
                else:
                    manifest = decode_manifest(self.operations.read_file(path), file_name=path.name)
            except (DamagedCheckpoint, OSError):
                continue
            if _find_pack_problem(manifest, self._pack_sizes(manifest.packs)) is None:
                return manifest
        return None

    def _remember(self, path: Path, manifest: Manifest) -> None:
        """Keep in memory where the tensors are, for the next commit."""
        nothing = msgspec.Raw(b"null")
        with contextlib.suppress(OSError):
            self._newest = (self.operations.identify(path), replace(manifest, state=nothing, environment=nothing))

    def _next_sequence(self, manifests: Sequence[CheckpointName]) -> int:
        # No number is used twice, not even that of a checkpoint in quarantine or half deleted.
        names: list[CheckpointName | None] = list(manifests[-1:])
        names += map(parse_pack_name, self.operations.list_folder(self.layout.packs))
        for file_name in self.operations.list_folder(self.layout.quarantine):
            names += [parse_manifest_name(file_name), parse_pack_name(file_name)]
        for file_name in self.operations.list_folder(self.layout.labels):
            parsed = parse_label_name(file_name)
            names.append(None if parsed is None else parsed[0])
        return 1 + max((name.sequence for name in names if name is not None), default=0)

    def _refuse_later_format(self, step: int) -> None:
        try:
            identity = self.operations.identify(self.layout.format)
        except OSError:
            return
        if identity != self._format:
            refuse_later_format(self.layout, self.operations, step=step)
            self._format = identity


def _find_pack_problem(head: ManifestHead | Manifest, sizes: Mapping[str, int]) -> str | None:
    for pack in head.packs:
        size = sizes.get(pack.file)
        if size is None:
            return f"Pack {pack.file} is missing."
        if size != pack.bytes:
            return f"Pack {pack.file} has {size:,} bytes instead of {pack.bytes:,}."
    return None


def _describe(head: ManifestHead | Manifest, path: Path, manifest_bytes: int, words: frozenset[str]) -> CheckpointInfo:
    name = head.checkpoint_name
    return CheckpointInfo(
        **facts_of(head),
        name=name,
        path=path,
        metrics=head.read_metrics(),
        bytes=head.tensor_bytes,
        new_bytes=manifest_bytes + sum(pack.bytes for pack in head.packs if parse_pack_name(pack.file) == name),
        packs=tuple(pack.file for pack in head.packs),
        verified=labels.VERIFIED in words,
        labels=tuple(sorted(words - {labels.VERIFIED})),
    )


def _flatten(buffer: memoryview) -> memoryview:
    return buffer.cast("B") if buffer.nbytes else memoryview(b"")


def _unreadable(error: OSError, path: Path) -> Exception:
    if error.errno in UNREADABLE:
        return DamagedCheckpoint(f"Manifest {path.name} cannot be read: {error.strerror}.")
    return error
