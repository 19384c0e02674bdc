"""`run`, `stop`, `resume` and `branch`: commands that start and stop training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relight.cli.options import (
    TRAINING,
    ArgumentsArgument,
    DetachOption,
    GpusOption,
    JsonOption,
    MirrorOption,
    ModuleOption,
    NameOption,
    NprocOption,
    PythonOption,
    RunArgument,
    RunsOption,
    SetOption,
    TaskArgument,
    examples,
    repeat_runs_option,
)
from relight.cli.output import say, say_error, say_json
from relight.cli.start_lines import tell_lines, word_start
from relight.errors import RelightError, UsageError
from relight.wording import name_some

if TYPE_CHECKING:
    from relight.cli.interruptions import Interruptions
    from relight.overview.summary import RunSummary
    from relight.runs.layout import RunLayout
    from relight.supervision.attempt_start import Launched

_FORCE_S = 30.0
"""How long a stop may take after the grace period, when the supervisor kills the trainer."""

RestartsOption = Annotated[
    int,
    typer.Option(
        "--restarts",
        metavar="N",
        min=0,
        help="Restart a crashed trainer automatically, up to N times, from its newest checkpoint.",
    ),
]

OnOption = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="slurm|ray|kubernetes",
        help="Submit the run to Slurm (docs/slurm.md), or write a job for Ray or Kubernetes (docs/elsewhere.md) "
        "instead of training here.",
        show_default=False,
    ),
]

BranchOnOption = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="slurm|here",
        help="Submit the branch to Slurm, or train it here. Default: where its parent trains.",
        show_default=False,
    ),
]

IdOption = Annotated[
    str | None,
    typer.Option(
        "--id",
        metavar="ID",
        help="Start the run with this id, or continue it if it is here or in the mirror. The run ends with this "
        "process: for containers and jobs.",
        show_default=False,
    ),
]

ToOption = Annotated[
    Path | None,
    typer.Option(
        "--to",
        metavar="FILE",
        help="With --on ray or kubernetes: where to write the job. Default: print it.",
        show_default=False,
    ),
]

ImageOption = Annotated[
    str | None,
    typer.Option("--image", metavar="IMAGE", help="With --on kubernetes: the container image.", show_default=False),
]

NodesOption = Annotated[
    int | None,
    typer.Option(
        "--nodes",
        metavar="N",
        min=1,
        help="With --on slurm: train on N nodes, --nproc ranks on each.",
        show_default=False,
    ),
]

SbatchOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sbatch",
        metavar="OPTIONS",
        help='With --on slurm: options for sbatch, such as "--partition=gpu --time=8:00:00"; may be repeated.',
        show_default=False,
    ),
]

TrustOption = Annotated[
    bool, typer.Option("--trust", help="Run the code that the run names, although the run was made elsewhere.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        "run",
        rich_help_panel=TRAINING,
        epilog=examples(
            "relight run digits",
            "relight run digits --set epochs=5 --set lr=0.01 --name trial --detach",
            "relight run spiral.py:Spiral --restarts 3",
            "relight run digits --nproc 2",
            "relight run digits --gpus 0,2 --nproc auto",
            "relight run digits --mirror s3://bucket/runs",
            "relight run digits --on kubernetes --image registry/relight:1 --to digits.yaml",
            'relight run digits --on slurm --nodes 2 --nproc 4 --sbatch "--partition=gpu --gpus-per-node=4"',
            "relight run train.py --name trial -- --lr 3e-4",
        ),
    )(run)
    app.command(
        "stop", rich_help_panel=TRAINING, epilog=examples("relight stop digits-k3f9", "relight stop digits-k3f9 --now")
    )(stop)
    app.command(
        "resume",
        rich_help_panel=TRAINING,
        epilog=examples(
            "relight resume digits-k3f9",
            "relight resume digits-k3f9 --from best --detach",
            "relight resume --all-interrupted",
            "relight resume s3://bucket/runs/digits-k3f9",
        ),
    )(resume)
    app.command(
        "branch",
        rich_help_panel=TRAINING,
        epilog=examples(
            "relight branch digits-k3f9 --from best --set lr=0.0001 --name trial",
            "relight branch digits-k3f9 --from best --weights-only --name finetune",
            "relight branch train-x7k2 --from 4000 -- --lr 3e-5",
            'relight branch digits-k3f9 --from best --on slurm --sbatch "--time=8:00:00"',
        ),
    )(branch)


def run(
    task: TaskArgument,
    *,
    arguments: ArgumentsArgument = None,
    assignments: SetOption = None,
    name: NameOption = None,
    restarts: RestartsOption = 0,
    nproc: NprocOption = None,
    gpus: GpusOption = None,
    on: OnOption = None,
    nodes: NodesOption = None,
    sbatch: SbatchOption = None,
    to: ToOption = None,
    image: ImageOption = None,
    id_: IdOption = None,
    mirror: MirrorOption = None,
    python: PythonOption = None,
    is_module: ModuleOption = False,
    detach: DetachOption = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Launch a run and watch it until it ends.

    The run has its own processes, so closing the terminal does not end it. Ctrl-C asks it to stop with a checkpoint.
    With --on slurm it waits for its nodes first; Slurm starts it again after a preemption, a time limit or a lost node.
    """
    from relight.cli.interruptions import Interruptions
    from relight.cli.task_argument import prepare_task
    from relight.mirror.address import choose_mirror
    from relight.runs.catalog import runs_folder
    from relight.supervision.gpu_choice import choose_gpus
    from relight.supervision.job_files import KUBERNETES, RAY, refuse_for_job_file
    from relight.supervision.job_submission import SLURM, plan_job
    from relight.supervision.launch import launch_run
    from relight.supervision.nproc import choose_nproc
    from relight.tasks.reference import resolve_task

    address = choose_mirror(mirror)
    if on in (RAY, KUBERNETES):
        from relight.cli.own_process import write_job

        refuse_for_job_file(on, nodes=nodes, sbatch=sbatch, gpus=gpus, detach=detach, mirror=address)
        write_job(
            on, task, arguments=arguments, assignments=assignments, name=name, restarts=restarts, nproc=nproc,
            to=to, image=image, run_id=id_, mirror=address, python=python, is_module=is_module, runs=runs, json=json,
        )  # fmt: skip
        return
    if to is not None or image is not None:
        raise UsageError("--to and --image are for the file that --on ray or --on kubernetes writes.")
    cards = choose_gpus(gpus) or ()
    options = list(sbatch or ())
    if on == SLURM and arguments and not is_module and resolve_task(task).kind != "script":
        options, arguments = [*options, *arguments], None  # such a task takes none, so they are for sbatch
    slurm = plan_job(on, nodes=nodes, options=options, nproc=nproc, gpus=gpus)
    world_size = choose_nproc(nproc, gpus=cards) or 1
    prepared = prepare_task(task, assignments or (), arguments=arguments or (), python=python, is_module=is_module)
    if id_ is not None:
        if detach or slurm is not None:
            raise UsageError("--id trains in this process: leave --detach and --on slurm out.")
        from relight.cli.own_process import train_in_this_process
        from relight.supervision.own_process import Wish

        wish = Wish(id_, prepared, name=name, max_restarts=restarts, nproc=choose_nproc(nproc, gpus=cards), gpus=cards,
                    mirror=address)  # fmt: skip
        raise typer.Exit(train_in_this_process(runs_folder(runs), wish, json=json))
    interruptions = Interruptions()
    with interruptions.watch():  # a Ctrl-C right now must not leave a run that you were not told about
        launched = launch_run(
            runs_folder(runs),
            prepared,
            name=name,
            max_restarts=restarts,
            nproc=world_size,
            gpus=cards,
            mirror=address,
            slurm=slurm,
        )
        how = "starts" if slurm is None else "was submitted to Slurm; it is"
        tell_lines([f"{launched.layout.run_id} {how} in {launched.layout.folder}"], json=json)
    _watch(launched, runs=runs, detach=detach, json=json, interruptions=interruptions)


def stop(
    run_name: RunArgument,
    *,
    now: Annotated[bool, typer.Option("--now", help="Stop immediately, without another checkpoint.")] = False,
    grace_s: Annotated[
        float, typer.Option("--grace", metavar="SECONDS", min=0, help="Kill the trainer if it has not stopped by then.")
    ] = 60.0,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Stop a run after saving a checkpoint.

    The trainer saves a checkpoint at its next step edge and exits; the command waits until it has.
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
        raise RelightError(f"{layout.run_id} did not stop within {wait_s:.0f} s. {_advise_on_processes(summary)}")
    if json:
        say_json(summary)
    else:
        for line in word_ending(summary, suffix=repeat_runs_option(runs)):
            say(line)


def resume(
    run_name: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|URL", help="ID, name or unique prefix of a run; or the URL of its copy.", show_default=False
        ),
    ] = None,
    *,
    all_interrupted: Annotated[
        bool,
        typer.Option(
            "--all-interrupted",
            help="Resume every run that a reboot, a kill or a lack of memory ended in the last 7 days.",
        ),
    ] = False,
    crashed: Annotated[
        bool, typer.Option("--crashed", help="With --all-interrupted: also runs that crashed with an error.")
    ] = False,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="STEP|best",
            help="Checkpoint to resume from. Default: the newest good one.",
            show_default=False,
        ),
    ] = None,
    restarts: Annotated[
        int | None,
        typer.Option(
            "--restarts",
            metavar="N",
            min=0,
            help="Restart a crashed trainer automatically, up to N times. Default: as before.",
        ),
    ] = None,
    nproc: NprocOption = None,
    gpus: GpusOption = None,
    trust: TrustOption = False,
    detach: DetachOption = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Resume a run from its newest good checkpoint.

    Restores the exact state of that checkpoint in a new process and watches the run until it ends. With the URL of a
    copy, fetches the run first unless it is here.

    Says which checkpoint it is, which damaged ones were skipped and why, and how many steps will be trained again.
    """
    from relight.mirror.address import is_run_url
    from relight.runs.catalog import find_run, runs_folder
    from relight.supervision.gpu_choice import choose_gpus
    from relight.supervision.nproc import choose_nproc
    from relight.supervision.resume import resume_run

    if all_interrupted:
        if trust or any(given is not None for given in (run_name, from_, restarts, nproc, gpus)):
            raise UsageError(
                "--all-interrupted takes no RUN, --from, --restarts, --nproc, --gpus or --trust. Resume that run "
                "on its own."
            )
        _resume_all(runs_folder(runs), crashed=crashed, json=json)
        return
    if run_name is None or crashed:
        raise UsageError("Name a run, or use --all-interrupted (with --crashed, if you like).")
    if is_run_url(run_name):
        from relight.cli.mirror_commands import fetch_unless_here

        layout = fetch_unless_here(run_name, runs, json=json)
    else:
        layout = find_run(runs_folder(runs), run_name)
    before = layout.latest_attempt()
    try:
        cards = choose_gpus(gpus)
        launched = resume_run(
            layout,
            from_=from_,
            max_restarts=restarts,
            nproc=choose_nproc(nproc, gpus=cards if cards is not None else _read_gpus(layout)),
            gpus=cards,
            trust=trust,
        )
    except KeyboardInterrupt:
        if layout.latest_attempt() > before:
            say_error(f"{layout.run_id} has already been resumed and continues in the background.")
        raise
    tell_lines(word_start(launched), json=json)
    _watch(launched, runs=runs, detach=detach, json=json)


def _read_gpus(layout: RunLayout) -> tuple[int, ...]:
    """Return the cards that were chosen for the newest attempt."""
    from relight.runs.record_file import read_record_or_none
    from relight.runs.records import AttemptStart

    start = read_record_or_none(layout.attempt(layout.latest_attempt()).start, AttemptStart)
    return start.chosen_gpus if start is not None else ()


def _resume_all(folder: Path, *, crashed: bool, json: bool) -> None:
    """Resume all interrupted runs and say one sentence for each; exit with 1 when one of them was not resumed."""
    from relight.overview.summary import list_runs
    from relight.supervision.interrupted_runs import find_interrupted_runs, resume_interrupted_runs

    results = []
    for result in resume_interrupted_runs(folder, crashed=crashed):
        results.append(result)
        if not json:
            (say if result.attempt else say_error)(result.sentence)
    if json:
        say_json(results)
    elif not results:
        say("There are no interrupted runs to resume.")
    if not crashed and not json:
        left = [
            run.run for run in find_interrupted_runs(list_runs(folder).runs) if run.crashed and run.obstacle is None
        ]
        if left:
            say(f"Crashed, and not resumed: {name_some(left)}. Look at them first, or add --crashed.")
    if not all(result.attempt for result in results):
        raise typer.Exit(1)


def branch(
    run_name: RunArgument,
    *,
    from_: Annotated[
        str, typer.Option("--from", metavar="STEP|best", help="Checkpoint to start from.", show_default=False)
    ],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGUMENTS", help="New arguments for a training script, after --.", show_default=False),
    ] = None,
    assignments: SetOption = None,
    weights_only: Annotated[
        bool,
        typer.Option("--weights-only", help="Take only the weights, to fine-tune: step 0, new optimizer."),
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(
            "--name", metavar="NAME", help="Name of the new run. Default: PARENT-from-STEP.", show_default=False
        ),
    ] = None,
    restarts: RestartsOption = 0,
    nproc: NprocOption = None,
    on: BranchOnOption = None,
    nodes: NodesOption = None,
    sbatch: SbatchOption = None,
    trust: TrustOption = False,
    detach: DetachOption = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Start a new run from another run's checkpoint.

    The new run can have a changed config. It records its parent and the changes. It trains where its parent does, in as
    many ranks; Slurm gets the parent's options.
    """
    from relight.cli.interruptions import Interruptions
    from relight.runs.catalog import find_run, runs_folder
    from relight.runs.run_record import read_run_record
    from relight.supervision.branch import branch_run
    from relight.supervision.job_submission import plan_job, read_plan
    from relight.supervision.nproc import choose_nproc
    from relight.tasks.parsing import split_assignments

    parent = find_run(runs_folder(runs), run_name)
    slurm = plan_job(on, nodes=nodes, options=sbatch, nproc=nproc, before=read_plan(parent))
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
            nproc=choose_nproc(nproc),
            slurm=slurm,
            trust=trust,
        )
        layout = launched.layout
        step = record.parent.step if (record := read_run_record(layout)).parent is not None else 0
        what = f"with the weights of step {step}" if weights_only else f"from step {step}"
        how = "starts" if slurm is None else "was submitted to Slurm; it starts"
        started = f"{layout.run_id} {how} {what} of {parent.run_id} in {layout.folder}"
        tell_lines([started, *launched.notes], json=json)
    _watch(launched, runs=runs, detach=detach, json=json, interruptions=interruptions)


def _watch(
    launched: Launched, *, runs: Path | None, detach: bool, json: bool, interruptions: Interruptions | None = None
) -> None:
    """Follow the attempt to its end and exit with its code; with `detach`, only say how to find it again."""
    layout, suffix = launched.layout, repeat_runs_option(runs)
    if not detach:
        from relight.cli.following import follow_run

        code = follow_run(layout, attempt=launched.attempt, suffix=suffix, json=json, interruptions=interruptions)
        raise typer.Exit(code)
    if json:
        from relight.overview.summary import summarize_run

        say_json(summarize_run(layout))
    else:
        say(f"Show: relight show {layout.run_id}{suffix}")
        say(f"Stop: relight stop {layout.run_id}{suffix}")


def _advise_on_processes(summary: RunSummary) -> str:
    from relight.runs.evidence import read_job
    from relight.runs.layout import RunLayout

    pids = [str(pid) for pid in (summary.pids.supervisor, summary.pids.trainer) if pid]
    if (job := read_job(RunLayout(Path(summary.path)))) is not None and not job.ended:
        return f"You can end its job with: scancel {job.job}. Its durable checkpoints stay."
    if not pids:
        return "None of its processes is on this machine: stop it where it runs."
    return f"You can end its processes with: kill -9 {' '.join(pids)}. Its durable checkpoints stay."
