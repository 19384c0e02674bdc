"""Refuses to run the code that a run's folder names when the run was not made here, unless the user says so."""

from __future__ import annotations

import shlex
from pathlib import Path

from relight.errors import UntrustedRun
from relight.runs.catalog import find_home
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record_or_none, write_record
from relight.runs.records import Home, RunRecord, TaskReference


def require_trust(layout: RunLayout, record: RunRecord, *, trust: bool = False) -> None:
    """Raise `UntrustedRun` if the run's task is somebody else's code: its message shows what would run.

    A built-in task is Relight's own code. Other code may run if the run was made in the runs folder in which it is now,
    unless it is inside the folder of a run. With `trust` the user allows it, and the run's folder remembers that.
    """
    task = record.task
    if task.kind == "builtin":
        return
    here = find_home(layout.folder.parent)
    if trust:
        write_record(layout.trust, here)
        return
    if read_record_or_none(layout.trust, Home) == here:
        return
    inside = _find_code_in_a_run(task, layout.folder.parent)
    if record.home == here and inside is None:
        return
    why = f"names code inside the folder of a run ({inside})" if inside else "was not made in this runs folder"
    raise UntrustedRun(
        f"Run {layout.run_id!r} {why}. To train it means to run: {_word_command(task)}. If you trust that, say so in a "
        f"terminal: relight resume {layout.run_id} --trust (or relight branch with --trust)."
    )


def _find_code_in_a_run(task: TaskReference, runs: Path) -> str | None:
    runs = runs.resolve()
    for named in (task.python, task.path, task.working_folder):
        if named is None:
            continue
        # Links may lead into the folder of a run, and out of it: the interpreter of a virtual environment is a link.
        for path in (Path(named).parent.resolve() / Path(named).name, Path(named).resolve()):
            parts = path.relative_to(runs).parts if path.is_relative_to(runs) else ()
            if parts and RunLayout(runs / parts[0]).is_run():
                return named
    return None


def _word_command(task: TaskReference) -> str:
    where = f" (in {task.working_folder})" if task.working_folder else ""
    if task.kind == "file":
        return f"the code in {task.path}{where}"
    target = ("-m", task.module) if task.module else (str(task.path),)
    return shlex.join([task.python or "python", *target, *task.arguments]) + where
