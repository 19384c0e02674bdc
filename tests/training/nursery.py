"""Imports torch once and forks a trainer for each request, because the import takes seconds: `python nursery.py`.

A request is one JSON line on stdin: `run` and `attempt`, files for `log` and `exit_code`, the working `folder`, and
`environment` variables. The answer on stdout is the child's pid. Each child is a separate process in its own session,
takes the run's lock, and runs the same code as `python -m relight.training`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
from pathlib import Path
from typing import Any, NoReturn


def main() -> None:
    """Serve until "quit" arrives on stdin or stdin is closed."""

    import torch._dynamo  # noqa: F401  every optimizer imports it, for a second

    import relight.training.assembly
    import relight.training.data.loader
    import relight.training.script.start  # noqa: F401
    from relight.training.tasks import digits  # noqa: F401

    children: dict[int, Path] = {}
    while True:
        readable, _, _ = select.select([0], [], [], 0.005 if children else None)
        if readable:
            line = _read_line()
            if line in (b"", b"quit\n"):
                return
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _become_trainer(request)
            children[pid] = Path(request["exit_code"])
            os.write(1, f"{pid}\n".encode())
        for pid in list(children):
            with contextlib.suppress(ChildProcessError):
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    temporary = children[pid].with_suffix(".tmp")
                    temporary.write_text(str(os.waitstatus_to_exitcode(status)))
                    temporary.rename(children.pop(pid))


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return line


def _become_trainer(request: dict[str, Any]) -> None:
    code = 70
    try:
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(request["folder"])
        os.environ.update(request["environment"])
        from relight.runs.layout import RunLayout
        from relight.runs.lock import RunLock
        from relight.training.__main__ import main as train

        lock = RunLock.acquire(RunLayout(Path(request["run"])), timeout_s=30)
        os.environ["RELIGHT_LOCK_FD"] = str(lock.fileno())
        if request.get("lifeline"):
            os.environ["RELIGHT_LIFELINE_FD"] = str(os.open(request["lifeline"], os.O_RDONLY))
        if request.get("script"):
            _run_script(request)
        code = train([request["run"], str(request["attempt"])])
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_script(request: dict[str, Any]) -> NoReturn:
    """Run a script as the supervisor would, including the interpreter's exit."""
    import atexit
    import runpy

    os.environ["RELIGHT_RUN_FOLDER"], os.environ["RELIGHT_ATTEMPT"] = request["run"], str(request["attempt"])
    if "RELIGHT_LIFELINE_FD" not in os.environ:
        reading, _ = os.pipe()  # the writing end stays open as long as this process lives
        os.environ["RELIGHT_LIFELINE_FD"] = str(reading)
    sys.argv[:] = request["script"]
    sys.path[0:1] = [str(Path(request["script"][0]).parent)]
    code: Any = 0
    try:
        runpy.run_path(request["script"][0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    main()
