"""Models how other libraries write checkpoints, as logs for the simulator: what strace shows, with tiny files.

A checkpoint is its step and a digest of its bytes. Each recovery does what the library or its documentation does. It
trusts what it finds, as the libraries do: none of them checks the bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.checkpoints.simulator.log import (
    Acknowledge,
    Create,
    Entry,
    Extend,
    MakeFolder,
    Remove,
    Rename,
    Sync,
    SyncFolder,
    Write,
)

STEPS = 4
_HEAD = b"HEAD"
_TAIL = b"TAIL"


@dataclass(frozen=True)
class Peer:
    """A library: the log of some saves, and its recovery."""

    name: str
    log: list[Entry]
    recover: Callable[[Path], tuple[int, str] | None]


def content(step: int) -> bytes:
    """Return the bytes of the checkpoint at `step`: a head, which loaders check, tensors, and a tail."""
    return _HEAD + step.to_bytes(2, "big") + bytes([step] * 8) + _TAIL


def digest(data: bytes) -> str:
    """Return a digest of what was loaded."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def states() -> set[tuple[int, str]]:
    """Return all states that ever existed."""
    return {(step, digest(content(step))) for step in range(1, STEPS + 1)}


class _Script:
    def __init__(self) -> None:
        self.log: list[Entry] = []
        self._inodes = 0

    def write(self, path: str, data: bytes, *, whole_length_first: bool = False) -> int:
        self._inodes += 1
        self.log.append(Create(path, self._inodes))
        if whole_length_first:
            self.log.append(Extend(self._inodes, len(data)))
        half = len(data) // 2
        self.log += [Write(self._inodes, 0, data[:half]), Write(self._inodes, half, data[half:])]
        return self._inodes

    def acknowledge(self, step: int) -> None:
        self.log.append(Acknowledge(step, digest(content(step))))


def _load(data: bytes) -> tuple[int, str]:
    """Check head, length and tail, and trust the rest, as torch.load and safetensors do."""
    if len(data) != len(content(1)) or not data.startswith(_HEAD) or not data.endswith(_TAIL):
        raise ValueError("not a checkpoint")
    return int.from_bytes(data[4:6], "big"), digest(data)


def _load_length_only(data: bytes) -> tuple[int, str]:
    """Check only that the file has the length in its header, as safetensors does."""
    if len(data) != len(content(1)) or not data.startswith(_HEAD):
        raise ValueError("not a checkpoint")
    return int.from_bytes(data[4:6], "big"), digest(data)


def _newest_by_name(folder: Path, load: Callable[[bytes], tuple[int, str]]) -> tuple[int, str] | None:
    steps = sorted(int(match[1]) for path in folder.glob("*") if (match := re.match(r"step-(\d+)\.pt$", path.name)))
    return load((folder / f"step-{steps[-1]}.pt").read_bytes()) if steps else None


def overwrite_in_place() -> Peer:
    """Save with `torch.save(state, "last.pt")`, over the same file each time."""
    script = _Script()
    for step in range(1, STEPS + 1):
        if step > 1:
            script.log.append(Remove("last.pt"))  # O_TRUNC: the old bytes are gone at once
        script.write("last.pt", content(step))
        script.acknowledge(step)

    def recover(folder: Path) -> tuple[int, str] | None:
        path = folder / "last.pt"
        return _load(path.read_bytes()) if path.exists() else None

    return Peer("torch.save over one file", script.log, recover)


def numbered_files() -> Peer:
    """Save with `torch.save(state, f"step-{step}.pt")`, and remove the file before the last one."""
    script = _Script()
    for step in range(1, STEPS + 1):
        script.write(f"step-{step}.pt", content(step))
        script.acknowledge(step)
        if step > 1:
            script.log.append(Remove(f"step-{step - 1}.pt"))
    return Peer("torch.save, a file each", script.log, lambda folder: _newest_by_name(folder, _load))


def safetensors_library() -> Peer:
    """Save with `save_file` of safetensors 0.8: temporary file, ftruncate to full length, write, rename; no sync."""
    script = _Script()
    for step in range(1, STEPS + 1):
        script.write("tmp", content(step), whole_length_first=True)
        script.log.append(Rename("tmp", f"step-{step}.pt"))
        script.acknowledge(step)
        if step > 1:
            script.log.append(Remove(f"step-{step - 1}.pt"))
    return Peer("safetensors 0.8", script.log, lambda folder: _newest_by_name(folder, _load_length_only))


def sync_and_rename() -> Peer:
    """Write a temporary file, fsync it and rename it. The folder is not synced."""
    script = _Script()
    for step in range(1, STEPS + 1):
        inode = script.write("tmp", content(step))
        script.log += [Sync(inode), Rename("tmp", f"step-{step}.pt")]
        script.acknowledge(step)
        if step > 1:
            script.log.append(Remove(f"step-{step - 1}.pt"))
    return Peer("temporary file, fsync, rename", script.log, lambda folder: _newest_by_name(folder, _load))


def distributed_checkpoint() -> Peer:
    """Save with DCP of torch 2.13: data synced; commit file synced while empty, written, renamed; no folder synced."""
    script = _Script()
    for step in range(1, STEPS + 1):
        script.log.append(MakeFolder(f"{step}"))
        script.log.append(Sync(script.write(f"{step}/data", content(step))))
        script._inodes += 1
        metadata = script._inodes
        script.log += [
            Create(f"{step}/.metadata.tmp", metadata),
            Sync(metadata),
            Write(metadata, 0, f"{step}".encode()),
            Rename(f"{step}/.metadata.tmp", f"{step}/.metadata"),
        ]
        script.acknowledge(step)
        if step > 1:
            script.log += [Remove(f"{step - 1}/.metadata"), Remove(f"{step - 1}/data")]

    def recover(folder: Path) -> tuple[int, str] | None:
        found = sorted(int(path.parent.name) for path in folder.glob("*/.metadata"))
        if not found:
            return None
        if (folder / f"{found[-1]}" / ".metadata").read_bytes() != f"{found[-1]}".encode():
            raise ValueError("no metadata")
        return _load((folder / f"{found[-1]}" / "data").read_bytes())

    return Peer("DCP 2.13, newest with .metadata", script.log, recover)


def sync_everything() -> Peer:
    """Write a temporary file, fsync, rename, fsync the folder, and only then remove the old one: careful code."""
    script = _Script()
    for step in range(1, STEPS + 1):
        inode = script.write("tmp", content(step))
        script.log += [Sync(inode), Rename("tmp", f"step-{step}.pt"), SyncFolder("")]
        script.acknowledge(step)
        if step > 1:
            script.log.append(Remove(f"step-{step - 1}.pt"))
    return Peer("fsync, rename, fsync of the folder", script.log, lambda folder: _newest_by_name(folder, _load))


PEERS = (
    overwrite_in_place,
    numbered_files,
    safetensors_library,
    sync_and_rename,
    distributed_checkpoint,
    sync_everything,
)
