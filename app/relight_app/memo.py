"""A cache of recent reads, shared by all browser sessions."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class _Entry:
    lasting: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    read_s: float = float("-inf")
    signature: Hashable = None
    value: Any = None


class Memo:
    """Cached values by key. When several sessions ask at once, one of them reads and all get the same value."""

    def __init__(self, *, size: int = 4096, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def recent(self, key: Hashable, read: Callable[[], T], *, max_age_s: float, lasting: bool = False) -> T:
        """Return the value if it was read within `max_age_s`, else read it again. An exception is not cached.

        A `lasting` value is not forgotten when something changes: it is expensive, and may be a few seconds old.
        """
        entry = self._entry(key, lasting=lasting)
        with entry.lock:
            if self._clock() - entry.read_s > max_age_s:
                entry.value = read()
                entry.read_s = self._clock()
            value: T = entry.value
            return value

    def known(self, key: Hashable, *, max_age_s: float) -> Any:
        """Return the value if it was read within `max_age_s`, else None. This neither reads nor waits."""
        with self._lock:
            entry = self._entries.get(key)
        return entry.value if entry is not None and self._clock() - entry.read_s <= max_age_s else None

    def unchanged(self, key: Hashable, signature: Hashable, read: Callable[[], T]) -> T:
        """Return the value if it was read with the same `signature` (such as file sizes), else read it again."""
        entry = self._entry(key, lasting=True)
        with entry.lock:
            if entry.read_s == float("-inf") or entry.signature != signature:
                entry.value = read()
                entry.read_s, entry.signature = self._clock(), signature
            value: T = entry.value
            return value

    def forget(self) -> None:
        """Forget what may be out of date, because something has just changed."""
        with self._lock:
            self._entries = OrderedDict((key, entry) for key, entry in self._entries.items() if entry.lasting)

    def _entry(self, key: Hashable, *, lasting: bool) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(key, _Entry(lasting))
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)
            return entry
