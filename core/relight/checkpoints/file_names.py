"""Every folder and file name of a checkpoint store, and how to parse one. The store touches no other files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

_STEM = re.compile(r"^(\d{8,})-s(\d+)-([0-9a-f]{8})$")
_RANK = re.compile(r"-r(0|[1-9]\d*)$")
_LABEL = re.compile(r"^[a-z][a-z0-9-]{0,31}$")
MANIFEST_SUFFIX = ".json"
PACK_SUFFIX = ".safetensors"
RECEIPT_SUFFIX = ".receipt"


class CheckpointName(NamedTuple):
    """The facts in the file names of a checkpoint. Manifest, pack and labels share one stem. Sorts oldest first."""

    sequence: int
    step: int
    token: str

    @property
    def stem(self) -> str:
        """Beginning of all its file names, such as `00000012-s400-1a2b3c4d`."""
        return f"{self.sequence:08d}-s{self.step}-{self.token}"

    @property
    def manifest(self) -> str:
        """File name of the manifest."""
        return self.stem + MANIFEST_SUFFIX

    @property
    def pack(self) -> str:
        """File name of the checkpoint's own pack."""
        return self.stem + PACK_SUFFIX

    def pack_of(self, rank: int | None) -> str:
        """File name of the pack of one of several ranks; of the checkpoint's own pack without a rank."""
        return self.pack if rank is None else f"{self.stem}-r{rank}{PACK_SUFFIX}"

    def receipt_of(self, rank: int) -> str:
        """File name of a rank's receipt, which lies beside its pack until the manifest is committed."""
        return f"{self.stem}-r{rank}{RECEIPT_SUFFIX}"


def parse_stem(stem: str) -> CheckpointName | None:
    """Return the checkpoint that a stem names, or None for a foreign name."""
    match = _STEM.match(stem)
    if match is None:
        return None
    name = CheckpointName(int(match[1]), int(match[2]), match[3])
    return name if name.stem == stem else None


@lru_cache(maxsize=4096)
def parse_manifest_name(file_name: str) -> CheckpointName | None:
    """Return the checkpoint that a manifest's file name names, or None for a foreign name."""
    return parse_stem(file_name.removesuffix(MANIFEST_SUFFIX)) if file_name.endswith(MANIFEST_SUFFIX) else None


@lru_cache(maxsize=4096)
def parse_pack_name(file_name: str) -> CheckpointName | None:
    """Return the checkpoint that the pack was written for, or None for a foreign name.

    In a distributed run each rank has a pack of its own, named with the rank: `00000012-s400-1a2b3c4d-r3.safetensors`.
    """
    if not file_name.endswith(PACK_SUFFIX):
        return None
    return parse_stem(_RANK.sub("", file_name.removesuffix(PACK_SUFFIX)))


def parse_part_name(file_name: str) -> tuple[CheckpointName, int] | None:
    """Return the checkpoint and the rank that the name of a rank's pack or receipt names, or None for another name."""
    for suffix in (PACK_SUFFIX, RECEIPT_SUFFIX):
        stem = file_name.removesuffix(suffix)
        if stem != file_name and (match := _RANK.search(stem)) and (name := parse_stem(stem[: match.start()])):
            return name, int(match[1])
    return None


def is_receipt_name(file_name: str) -> bool:
    """Tell whether this is the name of a receipt."""
    return file_name.endswith(RECEIPT_SUFFIX) and parse_part_name(file_name) is not None


def label_file_name(stem: str, label: str) -> str:
    """Return the file name of a label on a checkpoint."""
    assert _LABEL.match(label), label
    return f"{stem}.{label}"


def parse_label_name(file_name: str) -> tuple[CheckpointName, str] | None:
    """Return the checkpoint and the label that a label's file name names, or None for a foreign name."""
    stem, dot, label = file_name.partition(".")
    name = parse_stem(stem)
    return (name, label) if name is not None and dot and _LABEL.match(label) else None


@dataclass(frozen=True)
class StoreLayout:
    """The paths of the folders and files of one store."""

    folder: Path

    @cached_property
    def format(self) -> Path:
        """Names the version of the format."""
        return self.folder / "format.json"

    @cached_property
    def manifests(self) -> Path:
        """The checkpoints themselves, one small file each."""
        return self.folder / "manifests"

    @cached_property
    def packs(self) -> Path:
        """The tensors, as safetensors files."""
        return self.folder / "packs"

    @cached_property
    def labels(self) -> Path:
        """One empty file for each label on a checkpoint."""
        return self.folder / "labels"

    @cached_property
    def quarantine(self) -> Path:
        """Damaged manifests and packs, moved here and never deleted."""
        return self.folder / "quarantine"

    @cached_property
    def temporary(self) -> Path:
        """Files that are being written. When no writer runs, everything in it is left over from a crash."""
        return self.folder / "tmp"

    @cached_property
    def folders(self) -> tuple[Path, ...]:
        """All folders in `folder`."""
        return (self.manifests, self.packs, self.labels, self.quarantine, self.temporary)
