"""A folder with class folders: its pictures, their classes, and the ones held out for validation.

Judges files by their names; a file that is not a picture is found only when it is decoded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from relight.errors import TaskError

LAYOUT = (
    "It should look like FOLDER/cat/1.jpg and FOLDER/dog/2.png, or FOLDER/train/cat/1.jpg and FOLDER/val/cat/2.jpg."
)
PICTURE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)
_TRAINING_NAMES = ("train", "training")
_VALIDATION_NAMES = ("val", "valid", "validation")


@dataclass(frozen=True)
class Picture:
    """One file: its path below the data folder (with "/"), its class, and whether it is in val/ (None without val/)."""

    path: str
    label: int
    held_out: bool | None = None


@dataclass(frozen=True)
class PictureFolder:
    """All pictures of a folder in a fixed order, and the number of other files in its class folders."""

    root: Path
    classes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    ignored: int


def scan_pictures(root: Path) -> PictureFolder:
    """List the pictures below `root`. Skips hidden names, follows symbolic links, and enters each loop once.

    Raises `TaskError` when the folder is missing or has fewer than two class folders, when a class has no pictures, or
    when it has only one although it must serve both training and validation.
    """
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise TaskError(f"The data folder {printable(root)} {what}. {LAYOUT}")
    try:
        return _scan(root)
    except OSError as error:
        raise TaskError(
            f"The data folder {printable(root)} cannot be read: {error.strerror} ({printable(error.filename)})."
        ) from error


def split_pictures(pictures: Iterable[Picture], *, share: float) -> tuple[list[Picture], list[Picture]]:
    """Split into training and validation pictures; `share` is the fraction for validation.

    If the folder has no train/ and val/, a hash of each path decides, so adding a picture does not move any other. A
    class with at least two pictures has at least one on each side; a single picture goes to training.
    """
    training: list[Picture] = []
    validation: list[Picture] = []
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


def printable(name: object) -> str:
    """Escape line breaks, control characters and undecodable bytes of a file name, for a message."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(name))


def _place(path: str) -> float:
    """Map a path to a fixed number from 0 to 1."""
    digest = hashlib.blake2b(path.encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _scan(root: Path) -> PictureFolder:
    shown = printable(root)
    top = _subfolders(root, inside={_identity(root)})
    train, validation = (_find_side(root, top, names) for names in (_TRAINING_NAMES, _VALIDATION_NAMES))
    sides: list[tuple[str, bool | None]] = [("", None)]
    classes = top
    if train and validation:
        classes = _subfolders(root / train, inside={_identity(root)})
        unknown = [n for n in _subfolders(root / validation, inside={_identity(root)}) if n not in classes]
        if unknown:
            raise TaskError(
                f"{shown}/{validation} has the class '{printable(unknown[0])}', but {shown}/{train} does not: "
                "both need the same class folders."
            )
        sides = [(f"{train}/", False), (f"{validation}/", True)]
    elif train:
        raise TaskError(
            f"{shown} has {train}/ but no val/. Add val/, or set data={shown}/{train} to split it automatically."
        )
    if len(classes) < 2:
        found = f"only one class folder, '{printable(classes[0])}'" if classes else "no class folders"
        raise TaskError(f"The data folder {shown} has {found}, but it needs at least two. {LAYOUT}")

    pictures: list[Picture] = []
    ignored = 0
    for prefix, held_out in sides:
        for label, name in enumerate(classes):
            if held_out and not (root / prefix / name).is_dir():
                continue
            paths, others = _list_class(root, prefix + name)
            ignored += others
            _check_count(len(paths), folder=f"{shown}/{prefix}{printable(name)}", held_out=held_out)
            pictures += [Picture(path=path, label=label, held_out=held_out) for path in paths]
    if not any(picture.held_out is not False for picture in pictures):
        raise TaskError(f"{shown}/{validation} has no pictures. Add some, or remove the folder.")
    return PictureFolder(root=root, classes=tuple(classes), pictures=tuple(pictures), ignored=ignored)


def _check_count(count: int, *, folder: str, held_out: bool | None) -> None:
    """Raise `TaskError` for a class folder with too few pictures; an empty one in val/ is allowed."""
    if count == 0 and not held_out:
        raise TaskError(f"The class folder {folder} has no pictures. Add some, or remove it.")
    if count == 1 and held_out is None:
        raise TaskError(
            f"The class folder {folder} has only one picture, but it needs two: one for training and one for "
            "validation. Add more, or remove it."
        )


def _find_side(root: Path, top: list[str], names: tuple[str, ...]) -> str | None:
    """Find the folder for one side, which contains class folders; a class may also be called "train"."""
    for name in top:
        if name.lower() in names:
            with os.scandir(root / name) as entries:
                shown = [entry for entry in entries if not entry.name.startswith(".")]
            if any(_is_folder(e) for e in shown) and not any(_is_picture(e) for e in shown):
                return name
    return None


def _subfolders(folder: Path, *, inside: set[tuple[int, int]]) -> list[str]:
    """Return the names of the class folders in `folder`, without links back to the folders it is `inside`."""
    inside = inside | {_identity(folder)}
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith((".", "__MACOSX")) and _is_folder(entry) and _identity(entry) not in inside
        )


def _list_class(root: Path, name: str) -> tuple[list[str], int]:
    """List the pictures in one class folder and the folders inside it, and count the files of other kinds.

    A folder that several links point to is listed once, where it comes first in the order.
    """
    paths: list[str] = []
    others = 0
    seen = {_identity(folder) for folder in (root, (root / name).parent, root / name)}
    waiting = [name]
    while waiting:
        folder = waiting.pop()
        subfolders = []
        with os.scandir(root / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    if _identity(entry) not in seen:
                        seen.add(_identity(entry))
                        subfolders.append(f"{folder}/{entry.name}")
                elif _is_picture(entry):
                    paths.append(f"{folder}/{entry.name}")
                else:
                    others += 1
        waiting += reversed(subfolders)
    return sorted(paths), others


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_picture(entry: os.DirEntry[str]) -> bool:
    try:
        return PurePath(entry.name).suffix.lower() in PICTURE_SUFFIXES and entry.is_file()
    except OSError:
        return False


def _identity(folder: Path | os.DirEntry[str]) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
