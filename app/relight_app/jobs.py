"""Background work: what an action does. One piece of work per subject at any time, for all who ask for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, Literal

_log = logging.getLogger(__name__)
KEPT_S = 3600.0
"""How long the result of a job is shown."""


@dataclass(frozen=True)
class Job:
    """A piece of work as it was at one moment. `result` is set once it is "done", and `error` once it is "failed"."""

    state: Literal["running", "done", "failed"] = "running"
    result: Any = None
    error: BaseException | None = None
    told: tuple[str, ...] = ()
    """Progress so far, as sentences."""

    @property
    def is_running(self) -> bool:
        """Whether the work has not ended."""
        return self.state == "running"


class Work:
    """A piece of work and its thread."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        self.job = Job()
        self.ended_s: float | None = None
        self._on_change = on_change
        self._ended = threading.Event()

    def wait(self, timeout_s: float) -> Job:
        """Wait until the work ends, but no longer than `timeout_s`, and return its job."""
        self._ended.wait(timeout_s)
        return self.job

    def tell(self, sentence: str) -> None:
        """Add a sentence about the progress."""
        self.job = replace(self.job, told=(*self.job.told, sentence))
        self._on_change()

    def run(self, work: Callable[[Work], Any]) -> None:
        """Do the work in this thread."""
        try:
            result = work(self)
        except BaseException as error:  # the request that waits for the job reports it
            _log.debug("a job failed", exc_info=True)
            self.job = replace(self.job, state="failed", error=error)
        else:
            self.job = replace(self.job, state="done", result=result)
        self.ended_s = time.time()
        self._on_change()
        self._ended.set()


class Jobs:
    """The work of this server, by subject."""

    def __init__(self) -> None:
        self.version = 0
        """Counts the changes: a start, a sentence, an end."""
        self._works: dict[Hashable, Work] = {}
        self._lock = threading.Lock()

    def start(self, subject: Hashable, work: Callable[[Work], Any]) -> Work:
        """Do `work` in a thread of its own. While it runs, starting the same subject again returns the same work."""
        with self._lock:
            self._forget_old()
            known = self._works.get(subject)
            if known is not None and known.job.is_running:
                return known
            self._works.pop(subject, None)  # the newest is the last
            begun = self._works[subject] = Work(self._count)
        self._count()
        threading.Thread(target=begun.run, args=(work,), name=f"relight-job-{subject}", daemon=True).start()
        return begun

    def restore(self, subject: Hashable, result: Any, *, ended_s: float) -> None:
        """Have the result of an earlier server as a job that is done. The newest is restored last."""
        work = Work(self._count)
        work.job, work.ended_s = Job("done", result=result), ended_s
        with self._lock:
            self._works.pop(subject, None)
            self._works[subject] = work

    def find(self, subject: Hashable) -> Job | None:
        """Return the newest job of that subject as it is now; None without one."""
        known = self._works.get(subject)
        return known.job if known is not None else None

    def find_newest(self, kind: str, run: str) -> Job | None:
        """Return the newest job whose subject begins with a kind and a run; None without one."""
        with self._lock:
            subjects = [subject for subject in self._works if isinstance(subject, tuple)]
        mine = [subject for subject in subjects if subject[:2] == (kind, run)]
        return self.find(mine[-1]) if mine else None

    def _count(self) -> None:
        self.version += 1

    def _forget_old(self) -> None:
        now = time.time()
        for subject, known in list(self._works.items()):
            if known.ended_s is not None and now - known.ended_s > KEPT_S:
                del self._works[subject]
