"""`checkpoints`, `export`, `verify`, `digest`, `pin` and `prune`: commands for what a run has saved."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relight.cli.options import CHECKPOINTS, JsonOption, RunArgument, RunsOption, examples
from relight.cli.output import is_terminal, say, say_error, say_json, say_table
from relight.errors import UsageError
from relight.wording import count, describe_age, describe_bytes, describe_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relight.checkpoints.export import Exported
    from relight.checkpoints.listing import CheckpointInfo
    from relight.checkpoints.retention import RetentionPlan
    from relight.checkpoints.store import CheckpointStore
    from relight.overview.verification import RunCheck
    from relight.runs.layout import RunLayout

KeepOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace one of the run's rules: keep_latest, keep_best, keep_best_by, keep_every_steps or "
        "keep_every_hours; may be repeated.",
        show_default=False,
    ),
]
WhichOption = Annotated[str, typer.Option("--which", metavar="best|latest|STEP", help="Checkpoint to use.")]


class WeightsFormat(StrEnum):
    """A file format for exported weights."""

    safetensors = "safetensors"
    pth = "pth"


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(
        "checkpoints",
        rich_help_panel=CHECKPOINTS,
        epilog=examples(
            "relight checkpoints digits-k3f9",
            "relight checkpoints digits-k3f9 --json",
            "relight checkpoints digits-k3f9 --preview --set keep_best_by=validation/loss:min:3",
        ),
    )(checkpoints)
    app.command(
        "export",
        rich_help_panel=CHECKPOINTS,
        epilog=examples(
            "relight export digits-k3f9", "relight export digits-k3f9 --which latest --format pth --out digits.pth"
        ),
    )(export)
    app.command("verify", rich_help_panel=CHECKPOINTS, epilog=examples("relight verify digits-k3f9"))(verify)
    app.command("digest", rich_help_panel=CHECKPOINTS, epilog=examples("relight digest digits-k3f9 --which latest"))(
        digest
    )
    app.command(
        "pin",
        rich_help_panel=CHECKPOINTS,
        epilog=examples("relight pin digits-k3f9 138", "relight pin digits-k3f9 138 --off"),
    )(pin)
    app.command(
        "prune",
        rich_help_panel=CHECKPOINTS,
        epilog=examples("relight prune digits-k3f9", "relight prune digits-k3f9 --set keep_every_steps=1000"),
    )(prune)


def checkpoints(
    run_name: RunArgument,
    *,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show which checkpoints retention keeps, and why, and which it deletes.")
    ] = False,
    assignments: KeepOption = None,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """List a run's checkpoints.

    Oldest first, each with its step, the reason it was made, its labels, the value of the best metric, and its size.
    With --preview: what retention would keep and delete. Nothing is changed.
    """
    from relight.runs.catalog import find_run, runs_folder
    from relight.runs.run_record import read_run_record
    from relight.tasks.parsing import split_assignments
    from relight.tasks.retention_options import plan_run_retention

    if preview:
        plan = plan_run_retention(find_run(runs_folder(runs), run_name), split_assignments(assignments or ()))
        if json:
            say_json(_list_plan_facts(plan))
        else:
            _say_plan(plan)
        return
    if assignments:
        raise UsageError("--set changes what retention keeps: use it with --preview, or with `relight prune`.")
    layout, store = _open_store(run_name, runs)
    record = read_run_record(layout)
    listing = store.list(higher_is_better=record.higher_is_better)
    if json:
        say_json([info.list_facts() for info in listing.checkpoints])
    elif listing.checkpoints:
        now_s = time.time()
        score = (record.best_metric or "score").upper()
        head = ("STEP", "EPOCH", "REASON", "LABELS", score, "SIZE", "MADE", "VERIFIED")
        rows = [
            (
                str(info.step),
                str(info.epoch),
                info.reason,
                " ".join(info.labels) or "-",
                describe_value(info.score),
                describe_bytes(info.bytes),
                describe_age(info.time_s, now_s=now_s),
                "yes" if info.verified else "not yet",
            )
            for info in listing.checkpoints
        ]
        say_table(head, rows, right=("STEP", "EPOCH", score, "SIZE"))
    else:
        say(f"{layout.run_id} has no checkpoints yet.")
    for entry in listing.damaged:
        say_error(f"{entry.path} is damaged: {entry.reason}")


def export(
    run_name: RunArgument,
    *,
    which: WhichOption = "best",
    given_format: Annotated[
        WeightsFormat | None,
        typer.Option(
            "--format",
            help="safetensors opens everywhere; pth is a PyTorch state dict. Default: the extension of --out, else "
            "safetensors.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="File to write. Default: a file in the run's exports folder.",
            show_default=False,
        ),
    ] = None,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Export the weights of a checkpoint.

    Prints the path of the file, its SHA-256 and its format. Without --out, the best weights go to
    exports/best_model.FORMAT. That path is always the same, and the file is replaced atomically.
    """
    from relight.checkpoints.export import export_to_run, export_weights

    weights_format = _choose_format(given_format, out)
    layout, store = _open_store(run_name, runs)
    info = _find(layout, store, which)
    others: Sequence[Exported] = ()
    if out is None:
        exported, *others = export_to_run(layout, store, info, best=which == "best", format=weights_format.value)
    else:
        exported = export_weights(store, info, out.absolute(), format=weights_format.value)
    if json:
        say_json(
            {
                "run": layout.run_id,
                "step": info.step,
                "path": str(exported.path),
                "sha256": exported.sha256,
                "format": weights_format.value,
                "bytes": exported.bytes,
                "card": str(exported.card),
            }
        )
        return
    say(str(exported.path))
    say(f"SHA-256 {exported.sha256}")
    say(f"{weights_format.value}, {describe_bytes(exported.bytes)}, step {info.step} of {layout.run_id}")
    for other in others:
        say(f"{other.path.name} was updated to the same step.")


def verify(run_name: RunArgument, runs: RunsOption = None, json: JsonOption = False) -> None:
    """Read every byte of a run to find damage.

    Changes nothing. Lists every damaged file; if there is one, the exit code is 1.
    """
    from relight.overview.verification import check_run
    from relight.runs.catalog import find_run, runs_folder

    layout = find_run(runs_folder(runs), run_name)
    check = _check_with_progress(layout) if is_terminal() and not json else check_run(layout)
    if json:
        say_json(check)
    else:
        _say_check(check)
    if check.damaged:
        raise typer.Exit(1)


def digest(
    run_name: RunArgument, which: WhichOption = "latest", runs: RunsOption = None, json: JsonOption = False
) -> None:
    """Print one hash of a complete training state.

    It covers every tensor, counter and random number generator of a checkpoint, and the position in the data. Two runs
    that computed the same have the same digest.
    """
    layout, store = _open_store(run_name, runs)
    info = _find(layout, store, which)
    value = store.digest(info)
    if json:
        say_json({"run": layout.run_id, "step": info.step, "sequence": info.sequence, "digest": value})
    else:
        say(value)


def pin(
    run_name: RunArgument,
    step: Annotated[
        str, typer.Argument(metavar="STEP", help="Step of the checkpoint, or best, or latest.", show_default=False)
    ],
    off: Annotated[bool, typer.Option("--off", help="Remove the pin.")] = False,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Keep a checkpoint permanently.

    Retention deletes old checkpoints as new ones become durable, but never a pinned one.
    """
    layout, store = _open_store(run_name, runs)
    info = store.pin(_find(layout, store, step), on=not off)
    if json:
        say_json(info.list_facts())
    else:
        pinned = "is no longer pinned" if off else "is pinned"
        say(f"The checkpoint at step {info.step} of {layout.run_id} {pinned}.")


def prune(
    run_name: RunArgument, assignments: KeepOption = None, runs: RunsOption = None, json: JsonOption = False
) -> None:
    """Delete the checkpoints that retention does not keep.

    Training does this automatically after each save; use it for a run that has ended. `relight checkpoints RUN
    --preview` shows in advance what would be deleted.
    """
    from relight.runs.catalog import find_run, runs_folder
    from relight.tasks.parsing import split_assignments
    from relight.tasks.retention_options import prune_run

    layout = find_run(runs_folder(runs), run_name)
    plan, removed = prune_run(layout, split_assignments(assignments or ()))
    if json:
        say_json({"run": layout.run_id, "removed": [info.list_facts() for info in removed],
                  "reclaimed_bytes": plan.freed_bytes})  # fmt: skip
    elif removed:
        numbers = [str(info.step) for info in removed]
        steps = ", ".join(numbers if len(numbers) <= 12 else [*numbers[:3], "...", *numbers[-3:]])
        say(f"Deleted {count(len(removed), 'checkpoint')} of {layout.run_id}: {steps}.")
        say(f"Freed {describe_bytes(plan.freed_bytes)}. {count(len(plan.kept), 'checkpoint')} kept.")
    else:
        say(f"Nothing to delete: retention keeps all checkpoints of {layout.run_id} ({len(plan.kept)}).")


def _list_plan_facts(plan: RetentionPlan) -> dict[str, Any]:
    """Return what `checkpoints --preview --json` prints; the keys are a contract."""
    policy = plan.policy
    return {
        "kept": [{**info.list_facts(), "why": list(why)} for info, why in plan.kept],
        "removed": [info.list_facts() for info in plan.removed],
        "reclaimed_bytes": plan.freed_bytes,
        "policy": {
            "newest": policy.newest,
            "best": [
                {"metric": rule.metric, "higher_is_better": rule.higher_is_better, "count": rule.count}
                for rule in policy.best
            ],
            "every_steps": policy.every_steps,
            "every_hours": policy.every_hours,
        },
    }


def _say_plan(plan: RetentionPlan) -> None:
    rows = [(info, "keep", ", ".join(why)) for info, why in plan.kept]
    rows += [(info, "delete", "no rule keeps it") for info in plan.removed]
    if not rows:
        say("There are no checkpoints yet.")
        return
    rows.sort(key=lambda row: row[0].name)
    head = ("STEP", "REASON", "SIZE", "ACTION", "WHY")
    lines = [(str(info.step), info.reason, describe_bytes(info.bytes), action, why) for info, action, why in rows]
    say_table(head, lines, right=("STEP", "SIZE"))
    if plan.removed:
        freed = describe_bytes(plan.freed_bytes)
        say(f"{count(len(plan.removed), 'checkpoint')} would be deleted, which frees at least {freed}.")
    else:
        say("Nothing would be deleted.")


def _choose_format(given: WeightsFormat | None, out: Path | None) -> WeightsFormat:
    """Return the format of --format, else of the extension of --out; refuse two that contradict each other."""
    extensions = {".safetensors": WeightsFormat.safetensors, ".pth": WeightsFormat.pth, ".pt": WeightsFormat.pth}
    by_name = extensions.get(out.suffix.lower()) if out is not None else None
    if given is not None and by_name not in (None, given):
        raise UsageError(f"--format {given} contradicts the file name {out}. Omit --format, or rename the file.")
    return given or by_name or WeightsFormat.safetensors


def _open_store(run_name: str, runs: Path | None) -> tuple[RunLayout, CheckpointStore]:
    from relight.checkpoints.store import CheckpointStore
    from relight.runs.catalog import find_run, runs_folder

    layout = find_run(runs_folder(runs), run_name)
    return layout, CheckpointStore(layout.checkpoints)


def _find(layout: RunLayout, store: CheckpointStore, which: str) -> CheckpointInfo:
    from relight.runs.run_record import read_run_record

    record = read_run_record(layout)
    # A damaged checkpoint is never the answer, but you may have meant it.
    for entry in store.list().damaged:
        say_error(f"{entry.path} is damaged and was skipped: {entry.reason}")
    return store.find(which, objective=record.objective)


def _check_with_progress(layout: RunLayout) -> RunCheck:
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from relight.overview.verification import check_run

    with Progress("reading", BarColumn(), DownloadColumn(), TimeRemainingColumn(), transient=True) as progress:
        bar = progress.add_task("", total=None)
        return check_run(layout, on_progress=lambda done, total: progress.update(bar, completed=done, total=total))


def _say_check(check: RunCheck) -> None:
    for damage in check.damaged:
        named = damage.reason if damage.path in damage.reason else f"{damage.path}: {damage.reason}"
        say(f"damaged: {named}")
    saved = f"{count(check.checkpoints, 'checkpoint')} ({describe_bytes(check.bytes)})"
    read = f"{saved} and {count(check.files, 'other file')}"
    if check.damaged:
        damaged = count(len({damage.path for damage in check.damaged}), "damaged file")
        say_error(f"{check.run} has {damaged}. Read {read}.")
    else:
        say(f"{check.run} is intact: read {read}; every digest matches.")
