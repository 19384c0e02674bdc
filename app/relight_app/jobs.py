"""Background work that a page starts and does not wait for: exports, drills, slow resumes and branches."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, Literal

_log = logging.getLogger(__name__)
_KEPT_S = 3600.0


@dataclass(frozen=True)
class Job:
    """A piece of work as it was at one moment; it never changes, so all parts of a page that share it agree.

    `result` is set once `state` is "done", and `error` once it is "failed".
    """

    state: Literal["running", "done", "failed"] = "running"
    result: Any = None
    error: BaseException | None = None
    told: tuple[str, ...] = ()
    """Progress so far, as sentences."""


class Work:
    """A piece of work and its thread."""

    def __init__(self) -> None:
        self.job = Job()
        self.ended_s: float | None = None
        self._ended = threading.Event()

    def wait(self, timeout_s: float) -> Job:
        """Wait until the work ends, but no longer than `timeout_s`, and return its job."""
        self._ended.wait(timeout_s)
        return self.job

    def tell(self, sentence: str) -> None:
        """Add a sentence about the progress."""
        self.job = replace(self.job, told=(*self.job.told, sentence))

    def run(self, work: Callable[[Work], Any]) -> None:
        """Do the work in this thread."""
        try:
            result = work(self)
        except BaseException as error:  # the page that reads the job reports it
            _log.debug("a job failed", exc_info=True)
            self.job = replace(self.job, state="failed", error=error)
        else:
            self.job = replace(self.job, state="done", result=result)
        self.ended_s = time.time()
        self._ended.set()


class Jobs:
    """One piece of work per key at any time; one table for all sessions of this server."""

    def __init__(self) -> None:
        self._works: dict[Hashable, Work] = {}
        self._lock = threading.Lock()

    def start(self, key: Hashable, work: Callable[[], Any]) -> Work:
        """Do `work` in a thread of its own; while it runs, starting the same key again returns the same work."""
        return self.start_telling(key, lambda _: work())

    def start_telling(self, key: Hashable, work: Callable[[Work], Any]) -> Work:
        """As `start`, for work that reports its progress with `tell`."""
        with self._lock:
            self._forget_old()
            known = self._works.get(key)
            if known is not None and known.job.state == "running":
                return known
            begun = self._works[key] = Work()
        threading.Thread(target=begun.run, args=(work,), name=f"relight-job-{key}", daemon=True).start()
        return begun

    def find(self, key: Hashable) -> Job | None:
        """Return the newest job of that key as it is now; None without one."""
        known = self._works.get(key)
        return known.job if known is not None else None

    def forget(self, key: Hashable) -> None:
        """Drop a job that has ended."""
        with self._lock:
            known = self._works.get(key)
            if known is not None and known.job.state != "running":
                del self._works[key]

    def _forget_old(self) -> None:
        now = time.time()
        for key, known in list(self._works.items()):
            if known.ended_s is not None and now - known.ended_s > _KEPT_S:
                del self._works[key]
