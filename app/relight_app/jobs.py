"""Work that a page starts and does not wait for: exports, drills, resumes that must wait. One table for each server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

_log = logging.getLogger(__name__)
_KEPT_S = 3600.0


@dataclass
class Job:
    """One piece of work. `result` counts once `state` is "done", `error` once it is "failed"."""

    began_s: float
    state: Literal["running", "done", "failed"] = "running"
    result: Any = None
    error: BaseException | None = None
    ended_s: float | None = None
    told: tuple[str, ...] = ()
    """What the work has said of itself so far, sentence by sentence."""
    _ended: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within that time."""
        return self._ended.wait(timeout_s)

    def tell(self, sentence: str) -> None:
        """Say how the work goes."""
        self.told = (*self.told, sentence)

    def _end(self, state: Literal["done", "failed"]) -> None:
        self.ended_s = time.time()
        self.state = state
        self._ended.set()


class Jobs:
    """Jobs by key: while one runs, starting it again returns the same one."""

    def __init__(self) -> None:
        self._jobs: dict[Hashable, Job] = {}
        self._lock = threading.Lock()

    def start(self, key: Hashable, work: Callable[[], Any]) -> Job:
        """Do `work` in a thread of its own, unless it is being done already."""
        return self.start_telling(key, lambda job: work())

    def start_telling(self, key: Hashable, work: Callable[[Job], Any]) -> Job:
        """As `start`, for work that tells its own job how it goes."""
        with self._lock:
            self._forget_old()
            known = self._jobs.get(key)
            if known is not None and known.state == "running":
                return known
            job = self._jobs[key] = Job(began_s=time.time())
        threading.Thread(target=_run, args=(job, work), name=f"relight-job-{key}", daemon=True).start()
        return job

    def find(self, key: Hashable) -> Job | None:
        """The newest job of that key."""
        return self._jobs.get(key)

    def forget(self, key: Hashable) -> None:
        """Drop what is known of a job that has ended."""
        with self._lock:
            job = self._jobs.get(key)
            if job is not None and job.state != "running":
                del self._jobs[key]

    def _forget_old(self) -> None:
        now = time.time()
        for key, job in list(self._jobs.items()):
            if job.ended_s is not None and now - job.ended_s > _KEPT_S:
                del self._jobs[key]


def _run(job: Job, work: Callable[[Job], Any]) -> None:
    try:
        job.result = work(job)
    except BaseException as error:  # it belongs to whoever asks for the job, not to this thread
        _log.debug("a job failed", exc_info=True)
        job.error = error
        job._end("failed")
    else:
        job._end("done")
