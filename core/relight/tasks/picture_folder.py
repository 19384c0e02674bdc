"""A folder of class folders: which pictures there are, of which class, and which of them are held out.

Goes by names alone; whether a file really is a picture shows when it is decoded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from relight.errors import TaskError

LAYOUT = (
    "It should look like FOLDER/cat/1.jpg and FOLDER/dog/2.png, or FOLDER/train/cat/1.jpg and FOLDER/val/cat/2.jpg."
)
PICTURE_SUFFIXES = frozenset(".jpg .jpeg .jpe .jfif .png .gif .bmp .webp .tif .tiff .ppm .pgm .pbm .pnm".split())
_VALIDATION_NAMES = ("val", "validation", "valid")


@dataclass(frozen=True)
class Picture:
    """One file: its path below the data folder (with "/"), its class, and its side if the folder tells (else None)."""

    path: str
    label: int
    held_out: bool | None = None


@dataclass(frozen=True)
class PictureFolder:
    """All pictures of a folder in a fixed order, and how many other files lie between them."""

    root: Path
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    ignored: int


def scan_pictures(root: Path) -> PictureFolder:
    """List the pictures below `root`; hidden files and symbolic links are skipped.

    Raises `TaskError` when the folder is missing, has fewer than two class folders, or a class folder has no picture.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise TaskError(f"The data folder {root} {what}. {LAYOUT}")
    try:
        return _scan(root)
    except OSError as error:
        raise TaskError(f"The data folder {root} cannot be read: {error.strerror} ({error.filename}).") from error


def split_pictures(pictures: Iterable[Picture], *, share: float) -> tuple[list[Picture], list[Picture]]:
    """Split into training and validation pictures.

    Where the folder has no train/ and val/, a hash of each path decides: adding a picture moves no other. A class with
    two pictures or more has at least one on each side, a class with one picture has it in training.
    """
    training, validation = [], []
    by_class: dict[int, list[Picture]] = {}
    for picture in pictures:
        if picture.held_out is None:
            by_class.setdefault(picture.label, []).append(picture)
        else:
            (validation if picture.held_out else training).append(picture)
    for members in by_class.values():
        ranked = sorted(members, key=lambda picture: (_place(picture.path), picture.path))
        held_out = sum(_place(picture.path) < share for picture in ranked)
        held_out = max(min(held_out, len(ranked) - 1), min(1, len(ranked) - 1))
        validation += ranked[:held_out]
        training += ranked[held_out:]
    return sorted(training, key=lambda picture: picture.path), sorted(validation, key=lambda picture: picture.path)


def _place(path: str) -> float:
    """Map a path to a fixed number from 0 to 1."""
    digest = hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _scan(root: Path) -> PictureFolder:
    top = _subfolders(root)
    validation_name = next((name for name in _VALIDATION_NAMES if name in top), None)
    if "train" in top and validation_name:
        classes = tuple(_subfolders(root / "train"))
        unknown = [name for name in _subfolders(root / validation_name) if name not in classes]
        if unknown:
            raise TaskError(
                f"{root / validation_name} has the class '{unknown[0]}', which {root / 'train'} has not: "
                "both need the same class folders."
            )
        parts = [("train/", False), (f"{validation_name}/", True)]
    else:
        classes, parts = tuple(top), [("", None)]
    if len(classes) < 2:
        found = f"only one class folder, '{classes[0]}'" if classes else "no class folders"
        raise TaskError(f"The data folder {root} has {found}, and there must be two at least. {LAYOUT}")

    pictures: list[Picture] = []
    ignored = 0
    for prefix, held_out in parts:
        for label, name in enumerate(classes):
            found_paths, others = _list_class(root, prefix + name)
            ignored += others
            if not found_paths and not held_out:
                raise TaskError(f"The class '{name}' has no pictures: add some to {root / prefix / name} or remove it.")
            pictures += [Picture(path=path, label=label, held_out=held_out) for path in found_paths]
    if not any(picture.held_out is not False for picture in pictures):
        raise TaskError(f"{root / str(validation_name)} has no pictures: add some, or remove the folder.")
    return PictureFolder(root=root, classes=classes, pictures=tuple(pictures), ignored=ignored)


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))


def _list_class(root: Path, name: str) -> tuple[list[str], int]:
    """List the pictures in one class folder and the folders inside it, and count the files of other kinds."""
    paths: list[str] = []
    others = 0
    for folder, subfolders, files in os.walk(root / name, onerror=_raise):
        subfolders[:] = sorted(subfolder for subfolder in subfolders if not subfolder.startswith("."))
        for file in files:
            path = Path(folder, file)
            if file.startswith(".") or path.is_symlink():
                continue
            if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
                paths.append(path.relative_to(root).as_posix())
            else:
                others += 1
    return sorted(paths), others


def _raise(error: OSError) -> None:
    raise error
