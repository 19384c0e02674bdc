"""Arguments and options that several commands share, and how their examples look in the help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Id, name or unique prefix of a run.", show_default=False)
]
RunsOption = Annotated[
    Path | None,
    typer.Option("--runs", metavar="DIR", help="Runs folder; else RELIGHT_RUNS, else ./runs.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set one option of the task; `relight tasks TASK` lists them.",
        show_default=False,
    ),
]
TaskArgument = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="A built-in task, such as digits, FILE.py:Class, or a training script of yours.",
        show_default=False,
    ),
]
ArgumentsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="ARGUMENTS", help="Arguments of a training script, after --.", show_default=False),
]
PythonOption = Annotated[
    Path | None,
    typer.Option("--python", metavar="PATH", help="Interpreter for a training script.", show_default=False),
]
NameOption = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Name of the run; else the task's.", show_default=False)
]
DetachOption = Annotated[
    bool, typer.Option("--detach", help="Return at once; the run goes on in the background either way.")
]

LAUNCHING = "Train"
LOOKING = "Look"
KEEPING = "Checkpoints"
MORE = "More"


def examples(*commands: str) -> str:
    """The end of a command's help: what a person types, one example a line."""
    return "\n".join(["Example:" if len(commands) == 1 else "Examples:", *(f"  {command}" for command in commands)])
