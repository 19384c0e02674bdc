"""Which files of a folder this process opens for reading, counted by Python's own audit events."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_counting: list[tuple[str, Counter[str]]] = []
_hooks: list[object] = []


@contextmanager
def count_reads(folder: Path) -> Iterator[Counter[str]]:
    """Count, by path relative to `folder`, how often a file in it is opened for reading while the block runs."""
    if not _hooks:  # an audit hook cannot be removed, so there is one for all tests
        _hooks.append(_hear)
        sys.addaudithook(_hear)
    opened: Counter[str] = Counter()
    watched = (f"{folder}{os.sep}", opened)
    _counting.append(watched)
    try:
        yield opened
    finally:
        _counting.remove(watched)


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or not _counting:
        return
    path, _, flags = arguments
    if not isinstance(path, str | os.PathLike) or not isinstance(flags, int) or flags & os.O_ACCMODE != os.O_RDONLY:
        return
    for prefix, opened in _counting:
        if (name := str(path)).startswith(prefix) and not flags & os.O_DIRECTORY:
            opened[name.removeprefix(prefix)] += 1
