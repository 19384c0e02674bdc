"""The end of a trainer's process: what a task left behind must not keep a run that is over from ending."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import sys
import threading
import time

EXIT_WITHIN_S = 30.0
_log = logging.getLogger("relight")


def end_soon(code: int, *, within_s: float = EXIT_WITHIN_S) -> None:
    """Let Python end, and end it with `code` after `within_s` at the latest.

    Python waits at its end for every thread that is not a daemon and for every process of `multiprocessing`. Those that
    load data ignore the SIGTERM with which it would end them, since a stop is the trainer's decision: they are killed.
    """
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
    threading.Thread(target=_end_by_force, args=(code, within_s), daemon=True, name="relight-exit").start()


def _end_by_force(code: int, within_s: float) -> None:
    time.sleep(within_s)
    left = [
        f"thread {thread.name}" for thread in threading.enumerate() if not thread.daemon and thread.name != "MainThread"
    ]
    left += [f"process {child.name} (pid {child.pid})" for child in multiprocessing.active_children()]
    _log.warning(
        "The trainer did not end within %g s after its last words, and ends now. Left behind: %s.",
        within_s,
        ", ".join(left) or "nothing that Python knows of",
    )
    sys.stdout.flush()
    faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
    os._exit(code)
