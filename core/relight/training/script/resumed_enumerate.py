"""Lets `enumerate(loader)` count on after a resume, instead of from 0.

`enumerate` counts what it gets, and after a resume a loader gives it only the rest of the pass. So until a resume has
reached its place, the script's own modules find a function of that name which adds the batches that are left out. The
built-in itself stays as it is, since libraries inspect it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import GeneratorType
from typing import Any

from relight.training.script.loop_source import is_foreign

_NAME = "enumerate"
_DEEPEST = 4
"""Progress bars around each other."""


class BatchCount(int):
    """What `loader.batch` returns: a number of batches that already counts those before a resume."""


class ResumedEnumerate:
    """What the name `enumerate` means in the script's own modules, from `install` to `remove`."""

    def __init__(self, loader_kind: type) -> None:
        self._loader_kind = loader_kind
        self._changed: list[dict[str, Any]] = []

    def is_loader(self, value: Any) -> bool:
        """Tell whether `value` is a loader of the script's."""
        return isinstance(value, self._loader_kind)

    def install(self) -> None:
        """Define the name in every module of the script's that is loaded by now and does not define it already."""
        for module in list(sys.modules.values()):
            file, names = getattr(module, "__file__", None), getattr(module, "__dict__", None)
            if isinstance(file, str) and names is not None and not is_foreign(file) and _NAME not in names:
                names[_NAME] = self._count
                self._changed.append(names)

    def remove(self) -> None:
        """Let the name mean the built-in again."""
        for names in self._changed:
            names.pop(_NAME, None)
        self._changed.clear()

    def _count(self, iterable: Iterable[Any], start: int = 0) -> Iterator[tuple[int, Any]]:
        loader = self._find_loader(iterable)
        return enumerate(iterable, start) if loader is None else _count_on(iterable, loader, start)

    def _find_loader(self, iterable: Any) -> Any:
        """Return the loader, also from inside a progress bar: tqdm's, or a library's generator such as rich's."""
        for _ in range(_DEEPEST):
            if self.is_loader(iterable):
                return iterable
            if isinstance(iterable, GeneratorType) and iterable.gi_frame is not None and is_foreign(_file_of(iterable)):
                inside = iterable.gi_frame.f_locals.values()
                iterable = next(filter(self.is_loader, inside), None)
            else:
                iterable = getattr(iterable, "iterable", None)
        return None


def _file_of(generator: GeneratorType[Any, Any, Any]) -> str:
    return generator.gi_code.co_filename


def _count_on(iterable: Iterable[Any], loader: Any, start: int) -> Iterator[tuple[int, Any]]:
    number = -1
    for item in iterable:
        if number < 0:  # only now the loader knows where its pass continues
            number = loader.skipped + (0 if isinstance(start, BatchCount) else start)
        yield number, item
        number += 1
