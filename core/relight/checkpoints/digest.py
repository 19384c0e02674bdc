"""The state digest: one hash over everything that the training computed, and over nothing else."""

from __future__ import annotations

import msgspec
import xxhash

from relight.checkpoints.manifest import Manifest
from relight.checkpoints.typed_json import canonical_json


def state_digest(manifest: Manifest) -> str:
    """Return 32 hexadecimal characters that are equal for two runs that computed the same.

    The digest covers the step and the epoch; name, type, shape and digest of every tensor, ordered by name; and the
    canonical form of the state tree. It does not cover clock, host, attempt, path, metrics, the reason for the
    checkpoint, and where the bytes are on the disk (packs, shared tensors).
    """
    hasher = xxhash.xxh3_128()
    hasher.update(b"relight-state 1\n")
    hasher.update(msgspec.json.encode({"step": manifest.step, "epoch": manifest.epoch}) + b"\n")
    for tensor in sorted(manifest.tensors, key=lambda tensor: tensor.name):
        hasher.update(msgspec.json.encode((tensor.name, tensor.dtype, tensor.shape, tensor.digest)) + b"\n")
    hasher.update(canonical_json(manifest.state))
    return hasher.hexdigest()
