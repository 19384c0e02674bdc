"""The state digest: one hash over everything that the training computed, and over nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter

import msgspec
import xxhash

from relight.checkpoints.manifest import Manifest
from relight.checkpoints.typed_json import canonical_json

WholeDigest = tuple[str, str, tuple[int, ...], str]
"""Name, type, shape and digest of a tensor."""


def state_digest(manifest: Manifest, *, tensors: Iterable[WholeDigest] | None = None) -> str:
    """Return 32 hexadecimal characters that are equal for two runs that computed the same.

    The digest covers the step and the epoch; name, type, shape and digest of every tensor, ordered by name; and the
    canonical form of the state tree. It does not cover clock, host, attempt, path, metrics, the reason for the
    checkpoint, and where the bytes are on the disk (packs, shared tensors). `tensors` are those of a checkpoint whose
    tensors are split over several ranks, put together: without them the digest is one of this division, too.
    """
    if tensors is None:
        tensors = [(entry.name, entry.dtype, entry.shape, entry.digest) for entry in manifest.tensors]
    hasher = xxhash.xxh3_128()
    hasher.update(b"relight-state 1\n")
    hasher.update(msgspec.json.encode({"step": manifest.step, "epoch": manifest.epoch}) + b"\n")
    for tensor in sorted(tensors, key=itemgetter(0)):
        hasher.update(msgspec.json.encode(tensor) + b"\n")
    hasher.update(canonical_json(manifest.state))
    return hasher.hexdigest()
