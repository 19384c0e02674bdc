"""`python -m relight.training RUN_FOLDER ATTEMPT` runs one attempt of a run; its supervisor starts it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from relight.training.leaving import leave
from relight.training.log_streams import log_to, tolerate_write_errors
from relight.training.task_attempt import close_in_children, run_attempt

_LOOKS_BEFORE_SLEEP = "10000"


def main(arguments: list[str]) -> int:
    """Run the attempt; the environment may name a life line and a lock that the supervisor has handed over."""
    if len(arguments) != 2 or not arguments[1].isdigit():
        sys.stderr.write("usage: python -m relight.training RUN_FOLDER ATTEMPT\n")
        return 2
    _forget_working_folder()
    tolerate_write_errors()
    log_to(sys.stdout)
    _choose_waiting()
    lifeline, lock_fd = _inherited_fd("RELIGHT_LIFELINE_FD"), _inherited_fd("RELIGHT_LOCK_FD")
    close_in_children(tuple(fd for fd in (lifeline, lock_fd) if fd is not None))
    code = run_attempt(Path(arguments[0]).absolute(), int(arguments[1]), lifeline=lifeline, lock_fd=lock_fd)
    leave(code, lifeline=lifeline)
    return code


def _forget_working_folder() -> None:
    """Take the folder that `python -m` puts first off `sys.path`: a person's file brings its own."""
    if not sys.flags.safe_path and sys.path and Path(sys.path[0] or ".").resolve() == Path.cwd():
        del sys.path[0]


def _choose_waiting() -> None:
    """Let OpenMP's threads, while they wait for each other, look a few thousand times and then sleep.

    Their own way is to spin far longer. As soon as something else wants the processors, that costs more than it saves;
    to sleep at once costs a tenth of the speed on a quiet machine (`benchmarks/thread_waiting.py`). The OpenMP library
    reads this when torch loads it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", _LOOKS_BEFORE_SLEEP)


def _inherited_fd(variable: str) -> int | None:
    """The descriptor that `variable` names, if it is open here; what the task starts must not inherit it."""
    try:
        descriptor = int(os.environ.pop(variable, ""))
        os.set_inheritable(descriptor, False)
    except (ValueError, OSError):
        return None
    return descriptor


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
