"""Opens weights that were made elsewhere: one file of any known format, or a folder in Hugging Face's layout."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relight.runs.records import ImportedFile
from relight.training.weights.pickled_weights import Pickled, read_pickled
from relight.training.weights.safetensors_weights import is_safetensors, read_safetensors
from relight.training.weights.weight_errors import WeightsRefused

WEIGHT_ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_INDEX_ENDING = ".index.json"
_INDEX_BYTES = 100_000_000
_SHARDS = 10_000


@dataclass(frozen=True)
class WeightSource:
    """Opened weights. `tree` holds the tensors, mapped from the files if the format allows it."""

    path: Path
    format: str
    """ "safetensors" or "torch.save", for a folder as well."""
    tree: Any
    files: tuple[ImportedFile, ...]
    notes: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    """Full names of classes and functions in the file that only code could make; they were skipped."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the file; for several files, of the lines that `sha256sum` prints for them."""
        if len(self.files) == 1:
            return self.files[0].sha256
        lines = "".join(f"{file.sha256}  {file.name}\n" for file in self.files)
        return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(file.bytes for file in self.files)


def open_weights(path: Path) -> WeightSource:
    """Open a folder, or a file by its contents; the ending of its name does not matter.

    Raise `WeightsRefused` when it is missing, empty, damaged, of an unknown format, or malicious.
    """
    try:
        return _open_folder(path) if path.is_dir() else _open_file(path)
    except OSError as error:
        raise WeightsRefused(f"{path} cannot be read: {error.strerror or error}.") from error


def _open_file(path: Path) -> WeightSource:
    _check_regular(path)
    size = path.stat().st_size
    if size == 0:
        raise WeightsRefused(f"{path.name} is empty.")
    if is_safetensors(path) or path.suffix == ".safetensors":
        read = Pickled(read_safetensors(path))
        form = "safetensors"
    else:
        read = read_pickled(path)
        form = "torch.save"
    described = _describe_file(path)  # after the file was recognized: hashing a large one takes a while
    if described.bytes != size:
        raise WeightsRefused(f"Another program is writing to {path.name}. Import it when that is done.")
    return WeightSource(path, form, read.tree, (described,), objects=read.objects)


def _open_folder(folder: Path) -> WeightSource:
    for name in _WHOLE:
        if (folder / name).exists():
            return _of_folder(folder, _open_file(folder / name))
        if (folder / (name + _INDEX_ENDING)).exists():
            return _open_shards(folder, folder / (name + _INDEX_ENDING))
    if (folder / ".metadata").exists():
        raise WeightsRefused(
            f"{folder} is a checkpoint of torch.distributed, which contains pickles. Convert it where it was made: "
            "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pth."
        )
    found = sorted(entry.name for entry in folder.iterdir() if entry.suffix in WEIGHT_ENDINGS)
    indexes = [entry for entry in folder.iterdir() if entry.name.endswith(_INDEX_ENDING)]
    if len(indexes) == 1:
        return _open_shards(folder, indexes[0])
    if len(found) == 1:
        return _of_folder(folder, _open_file(folder / found[0]))
    there = (
        f"It has {', '.join(found[:8])}{' …' if len(found) > 8 else ''}: name one of them." if found else "It has none."
    )
    raise WeightsRefused(
        f"{folder} is not a folder with the weights of one model (model.safetensors, pytorch_model.bin, or shards with "
        f"their index). {there}"
    )


def _of_folder(folder: Path, opened: WeightSource) -> WeightSource:
    return replace(opened, path=folder)


def _open_shards(folder: Path, index: Path) -> WeightSource:
    shards = _read_index(index)
    by_file: dict[str, list[str]] = {}
    for key, name in shards.items():
        by_file.setdefault(name, []).append(key)
    if len(by_file) > _SHARDS:
        raise WeightsRefused(f"{index.name} names {len(by_file):,} files, more than any model has.")
    tree: dict[str, Any] = {}
    files: list[ImportedFile] = [_describe_file(index)]
    unnamed: list[str] = []
    form = ""
    for name, keys in sorted(by_file.items()):
        opened = _open_file(folder / name)
        files += opened.files
        form = opened.format
        if not isinstance(opened.tree, dict):
            raise WeightsRefused(f"{name} does not hold tensors by name, although {index.name} says so.")
        missing = [key for key in keys if key not in opened.tree]
        if missing:
            raise WeightsRefused(
                f"{name} does not hold '{missing[0]}'{_and_more(missing)}, although {index.name} says so: files of "
                "different models are mixed, or one is damaged."
            )
        tree.update({key: opened.tree[key] for key in keys})
        unnamed += [key for key in opened.tree if key not in shards]
    notes = (f"{len(unnamed)} tensors that {index.name} does not name ('{unnamed[0]}' …)",) if unnamed else ()
    return WeightSource(folder, form, tree, tuple(files), notes)


def _read_index(path: Path) -> dict[str, str]:
    """Return the file name of each tensor. The index is not trusted: a name outside the folder is refused."""
    _check_regular(path)
    size = path.stat().st_size
    if size > _INDEX_BYTES:
        raise WeightsRefused(f"{path.name} has {size:,} bytes, more than any index of weights needs.")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise WeightsRefused(f"{path.name} is damaged: it is not JSON.") from error
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise WeightsRefused(f"{path.name} is not an index of weights: it has no 'weight_map'.")
    for name in shards.values():
        if not isinstance(name, str) or not name or "\0" in name or "\\" in name or name != os.path.basename(name):  # noqa: PTH119
            raise WeightsRefused(
                f"{path.name} names the file {str(name)[:100]!r} outside its own folder; nothing was read from there."
            )
        if name in (".", ".."):
            raise WeightsRefused(f"{path.name} names the folder {name!r} as a file.")
    return shards


def _describe_file(path: Path) -> ImportedFile:
    """Hash a file. A device or a pipe, which may never end, is refused."""
    _check_regular(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = os.fstat(file.fileno()).st_size
    return ImportedFile(name=path.name, bytes=size, sha256=digest)


def _check_regular(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise WeightsRefused(f"There is no file {path}.") from None
    if not stat.S_ISREG(mode):
        raise WeightsRefused(f"{path} is not a regular file.")


def _and_more(names: Sequence[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
