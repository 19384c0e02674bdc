"""`python -m relight.supervision RUN_FOLDER ATTEMPT [--lock-fd N] [--adopt PID:FD]`: supervise in the background.

With `--adopt` the trainer is a process that already runs; FD is the writing end of its lifeline pipe. The process that
was started leaves the supervisor behind. It exits with 0 as soon as the supervisor is on record, with 1 when that
failed.
"""

from __future__ import annotations

import os
import sys


def main(arguments: list[str]) -> None:
    """Fork a supervisor and leave it behind. Both processes end in this function."""
    reading, writing = os.pipe()
    # A fork is safe only before other modules are imported and threads are started.
    if os.fork():
        os.close(writing)
        os._exit(0 if os.read(reading, 1) else 1)
    os.close(reading)
    try:
        code = _supervise(arguments, ready=writing)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    os._exit(code)


def _supervise(arguments: list[str], *, ready: int) -> int:
    import argparse
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
    parser = argparse.ArgumentParser(prog="python -m relight.supervision")
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("attempt", type=int)
    parser.add_argument("--lock-fd", type=int)
    parser.add_argument("--adopt", metavar="PID:FD")
    options = parser.parse_args(arguments)
    layout = RunLayout(options.run_folder)
    try:
        if options.lock_fd is not None:
            os.set_inheritable(options.lock_fd, False)
            lock = RunLock(options.lock_fd)
        else:
            lock = RunLock.acquire(layout)
    except RelightError as error:
        print(error, file=sys.stderr)  # noqa: T201  stderr is the supervisor's log
        return error.exit_code

    launcher: Launcher = LocalLauncher(layout, lock=lock)
    if options.adopt:
        pid, lifeline = map(int, options.adopt.split(":"))
        os.set_inheritable(lifeline, False)
        launcher = AdoptingLauncher(AdoptedTrainer(pid, lifeline=lifeline))

    def on_ready() -> None:
        os.write(ready, b"1")
        os.close(ready)

    Supervisor(layout, options.attempt, lock=lock, launcher=launcher).run(on_ready=on_ready)
    return 0


if __name__ == "__main__":
    main(sys.argv[1:])
