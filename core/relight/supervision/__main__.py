"""`python -m relight.supervision RUN_FOLDER ATTEMPT [--lock-fd N] [--watch PID:FD] [-- COMMAND ...]`: supervises.

It does so in the background. With `--watch` the trainer is a process that lives already; FD is the writing end of its
life line.

The process that was started ends with 0 as soon as the supervisor, which it leaves behind, is on record; with 1 when
that failed.
"""

from __future__ import annotations

import os
import sys


def main(arguments: list[str]) -> None:
    """Leave a supervisor behind; both processes end in here."""
    reading, writing = os.pipe()
    # Before anything is imported and any thread started: a fork is safe only then.
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
    import logging
    from pathlib import Path

    from relight.errors import RelightError
    from relight.runs.layout import RunLayout
    from relight.runs.lock import RunLock
    from relight.supervision.supervisor import Supervisor
    from relight.supervision.watched_trainer import WatchedTrainer

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    arguments, _, command = _split(arguments, "--")
    arguments, _, watch = _split(arguments, "--watch")
    positional, _, rest = _split(arguments, "--lock-fd")
    layout = RunLayout(Path(positional[0]))
    try:
        if rest:
            os.set_inheritable(int(rest[0]), False)
            lock = RunLock(int(rest[0]))
        else:
            lock = RunLock.acquire(layout)
    except RelightError as error:
        print(error, file=sys.stderr)  # noqa: T201  stderr is the supervisor's log
        return error.exit_code

    watched = None
    if watch:
        pid, _, lifeline = watch[0].partition(":")
        os.set_inheritable(int(lifeline), False)
        watched = WatchedTrainer(int(pid), lifeline=int(lifeline))

    def on_ready() -> None:
        os.write(ready, b"1")
        os.close(ready)

    supervisor = Supervisor(layout, int(positional[1]), lock=lock, command=command or None, watched=watched)
    supervisor.run(on_ready=on_ready)
    return 0


def _split(arguments: list[str], separator: str) -> tuple[list[str], str, list[str]]:
    if separator not in arguments:
        return arguments, "", []
    at = arguments.index(separator)
    return arguments[:at], separator, arguments[at + 1 :]


if __name__ == "__main__":
    main(sys.argv[1:])
