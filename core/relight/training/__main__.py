"""`python -m relight.training RUN_FOLDER ATTEMPT`: the process in which the supervisor runs one attempt of a task."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from relight.training.attempt_ending import STOPPED
from relight.training.leaving import leave
from relight.training.log_streams import log_to, tolerate_write_errors
from relight.training.ranks.place import find_place
from relight.training.task_attempt import close_in_children, run_attempt

_SPINS_BEFORE_SLEEP = "10000"


def main(arguments: list[str]) -> int:
    """Run the attempt and return its exit code.

    The environment may name the descriptors of a life line and of the run's lock, which the supervisor handed over.
    """
    if len(arguments) != 2 or not arguments[1].isdigit():
        sys.stderr.write("usage: python -m relight.training RUN_FOLDER ATTEMPT\n")
        return 2
    _forget_working_folder()
    tolerate_write_errors()
    log_to(sys.stdout)
    _limit_spinning()
    lifeline, lock_fd = _inherited_fd("RELIGHT_LIFELINE_FD"), _inherited_fd("RELIGHT_LOCK_FD")
    close_in_children(tuple(fd for fd in (lifeline, lock_fd) if fd is not None))
    code = run_attempt(Path(arguments[0]).absolute(), int(arguments[1]), lifeline=lifeline, lock_fd=lock_fd)
    leave(code, lifeline=lifeline)
    # To torchrun, any other code is a failure. How the training ended is on record.
    return 0 if code == STOPPED and find_place() is not None else code


def _forget_working_folder() -> None:
    """Remove the working folder from `sys.path`, where `python -m` puts it first.

    The task's file puts its own folder there instead.
    """
    if not sys.flags.safe_path and sys.path and Path(sys.path[0] or ".").resolve() == Path.cwd():
        del sys.path[0]


def _limit_spinning() -> None:
    """Let OpenMP's threads spin a few thousand times while they wait for each other, and then sleep.

    By default they spin far longer, which costs more than it saves as soon as other processes need the processors.
    Sleeping at once would make training on an idle machine 10 % slower (`benchmarks/thread_waiting.py`). The OpenMP
    library reads these variables when torch loads it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS_BEFORE_SLEEP)


def _inherited_fd(variable: str) -> int | None:
    """Return the descriptor that the environment variable names, or None if it is not open.

    The processes that the task starts do not inherit it.
    """
    try:
        descriptor = int(os.environ.pop(variable, ""))
        os.set_inheritable(descriptor, False)
    except (ValueError, OSError):
        return None
    return descriptor


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
