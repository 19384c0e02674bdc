"""`run`, `stop`, `resume` and `branch`: the commands that start and end training."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relight.cli.options import (
    LAUNCHING,
    ArgumentsArgument,
    DetachOption,
    JsonOption,
    NameOption,
    PythonOption,
    RunArgument,
    RunsOption,
    SetOption,
    TaskArgument,
    examples,
)
from relight.cli.output import say, say_error, say_json
from relight.errors import RelightError
from relight.wording import count

if TYPE_CHECKING:
    from relight.cli.interruptions import Interruptions
    from relight.overview.summary import RunSummary
    from relight.runs.layout import RunLayout
    from relight.runs.records import AttemptStart
    from relight.supervision.attempt_start import Launched

_FORCE_S = 30.0
"""How long a stop may take after its grace: the trainer is then ended by force."""

RestartsOption = Annotated[
    int,
    typer.Option(
        "--restarts",
        metavar="N",
        min=0,
        help="Restart a crashed trainer by itself, up to N times, from its checkpoint.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        "run",
        rich_help_panel=LAUNCHING,
        epilog=examples(
            "relight run digits",
            "relight run digits --set epochs=5 --set lr=0.01 --name trial --detach",
            "relight run spiral.py:Spiral --restarts 3",
            "relight run train.py --name trial -- --lr 3e-4",
        ),
    )(run)
    app.command(
        "stop", rich_help_panel=LAUNCHING, epilog=examples("relight stop digits-k3f9", "relight stop digits-k3f9 --now")
    )(stop)
    app.command(
        "resume",
        rich_help_panel=LAUNCHING,
        epilog=examples("relight resume digits-k3f9", "relight resume digits-k3f9 --from best --detach"),
    )(resume)
    app.command(
        "branch",
        rich_help_panel=LAUNCHING,
        epilog=examples(
            "relight branch digits-k3f9 --from best --set lr=0.0001 --name trial",
            "relight branch digits-k3f9 --from best --weights-only --name finetune",
            "relight branch train-x7k2 --from 4000 -- --lr 3e-5",
        ),
    )(branch)


def run(
    task: TaskArgument,
    *,
    arguments: ArgumentsArgument = None,
    assignments: SetOption = None,
    name: NameOption = None,
    restarts: RestartsOption = 0,
    python: PythonOption = None,
    detach: DetachOption = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Launch a run and watch it until it ends.

    The run lives in processes of its own: a closed terminal ends nothing. Ctrl-C asks it to stop with a checkpoint.
    """
    from relight.cli.interruptions import Interruptions
    from relight.cli.task_argument import prepare_task
    from relight.runs.catalog import runs_folder
    from relight.supervision.launch import launch_run

    prepared = prepare_task(task, assignments or (), arguments=arguments or (), python=python)
    interruptions = Interruptions()
    with interruptions.watch():  # a Ctrl-C that comes this instant must not leave a run that nobody knows of
        launched = launch_run(
            runs_folder(runs),
            task=prepared.reference,
            config=prepared.config,
            best_metric=prepared.best_metric,
            higher_is_better=prepared.higher_is_better,
            name=name,
            max_restarts=restarts,
        )
        _tell([f"{launched.layout.run_id} starts in {launched.layout.folder}"], json=json)
    _watch(launched, runs=runs, detach=detach, json=json, interruptions=interruptions)


def stop(
    run_name: RunArgument,
    *,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for a step edge, save nothing more.")] = False,
    grace_s: Annotated[
        float, typer.Option("--grace", metavar="SECONDS", min=0, help="End it by force after this long.")
    ] = 60.0,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Stop a run, with a checkpoint.

    It ends at its next step edge; waits until it has.
    """
    from relight.cli.ending import word_ending
    from relight.overview.summary import summarize_run
    from relight.runs.catalog import find_run, runs_folder
    from relight.supervision.stop import stop_run

    layout = find_run(runs_folder(runs), run_name)
    wait_s = grace_s + _FORCE_S
    ended = stop_run(layout, now=now, grace_s=grace_s, wait_s=wait_s)
    summary = summarize_run(layout)
    if ended is None and summary.status.is_live:
        raise RelightError(
            f"{layout.run_id} has not ended within {wait_s:.0f} s of being asked to: {_word_pids(summary)}."
        )
    if json:
        say_json(summary)
    else:
        for line in word_ending(summary, suffix=_suffix(runs)):
            say(line)


def resume(
    run_name: RunArgument,
    *,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STEP|best",
            help="Checkpoint to go on from; else the newest good one.",
            show_default=False,
        ),
    ] = None,
    restarts: Annotated[
        int | None,
        typer.Option("--restarts", metavar="N", min=0, help="Restart a crashed trainer by itself, up to N times."),
    ] = None,
    detach: DetachOption = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Bring a dead run back, exactly as it was.

    Goes on from its newest good checkpoint, and watches it until it ends.

    Says which checkpoint that is, which damaged ones were passed over and why, and how many steps are done again.
    """
    from relight.overview.summary import summarize_run
    from relight.runs.catalog import find_run, runs_folder
    from relight.supervision.resume import resume_run

    layout = find_run(runs_folder(runs), run_name)
    before = summarize_run(layout)
    try:
        launched = resume_run(layout, from_=from_, max_restarts=restarts)
    except KeyboardInterrupt:
        if layout.latest_attempt() > before.attempt:
            say_error(f"{layout.run_id} had already been resumed and goes on without you watching.")
        raise
    _tell(_word_start(layout, launched.attempt, reached=before.step), json=json)
    _watch(launched, runs=runs, detach=detach, json=json)


def branch(
    run_name: RunArgument,
    *,
    from_: Annotated[
        str, typer.Option("--from", metavar="STEP|best", help="Checkpoint to start from.", show_default=False)
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARGUMENTS", help="Other arguments for a training script, after --.", show_default=False
        ),
    ] = None,
    assignments: SetOption = None,
    weights_only: Annotated[
        bool,
        typer.Option("--weights-only", help="Take the weights alone: step 0, a fresh optimizer, to fine-tune."),
    ] = False,
    name: NameOption = None,
    restarts: RestartsOption = 0,
    detach: DetachOption = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Start a new run from another's checkpoint.

    With a changed config; the parent and what was changed are recorded.
    """
    from relight.cli.interruptions import Interruptions
    from relight.runs.catalog import find_run, runs_folder
    from relight.runs.run_record import read_run_record
    from relight.supervision.branch import branch_run
    from relight.tasks.parsing import split_assignments

    parent = find_run(runs_folder(runs), run_name)
    interruptions = Interruptions()
    with interruptions.watch():  # as in `run`
        launched = branch_run(
            parent,
            from_=from_,
            config_changes=split_assignments(assignments or ()),
            arguments=arguments or None,
            weights_only=weights_only,
            name=name,
            max_restarts=restarts,
        )
        layout = launched.layout
        step = record.parent.step if (record := read_run_record(layout)).parent is not None else 0
        told = f"{layout.run_id} branches from step {step} of {parent.run_id} and starts in {layout.folder}"
        if weights_only:
            told = f"{layout.run_id} starts with the weights of step {step} of {parent.run_id} in {layout.folder}"
        _tell([told, *launched.notes], json=json)
    _watch(launched, runs=runs, detach=detach, json=json, interruptions=interruptions)


def _watch(
    launched: Launched, *, runs: Path | None, detach: bool, json: bool, interruptions: Interruptions | None = None
) -> None:
    """Follow the attempt to its end and exit with its code, or say how to find it again when it is to be left alone."""
    layout, suffix = launched.layout, _suffix(runs)
    if not detach:
        from relight.cli.following import follow_run

        code = follow_run(layout, attempt=launched.attempt, suffix=suffix, json=json, interruptions=interruptions)
        raise typer.Exit(code)
    if json:
        from relight.overview.summary import summarize_run

        say_json(summarize_run(layout))
    else:
        say(f"Look: relight show {layout.run_id}{suffix}")
        say(f"Stop: relight stop {layout.run_id}{suffix}")


def _tell(lines: Iterable[str], *, json: bool) -> None:
    if not json:
        for line in lines:
            say(line)
        sys.stdout.flush()


def _word_start(layout: RunLayout, attempt: int, *, reached: int) -> list[str]:
    """Say from which checkpoint an attempt goes on, what was passed over, and what is done again."""
    start = _read_start(layout, attempt)
    if start.from_sequence is None:
        lines = [f"{layout.run_id} starts again from the beginning (attempt {attempt})."]
    else:
        lines = [f"{layout.run_id} resumes from its checkpoint at step {start.from_step} (attempt {attempt})."]
    lines += start.notes
    again = reached - start.from_step
    if again > 0:
        lines.append(f"It had reached step {reached}, so {count(again, 'step')} in all must be done again.")
    return lines


def _read_start(layout: RunLayout, attempt: int) -> AttemptStart:
    from relight.runs.record_file import read_record
    from relight.runs.records import AttemptStart

    return read_record(layout.attempt(attempt).start, AttemptStart)


def _word_pids(summary: RunSummary) -> str:
    pids = {"supervisor": summary.pids.supervisor, "trainer": summary.pids.trainer}
    return ", ".join(f"its {name} is pid {pid}" for name, pid in pids.items() if pid) or "it has no processes here"


def _suffix(runs: Path | None) -> str:
    """What a suggested command needs so that it finds the same runs folder."""
    return "" if runs is None else f" --runs {shlex.quote(str(runs))}"
