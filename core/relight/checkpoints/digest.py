"""The state digest: one hash over everything that was computed, and over nothing else."""

from __future__ import annotations

import msgspec
import xxhash

from relight.checkpoints.manifest import Manifest
from relight.checkpoints.typed_json import canonical_json


def state_digest(manifest: Manifest) -> str:
    """32 hexadecimal characters that are equal for two runs that computed the same.

    Taken over the step, over name, type, shape and digest of every tensor in the order of their names, and over the
    canonical form of the state tree. Clock, host, attempt, path, metrics, the reason for the checkpoint and where the
    bytes lie on disk (packs, shared tensors) have no part in it.
    """
    hasher = xxhash.xxh3_128()
    hasher.update(b"relight-state 1\n")
    hasher.update(msgspec.json.encode({"step": manifest.step, "epoch": manifest.epoch}) + b"\n")
    for tensor in sorted(manifest.tensors, key=lambda tensor: tensor.name):
        hasher.update(msgspec.json.encode((tensor.name, tensor.dtype, tensor.shape, tensor.digest)) + b"\n")
    hasher.update(canonical_json(manifest.state))
    return hasher.hexdigest()
