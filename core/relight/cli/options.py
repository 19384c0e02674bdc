"""Arguments and options that several commands share, and how the help shows examples."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="ID, name or unique prefix of a run.", show_default=False)
]
RunsArgument = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="IDs, names or unique prefixes of runs.", show_default=False)
]
RunsOption = Annotated[
    Path | None,
    typer.Option("--runs", metavar="DIR", help="Runs folder. Default: $RELIGHT_RUNS, else ./runs.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set an option of the task; may be repeated. `relight tasks TASK` lists the options.",
        show_default=False,
    ),
]
TaskArgument = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="A built-in task such as digits, a class of yours (FILE.py:Class), or a training script (FILE.py).",
        show_default=False,
    ),
]
ArgumentsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="ARGUMENTS", help="Arguments for a training script, after --.", show_default=False),
]
PythonOption = Annotated[
    Path | None,
    typer.Option("--python", metavar="PATH", help="Python interpreter for a training script.", show_default=False),
]
ModuleOption = Annotated[
    bool, typer.Option("-m", help="TASK is a module with a training script, as in python -m package.train.")
]
NameOption = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="Name of the new run. Default: the task's name.", show_default=False),
]
DetachOption = Annotated[
    bool, typer.Option("--detach", help="Return at once. The run continues in the background either way.")
]

NprocOption = Annotated[
    str | None,
    typer.Option(
        "--nproc",
        metavar="N|auto",
        help="Train in N processes on this machine, under torchrun; auto: one for each GPU. See docs/ranks.md.",
        show_default=False,
    ),
]

GpusOption = Annotated[
    str | None,
    typer.Option(
        "--gpus",
        metavar="0,2|all",
        help="Train only on these GPUs, by the numbers that nvidia-smi shows.",
        show_default=False,
    ),
]

MirrorOption = Annotated[
    str | None,
    typer.Option(
        "--mirror",
        metavar="URL",
        help="Copy the checkpoints to s3://bucket/prefix or to a folder on another disk while the run trains. Default: "
        "$RELIGHT_MIRROR, else nowhere.",
        show_default=False,
    ),
]

TRAINING = "Train"
INSPECTING = "Inspect"
CHECKPOINTS = "Checkpoints"
ORGANIZING = "Organize"
MORE = "More"


def repeat_runs_option(runs: Path | None) -> str:
    """Return what a suggested command needs at its end to find the same runs folder."""
    return "" if runs is None else f" --runs {shlex.quote(str(runs))}"


def examples(*commands: str) -> str:
    """Return the end of a command's help: example commands, one per line."""
    return "\n".join(["Example:" if len(commands) == 1 else "Examples:", *(f"  {command}" for command in commands)])
