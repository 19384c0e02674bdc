"""`import`: turn weights made elsewhere into a run or a safetensors file, without running code from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relight.cli.options import CHECKPOINTS, JsonOption, NameOption, RunsOption, SetOption, examples, repeat_runs_option
from relight.cli.output import say, say_json
from relight.errors import UsageError
from relight.wording import count, describe_bytes

if TYPE_CHECKING:
    from relight.supervision.importing import ImportReport


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(
        "import",
        rich_help_panel=CHECKPOINTS,
        epilog=examples(
            "relight import best.pth --task digits --set width=64",
            "relight import lightning.ckpt --task net.py:Net --part model. --name finetune",
            "relight import model-folder/ --out clean.safetensors",
        ),
    )(import_weights)


def import_weights(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            exists=True,
            help="A .pth, .pt, .ckpt or .safetensors file, or a Hugging Face folder.",
            show_default=False,
        ),
    ],
    *,
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="TASK", help="Create a run of this task with the weights.", show_default=False),
    ] = None,
    assignments: SetOption = None,
    name: NameOption = None,
    part: Annotated[
        str | None,
        typer.Option(
            "--part",
            metavar="NAME",
            help="Which weights to take: an entry of the file (ema_state_dict), or a prefix of their names (model.).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Only convert the weights to this safetensors file.", show_default=False
        ),
    ] = None,
    runs: RunsOption = None,
    json: JsonOption = False,
) -> None:
    """Import weights made elsewhere.

    With --task, they become the first checkpoint of a new run, which `relight resume` then trains. With --out, they are
    only converted to safetensors. No code from the file is ever run.
    """
    if (task is None) == (out is None):
        raise UsageError("Give either --task TASK, to create a run with the weights, or --out FILE, to convert them.")
    if out is not None:
        if assignments or name:
            raise UsageError("--set and --name need --task: with --out, no run is created.")
        _convert(source, out, part=part, json=json)
        return
    from relight.cli.task_argument import prepare_task
    from relight.runs.catalog import runs_folder
    from relight.supervision.importing import import_run

    assert task is not None
    prepared = prepare_task(task, assignments or ())
    imported = import_run(runs_folder(runs), source, prepared, name=name, part=part)
    run_id, report = imported.layout.run_id, imported.report
    if json:
        say_json({"run": run_id, "path": str(imported.layout.folder), **_facts(report), "digest": report.digest})
        return
    say(f"Created {run_id} in {imported.layout.folder}; its first checkpoint has the weights of {source.name}.")
    _say_report(report)
    suffix = repeat_runs_option(runs)
    say("Training starts from them at step 0, with a new optimizer.")
    say(f"Train: relight resume {run_id}{suffix}")
    say(f"Export: relight export {run_id} --which latest{suffix}")


def _convert(source: Path, out: Path, *, part: str | None, json: bool) -> None:
    from relight.supervision.importing import convert_weights

    report = convert_weights(source, out, part=part)
    path = str(out.absolute())
    if json:
        say_json({"path": path, **_facts(report), "sha256": report.sha256, "bytes": report.bytes})
        return
    say(path)
    say(f"SHA-256 {report.sha256}")
    say(f"safetensors, {describe_bytes(report.bytes or 0)}")
    _say_report(report)


def _facts(report: ImportReport) -> dict[str, object]:
    return {
        "imported_from": report.imported_from,
        "tensors": report.tensors,
        "parameters": report.parameters,
        "notes": report.notes,
    }


def _say_report(report: ImportReport) -> None:
    """Say what was recognized, how it was converted, and what was left out."""
    source = report.imported_from
    where = f", entry '{source.part}'" if source.part else ""
    say(
        f"{source.kind}{where}: {count(report.tensors, 'tensor')}, {count(report.parameters, 'parameter')}, "
        f"SHA-256 {source.sha256}"
    )
    for note in report.notes:
        say(note)
    if source.not_taken:
        say(f"Not imported: {', '.join(source.not_taken)}.")
