"""`run --id`, which trains in this process, and `run --on ray|kubernetes`, which writes a job that types it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from relight.cli.output import say, say_error, say_json
from relight.cli.start_lines import tell_lines, word_start
from relight.errors import RelightError, UsageError

if TYPE_CHECKING:
    from relight.mirror.address import MirrorAddress
    from relight.supervision.own_process import Wish


def train_in_this_process(folder: Path, wish: Wish, *, json: bool) -> int:
    """Start or continue the run and supervise it in this process; return the exit code."""
    from relight.cli.following import tell_story
    from relight.overview.summary import summarize_run
    from relight.runs.layout import RunLayout
    from relight.supervision.own_process import FINISHED, OwnProcess

    process = OwnProcess()
    launched = process.begin(folder, wish, tell=lambda line: tell_lines([line], json=json))
    if launched is not None and launched.attempt > 1:
        tell_lines(word_start(launched), json=json)
    code = FINISHED
    if launched is not None:
        with tell_story(launched.layout, attempt=launched.attempt, quiet=json):
            code = process.supervise(launched)
    if json:
        say_json(summarize_run(RunLayout(folder / wish.run_id)))
    return code


def write_job(
    on: str,
    task: str,
    *,
    arguments: list[str] | None,
    assignments: list[str] | None,
    name: str | None,
    restarts: int,
    nproc: str | None,
    to: Path | None,
    image: str | None,
    run_id: str | None,
    mirror: MirrorAddress | None,
    python: Path | None,
    is_module: bool,
    runs: Path | None,
    json: bool,
) -> None:
    """Write the file with which Ray or Kubernetes trains the run, and say what to type next."""
    from relight.cli.task_argument import prepare_task
    from relight.runs.catalog import runs_folder
    from relight.runs.ids import new_run_ids
    from relight.supervision.job_files import (
        IMAGE,
        KUBERNETES,
        RUNS_THERE,
        write_ray_script,
        write_train_job,
    )
    from relight.supervision.nproc import choose_nproc

    if json and to is None:
        raise UsageError("--json needs --to FILE: without it, the job is printed.")
    if nproc == "auto":
        raise UsageError("--nproc auto counts the GPUs of this machine. Give the number of ranks.")
    ranks = choose_nproc(nproc) or 1
    prepared = prepare_task(task, assignments or (), arguments=arguments or (), python=python, is_module=is_module)
    run_id = run_id or next(new_run_ids(name or prepared.reference.name))
    command = ["relight", "run", *(["-m"] if is_module else []), task, "--id", run_id]
    command += [part for each in assignments or () for part in ("--set", each)]
    command += ["--name", name] if name else []
    command += ["--restarts", str(restarts)] if restarts else []
    command += ["--nproc", str(ranks)] if ranks > 1 else []
    command += ["--python", str(python)] if python else []
    command += ["--mirror", mirror.url] if mirror is not None else []
    command += ["--runs", RUNS_THERE if on == KUBERNETES else str(runs_folder(runs))]
    command += ["--", *arguments] if arguments else []
    cards = 0 if prepared.config.get("device") == "cpu" else ranks
    file = str(to) if to is not None else "FILE"
    if on == KUBERNETES:
        job = write_train_job(run_id, command, image=image or IMAGE, gpus=cards, mirror=mirror, file=file)
    elif image is not None:
        raise UsageError("--image is for --on kubernetes.")
    else:
        job = write_ray_script(run_id, command, folder=str(Path.cwd()), gpus=cards, file=file)
    if to is None:
        say(job.text.rstrip("\n"))
        for line in job.next_lines:
            say_error(line)
        return
    try:
        to.write_text(job.text)
    except OSError as error:
        raise RelightError(f"{str(to)!r} cannot be written: {error.strerror or error}.") from error
    if json:
        say_json({"run": run_id, "file": str(to)})
    tell_lines([f"Wrote {to}.", *job.next_lines], json=json)
