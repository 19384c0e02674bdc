"""`drill`: proves, before a long training, that a killed run comes back bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from relight.cli.options import (
    MORE,
    ArgumentsArgument,
    JsonOption,
    PythonOption,
    RunsOption,
    SetOption,
    TaskArgument,
    examples,
)
from relight.cli.output import say, say_error, say_json
from relight.wording import count, describe_duration

if TYPE_CHECKING:
    from relight.drill.rehearsal import DrillReport


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "drill",
        rich_help_panel=MORE,
        epilog=examples(
            "relight drill digits",
            "relight drill spiral.py:Spiral --set workers=2 --steps 100",
            "relight drill train.py -- --lr 3e-4",
        ),
    )(drill)


def drill(
    task: TaskArgument,
    *,
    arguments: ArgumentsArgument = None,
    assignments: SetOption = None,
    python: PythonOption = None,
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=3, help="Steps to train.")] = 40,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1, help="How long each training may take.")
    ] = 600.0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep both runs, to look at them.")] = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Prove that a killed run of a task comes back bit for bit.

    Trains a few steps, kills the trainer with -9 in mid-epoch, resumes, and compares with a run that nobody killed.

    Says "bit-exact", or what differs first, the likely cause and its cure; then the exit code is 1. Works in a
    temporary runs folder, which is removed after. The result is kept: the pages of the task's runs show it.
    """
    from relight.cli.task_argument import prepare_task
    from relight.drill.rehearsal import hold_and_keep
    from relight.runs.catalog import runs_folder

    prepared = prepare_task(task, assignments or (), arguments=arguments or (), python=python)
    report = hold_and_keep(
        runs_folder(runs),
        prepared.reference,
        config=prepared.config,
        best_metric=prepared.best_metric,
        higher_is_better=prepared.higher_is_better,
        steps=steps,
        keep=keep,
        timeout_s=timeout_s,
        tell=(lambda text: None) if json else say,
    )
    if json:
        say_json(report)
    else:
        _say_report(report)
    if not report.bit_exact:
        raise typer.Exit(1)


def _say_report(report: DrillReport) -> None:
    lost = report.killed_at_step - report.resumed_from_step
    state = f"{count(report.tensors_compared, 'tensor')} and all other state"
    compared = f"{state} at {count(report.checkpoints_compared, 'step')}"
    compared += f", logged values at {count(report.metric_steps_compared, 'step')}"
    if report.bit_exact:
        say(f"bit-exact: {report.task} came back from kill -9 as if nothing had happened.")
        say(f"Compared {compared}; {count(lost, 'step')} trained again; took {describe_duration(report.duration_s)}.")
        say(f"Digest {report.digest}")
        if not report.mid_epoch:
            say("Its epochs are so short that it was killed at the edge of one.")
    else:
        first = report.first_difference
        killed = f"after a kill -9 at step {report.killed_at_step}"
        say_error(f"{report.task} is not bit-exact {killed}, resumed from step {report.resumed_from_step}.")
        if first is not None:
            say(f"First difference: {first.part} {first.name}, at step {first.step}: {first.detail}")
            say(f"Cause: {first.cause}")
            say(f"Cure: {first.cure}")
            if first.others:
                say(f"{count(first.others, 'other thing')} differ at that step, too.")
        say(f"Compared {compared}.")
    if report.folder is not None:
        say(f"Both runs are kept: relight list --runs {report.folder}")
