"""The commit: the manifest is written when all packs are durable, and its rename makes the checkpoint.

write -> sync -> rename without replacing -> sync folder

A crash before the rename leaves the earlier checkpoints and some leftovers. After the sync of the folder the new
checkpoint survives any crash. No existing file is ever written to.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from relight.checkpoints.atomic_file import write_atomically
from relight.checkpoints.encoded_snapshot import EncodedSnapshot
from relight.checkpoints.file_names import StoreLayout
from relight.checkpoints.file_operations import FileOperations
from relight.checkpoints.manifest import VERSION, WHOLE_VERSION, Manifest, encode_manifest, gather_parts
from relight.checkpoints.pack_writer import Target
from relight.checkpoints.receipt import Receipt, merge_receipts
from relight.checkpoints.snapshot_header import facts_of
from relight.errors import SaveError
from relight.wording import describe_bytes


def commit_manifest(snapshot: EncodedSnapshot, receipts: Sequence[Receipt], *, target: Target) -> tuple[Manifest, int]:
    """Make a checkpoint of the packs that `receipts` name. Return its manifest and that file's length in bytes.

    The receipts cover every tensor of the snapshot. The checkpoint is durable when this returns. Raises `OSError`, or
    `DamagedCheckpoint` if the receipts of several ranks do not fit together; then there is no checkpoint.
    """
    packs, tensors = merge_receipts(receipts)
    several = len(receipts) > 1 or any(entry.slice is not None for entry in tensors)
    if several:
        gather_parts(tensors, what=f"The checkpoint at step {snapshot.step}")
    manifest = Manifest(
        version=VERSION if several else WHOLE_VERSION,
        **facts_of(snapshot),
        name=target.name.stem,
        sequence=target.name.sequence,
        parent=None if target.parent is None else target.parent.name,
        metrics=snapshot.metrics,
        tensor_bytes=sum(entry.bytes for entry in tensors),
        packs=packs,
        environment=snapshot.environment,
        tensors=tensors,
        state=snapshot.state,
    )
    text = encode_manifest(manifest)
    path = target.layout.manifests / target.name.manifest
    write_atomically(path, text, layout=target.layout, operations=target.operations)
    return manifest, len(text)


def explain_failure(
    error: OSError, snapshot: EncodedSnapshot, *, layout: StoreLayout, operations: FileOperations
) -> SaveError:
    """Return an error whose message says what the file system refused, and what to do."""
    what = f"The checkpoint at step {snapshot.step} was not saved"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needed = describe_bytes(sum(tensor.nbytes for tensor in snapshot.tensors))
        full = "the disk is full" if error.errno == errno.ENOSPC else "the disk quota is used up"
        return SaveError(
            f"{what}: {full} ({needed} needed, {_free(layout, operations)} free at {layout.folder}). Free some space."
        )
    if error.errno == errno.EFBIG:
        return SaveError(
            f"{what}: it is larger than the limit on the size of files allows (ulimit -f). Raise the limit (prlimit "
            f"--fsize=unlimited --pid {os.getpid()}), or start the run again without it."
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return SaveError(f"{what}: {layout.folder} cannot be written to ({error.strerror}).")
    if error.errno == errno.ENOENT and not operations.is_folder(layout.folder.parent):
        return SaveError(
            f"{what}: the run's folder {layout.folder.parent} was moved or removed. Stop the training, and resume the "
            "run where its folder is now."
        )
    if error.errno == errno.EXDEV:
        return SaveError(
            f"{what}: the folders in {layout.folder} are on different disks, so a file cannot be moved from one to "
            "another in one step. Put the whole folder on one disk. It may be a link to a folder elsewhere."
        )
    return SaveError(f"{what}: {error.strerror or error} ({layout.folder}).")


def _free(layout: StoreLayout, operations: FileOperations) -> str:
    try:
        return describe_bytes(operations.free_bytes(layout.folder))
    except OSError:
        return "an unknown amount"
