"""Fingerprints of an environment: everything that may change the bits a training computes, to compare attempts by."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from relight.errors import DamagedFile
from relight.regular_file import read_regular
from relight.runs.record_file import read_json_object

_NAMES = {
    "relight": "Relight",
    "python": "Python",
    "torch": "torch",
    "numpy": "NumPy",
    "cuda": "CUDA",
    "cudnn": "cuDNN",
    "device": "the device",
    "gpu": "the GPU",
    "gpu_capability": "the GPU's compute capability",
    "cpu": "the processor",
    "cpu_capability": "the processor's vector instructions",
    "threads": "the number of threads",
    "world_size": "the number of ranks",
    "tf32.matmul": "the precision of float32 products",
    "tf32.cudnn": "TF32 in cuDNN",
    "determinism.deterministic_algorithms": "deterministic algorithms",
    "determinism.cudnn_deterministic": "cuDNN's determinism",
    "determinism.cudnn_benchmark": "cuDNN's choice by speed",
    "determinism.cublas_workspace": "cuBLAS's workspace",
    "hash_seed": "the seed of Python's hashes",
    "git.commit": "the git commit",
    "code.digest": "the task's code",
}
"""The keys of a fingerprint, dotted as in environment.json, with the name that a sentence uses."""
_SHORTENED = {"git.commit": 7, "code.digest": 8}
_INSTALLED = {"site-packages", "dist-packages"}

Fingerprint = dict[str, Any]
"""Values by dotted key. A missing key means unknown, and never counts as a difference."""


class FingerprintChange(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between two fingerprints."""

    key: str
    before: Any
    now: Any


def take_fingerprint(environment: Mapping[str, Any]) -> Fingerprint:
    """Return the fingerprint of an environment: the object in environment.json, or that of a checkpoint."""
    found: Fingerprint = {}
    for key in _NAMES:
        value: Any = environment
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                break
            value = value[part]
        else:
            found[key] = value
    return found


def compare_fingerprints(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[FingerprintChange, ...]:
    """Return what differs among the keys that both have, in the order in which sentences name them."""
    return tuple(
        FingerprintChange(key=key, before=before[key], now=now[key])
        for key in _NAMES
        if key in before and key in now and before[key] != now[key]
    )


def word_changes(changes: Iterable[FingerprintChange]) -> str:
    """Say what changed: "torch was 2.12.0 and is 2.13.0, and the number of threads was 2 and is 4"."""
    parts = [_word_change(change) for change in changes]
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"


def word_resume_caveat(changes: Iterable[FingerprintChange], *, what: str = "resume") -> str:
    """Say that an attempt's environment differs from that of its checkpoint; "" when nothing changed."""
    changed = word_changes(changes)
    return f"The {what} is correct but may not be bit-identical, because {changed}." if changed else ""


def read_environment(path: Path) -> dict[str, Any] | None:
    """Return the object in an environment.json; None when it is missing or damaged."""
    try:
        return read_json_object(path)
    except (FileNotFoundError, DamagedFile):
        return None


def read_changes(path: Path) -> tuple[FingerprintChange, ...]:
    """Return what has changed, according to an environment.json, since the checkpoint that its attempt started from."""
    try:
        return msgspec.convert((read_environment(path) or {}).get("changes", ()), tuple[FingerprintChange, ...])
    except msgspec.ValidationError:
        return ()


def describe_code(folder: Path) -> dict[str, Any]:
    """Describe the user's own code: the .py files in `folder` from which modules have been imported.

    Installed packages are left out, even those in a virtual environment inside the folder. "files" are the names
    relative to the folder, "digest" is their `digest_code`.
    """
    files: set[str] = set()
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if isinstance(name, str) and name.endswith(".py"):
            path = Path(name)
            if path.is_relative_to(folder) and not _INSTALLED.intersection(path.parts):
                files.add(path.relative_to(folder).as_posix())
    ordered = sorted(files)
    return {"digest": digest_code(folder, ordered), "files": ordered}


def digest_code(folder: Path, files: Iterable[str]) -> str:
    """Return the xxh3-128 of names and bytes of `files` in `folder`; a missing file counts as empty."""
    hashed = xxhash.xxh3_128()
    for name in sorted(files):
        try:
            data = read_regular(folder / name, follow_links=True)
        except (OSError, ValueError):
            data = b""
        hashed.update(f"{name}\0{len(data)}\0".encode())
        hashed.update(data)
    return hashed.hexdigest()


def _word_change(change: FingerprintChange) -> str:
    name = _NAMES.get(change.key, change.key.removeprefix("config."))
    if change.key == "code.digest":
        return f"{name} has changed"
    return f"{name} was {_word(change.key, change.before)} and is {_word(change.key, change.now)}"


def _word(key: str, value: Any) -> str:
    if value is None:
        return "none" if key in ("cuda", "cudnn", "gpu", "gpu_capability", "git.commit") else "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)[: _SHORTENED.get(key)]
