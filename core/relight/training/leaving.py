"""The end of a trainer's process: nothing that the training left behind keeps a finished run from ending."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import select
import signal
import sys
import threading
import time

EXIT_WITHIN_S = 30.0
_ORPHANED_EXIT_CODE = 130
_log = logging.getLogger("relight")


def leave(code: int, *, lifeline: int | None) -> None:
    """Prepare the end of this process: Python ends it with `code`, within `EXIT_WITHIN_S` seconds at the latest.

    When the other end of `lifeline` is closed, the supervisor is dead. Then the process ends here and now: a resume
    waits for the lock that we hold, and unloading torch takes a while.
    """
    if lifeline is not None and select.select([lifeline], [], [], 0)[0]:
        sys.stdout.flush()
        os._exit(_ORPHANED_EXIT_CODE)
    # At its end Python waits for every thread that is not a daemon and for every process of `multiprocessing`, which it
    # sends SIGTERM. Data-loading processes ignore that signal, because a stop is the trainer's decision: kill them.
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
    end_within(EXIT_WITHIN_S, code)


def end_within(seconds: float, code: int) -> None:
    """Let this process end with `code` after so many seconds, if it has not ended by then."""
    try:
        threading.Thread(target=_end_by_force, args=(seconds, code), daemon=True, name="relight-exit").start()
    except RuntimeError:  # in an `atexit` function, where Python 3.12 and later start no threads
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _end_by_force(seconds: float, code: int) -> None:
    time.sleep(seconds)
    left = [
        f"thread {thread.name}" for thread in threading.enumerate() if not thread.daemon and thread.name != "MainThread"
    ]
    left += [f"process {child.name} (pid {child.pid})" for child in multiprocessing.active_children()]
    _log.warning(
        "The trainer has not ended %g s after the training did, so Relight ends it now. Still running: %s.",
        seconds,
        ", ".join(left) or "nothing that Python knows of",
    )
    sys.stdout.flush()
    faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
    os._exit(code)
