"""How the writers of several ranks make one checkpoint: each hands over a receipt, and rank 0's writer collects them.

rank r: write pack, durably -> write `…-rN.receipt` beside it, durably
rank 0: write pack, durably -> wait for all receipts -> commit the manifest -> remove the receipts

The ranks need nothing but the store's folder for that, so they may be on different machines. A receipt without a
manifest is a leftover: it belongs to a name that no later attempt uses again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import xxhash

from relight.checkpoints.arrival import Abandoned
from relight.checkpoints.atomic_file import remove_if_possible, write_atomically
from relight.checkpoints.file_names import parse_part_name
from relight.checkpoints.pack_writer import Target
from relight.checkpoints.receipt import Receipt
from relight.checkpoints.snapshot_header import RankShare
from relight.errors import DamagedCheckpoint, SaveError

_POLL_S = 0.02
_SILENT_S = 60.0
"""Without any sign of a rank's writer for so long, saving counts as failed; it is tried again."""
_SILENT_ALONE_S = 20.0
"""The same after the training has ended or died: then the snapshot is given up."""
_DIGEST_CHARACTERS = 32


class Outdone(Exception):
    """Another rank has dropped this snapshot, and goes on with a later one."""


IsAlone = Callable[[], bool]
"""Tells whether the training of this writer has ended or died."""


class _ReceiptFile(msgspec.Struct, frozen=True):
    checkpoint: str
    rank: int
    world_size: int
    receipt: Receipt


def hand_over(receipt: Receipt, share: RankShare, *, target: Target) -> None:
    """Write the receipt of a rank above 0, durably. Its pack is durable already. Raises `OSError`."""
    body = msgspec.json.encode(_ReceiptFile(target.name.stem, share.rank, share.world_size, receipt))
    path = target.layout.packs / target.name.receipt_of(share.rank)
    write_atomically(
        path,
        body + b"\n" + xxhash.xxh3_128_hexdigest(body).encode(),
        layout=target.layout,
        operations=target.operations,
    )


def collect_receipts(share: RankShare, *, target: Target, step: int, is_alone: IsAlone) -> list[Receipt]:
    """Wait for the receipts of all other ranks, check them, and return them in the order of the ranks.

    Raises `Outdone` if a rank has gone on to a later snapshot, `SaveError` if it shows no sign of life, `Abandoned` if
    that happens after the training has ended, `DamagedCheckpoint` for a receipt that is not what its rank wrote, or
    `OSError`.
    """
    return [_wait_for(rank, share, target=target, step=step, is_alone=is_alone) for rank in range(1, share.world_size)]


def remove_receipts(share: RankShare, *, target: Target) -> None:
    """Remove the receipts of a committed checkpoint. What a crash leaves of them is swept later."""
    for rank in range(1, share.world_size):
        remove_if_possible(target.layout.packs / target.name.receipt_of(rank), target.operations)


def _wait_for(rank: int, share: RankShare, *, target: Target, step: int, is_alone: IsAlone) -> Receipt:
    operations = target.operations
    path = target.layout.packs / target.name.receipt_of(rank)
    signs: object = None
    changed_s = time.monotonic()
    looked_s = 0.0
    while True:
        try:
            data = operations.read_file(path)
        except FileNotFoundError:
            pass
        else:
            return _decode(data, rank, share, target=target)
        now = time.monotonic()
        if now - looked_s >= 1.0:
            looked_s = now
            seen = _look_for_signs(rank, target)
            if seen != signs:
                signs, changed_s = seen, now
            if _has_gone_on(rank, target) and not operations.exists(path):
                raise Outdone
        alone = is_alone()
        if now - changed_s >= (_SILENT_ALONE_S if alone else _SILENT_S):
            if alone:
                raise Abandoned
            raise SaveError(
                f"The checkpoint at step {step} is not saved yet: rank {rank} has not handed over its part. Its log "
                "may say why."
            )
        time.sleep(_POLL_S)


def _look_for_signs(rank: int, target: Target) -> list[object]:
    """Return what changes while a rank writes its pack."""
    signs: list[object] = []
    for folder in (target.layout.temporary, target.layout.packs):
        try:
            signs.append(target.operations.identify(folder / target.name.pack_of(rank)))
        except OSError:
            signs.append(None)
    return signs


def _has_gone_on(rank: int, target: Target) -> bool:
    """Tell whether a rank has begun with a later checkpoint: it writes them in order."""
    for folder in (target.layout.temporary, target.layout.packs):
        for file_name in target.operations.list_folder(folder):
            part = parse_part_name(file_name)
            if part is not None and part[1] == rank and part[0].sequence > target.name.sequence:
                return True
    return False


def _decode(data: bytes, rank: int, share: RankShare, *, target: Target) -> Receipt:
    file_name = target.name.receipt_of(rank)
    body, digest = data[: -_DIGEST_CHARACTERS - 1], data[-_DIGEST_CHARACTERS:]
    try:
        found = msgspec.json.decode(body, type=_ReceiptFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedCheckpoint(f"The receipt {file_name} cannot be read: {error}") from None
    whose = (target.name.stem, rank, share.world_size)
    if xxhash.xxh3_128_hexdigest(body).encode() != digest or (found.checkpoint, found.rank, found.world_size) != whose:
        raise DamagedCheckpoint(f"The receipt {file_name} is not what rank {rank} wrote.")
    receipt = found.receipt
    for entry in receipt.tensors:
        if entry.bytes and not 0 <= entry.pack < len(receipt.packs):
            raise DamagedCheckpoint(f"The receipt {file_name} does not say where tensor '{entry.name}' is.")
    for pack in receipt.packs:
        try:
            size = target.operations.identify(target.layout.packs / pack.file).size
        except FileNotFoundError:
            raise DamagedCheckpoint(f"The receipt {file_name} names pack {pack.file}, which is gone.") from None
        if size != pack.bytes:
            raise DamagedCheckpoint(f"Pack {pack.file} has {size:,} bytes instead of {pack.bytes:,}.")
    return receipt
