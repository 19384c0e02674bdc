"""`python -m relight.supervision RUN_FOLDER ATTEMPT [--lock-fd N] [--adopt PID:FD]`: supervise an attempt.

With `--lock-fd`, the run's lock is that descriptor, and the supervisor goes into the background: the process that was
started prints the supervisor's pid and ends, before the supervisor has loaded its modules. Without it, the supervisor
takes the lock and stays in the foreground. With `--adopt` the trainer is a process that already runs; FD is the writing
end of its lifeline pipe.
"""

from __future__ import annotations

import contextlib
import os
import sys


def main(arguments: list[str]) -> None:
    """Supervise, and end the process."""
    if "--lock-fd" in arguments:
        _go_into_background()
    try:
        code = _supervise(arguments)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    os._exit(code)


def _go_into_background() -> None:
    # A fork is safe only before other modules are imported and threads are started.
    if os.fork():
        os._exit(0)
    import signal

    # From here on the launch may have ended, and others know the pid: their signals wait until there is an inbox.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    with contextlib.suppress(BrokenPipeError):  # the launch was killed; this process will put itself on record
        os.write(sys.stdout.fileno(), f"{os.getpid()}\n".encode())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def _supervise(arguments: list[str]) -> int:
    import logging
    from pathlib import Path

    from relight.errors import RelightError
    from relight.runs.layout import RunLayout
    from relight.runs.lock import RunLock
    from relight.supervision.adopting_launcher import AdoptedTrainer, AdoptingLauncher
    from relight.supervision.launcher import Launcher
    from relight.supervision.local_launcher import LocalLauncher
    from relight.supervision.supervisor import Supervisor

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    folder, number, *rest = arguments
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    layout = RunLayout(Path(folder))
    try:
        if "--lock-fd" in options:
            lock = RunLock(int(options["--lock-fd"]))
            os.set_inheritable(lock.fileno(), False)
        else:
            lock = RunLock.acquire(layout)
    except RelightError as error:
        print(error, file=sys.stderr)  # noqa: T201  stderr is the supervisor's log
        return error.exit_code

    launcher: Launcher = LocalLauncher(layout, lock=lock)
    if "--adopt" in options:
        pid, lifeline = map(int, options["--adopt"].split(":"))
        os.set_inheritable(lifeline, False)
        launcher = AdoptingLauncher(AdoptedTrainer(pid, lifeline=lifeline))

    Supervisor(layout, int(number), lock=lock, launcher=launcher).run()
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
