"""`python -m relight.supervision RUN_FOLDER ATTEMPT [--lock-fd N] [-- COMMAND ...]`: supervises in the background.

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

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    arguments, _, command = _split(arguments, "--")
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

    def on_ready() -> None:
        os.write(ready, b"1")
        os.close(ready)

    Supervisor(layout, int(positional[1]), lock=lock, command=command or None).run(on_ready=on_ready)
    return 0


def _split(arguments: list[str], separator: str) -> tuple[list[str], str, list[str]]:
    if separator not in arguments:
        return arguments, "", []
    at = arguments.index(separator)
    return arguments[:at], separator, arguments[at + 1 :]


if __name__ == "__main__":
    main(sys.argv[1:])
