"""`drill`: prove, before a long training, that a killed run resumes bit for bit."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relight.cli.options import (
    MORE,
    ArgumentsArgument,
    JsonOption,
    ModuleOption,
    NprocOption,
    PythonOption,
    RunsOption,
    SetOption,
    TaskArgument,
    examples,
)
from relight.cli.output import say, say_error, say_json
from relight.wording import count, describe_duration

if TYPE_CHECKING:
    from relight.drill.proof import DrillProof


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "drill",
        rich_help_panel=MORE,
        epilog=examples(
            "relight drill digits",
            "relight drill spiral.py:Spiral --set workers=2 --steps 100",
            "relight drill digits --nproc 2",
            "relight drill train.py -- --lr 3e-4",
        ),
    )(drill)


def drill(
    task: TaskArgument,
    *,
    arguments: ArgumentsArgument = None,
    assignments: SetOption = None,
    python: PythonOption = None,
    is_module: ModuleOption = False,
    nproc: NprocOption = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", min=3, help="End a longer training after N steps. Default: 100, or 30 s."),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", min=1, help="Time limit for each training.")
    ] = 600.0,
    keep: Annotated[bool, typer.Option("--keep", help="Keep both runs for inspection.")] = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Prove that a killed run of a task resumes bit for bit.

    Trains once without a kill, and twice with kills (kill -9) at chosen steps: twice in the same epoch, between two
    updates if there are several batches to one, at the end of an epoch, and in a validation. Resumes each time in a
    new process, and compares every step. With --nproc the first and the last rank are killed in turn.

    Prints "bit-exact" if nothing differs. Otherwise prints the first difference, its likely cause and its cure, and
    exits with 1.

    The drill works in a temporary runs folder and removes it at the end. Its result is kept: `relight show` and the
    pages of the task's runs show it.
    """
    from relight.cli.task_argument import prepare_task
    from relight.drill.rehearsal import run_drill
    from relight.runs.catalog import runs_folder
    from relight.supervision.nproc import choose_nproc

    world_size = choose_nproc(nproc) or 1
    prepared = prepare_task(task, assignments or (), arguments=arguments or (), python=python, is_module=is_module)
    proof = run_drill(
        runs_folder(runs),
        prepared,
        steps=steps,
        nproc=world_size,
        keep=keep,
        timeout_s=timeout_s,
        tell=(lambda text: None) if json else say,
    )
    if json:
        say_json(_list_facts(proof))
    else:
        _say_verdict(proof)
    if not proof.bit_exact:
        raise typer.Exit(1)


def _list_facts(proof: DrillProof) -> dict[str, Any]:
    """Return what `--json` prints; the keys are a contract."""
    return {
        "bit_exact": proof.bit_exact,
        "task": proof.task.name,
        "steps": proof.steps,
        "killed_at_step": proof.killed_at_step,
        "resumed_from_step": proof.resumed_from_step,
        "kills": proof.kills,
        "mid_epoch": proof.mid_epoch,
        "cut_off": proof.cut_off,
        "checkpoints_compared": proof.checkpoints_compared,
        "tensors_compared": proof.tensors_compared,
        "metric_steps_compared": proof.metric_steps_compared,
        "digest": proof.state_digest,
        "uninterrupted_digest": proof.uninterrupted_digest,
        "first_difference": proof.first_difference,
        "duration_s": proof.duration_s,
        "folder": proof.folder,
        "fingerprint": proof.fingerprint,
        "code_files": proof.code_files,
        "script_config": proof.script_config,
        **({"nproc": proof.world_size} if proof.world_size > 1 else {}),
    }


def _say_verdict(proof: DrillProof) -> None:
    from relight.drill.proof import word_kills

    first = proof.first_difference
    name = proof.task.name if proof.world_size == 1 else f"{proof.task.name} with {count(proof.world_size, 'rank')}"
    if proof.bit_exact:
        say(f"bit-exact: {name} came back from kill -9 as if nothing had happened.")
    else:
        say_error(f"{name} is not bit-exact after kill -9, {word_kills(proof)}.")
    if first is not None:
        say(f"First difference: {first.part} {first.name} at step {first.step}: {first.detail}")
        say(f"Cause: {first.cause}")
        say(f"Cure: {first.cure}")
        if first.others:
            say(f"{count(first.others, 'other difference')} at the same step.")
    say(
        f"Compared {count(proof.tensors_compared, 'tensor')} and all other state at "
        f"{count(proof.checkpoints_compared, 'step')}, logged values at {count(proof.metric_steps_compared, 'step')}."
    )
    if proof.bit_exact:
        say(f"Killed {word_kills(proof)}. The drill took {describe_duration(proof.duration_s)}.")
        say(f"Digest {proof.state_digest}")
        if not proof.mid_epoch:
            say("The epochs are so short that each resume started at the end of one.")
    if proof.cut_off:
        say(f"The training is longer: the drill ended it at step {proof.steps}. --steps N takes it further.")
    if proof.folder:
        say(f"All runs are kept: relight list --runs {shlex.quote(proof.folder)}")
