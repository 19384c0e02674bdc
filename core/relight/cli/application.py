"""The `relight` command: its subcommands, and how each kind of failure becomes a message and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from relight.cli import (
    checkpoint_commands,
    dashboard_command,
    deletion_commands,
    drill_command,
    import_command,
    listing_commands,
    mirror_commands,
    organizing_commands,
    task_commands,
    training_commands,
)
from relight.cli.options import examples
from relight.cli.output import say, say_error
from relight.errors import RelightError

INTERRUPTED = 130


class RelightGroup(TyperGroup):
    """The group of all subcommands. An error becomes one line on stderr and an exit code; a bug keeps its traceback."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run one command and exit: 0 done, 1 clear error, 2 wrong usage, 3 crashed run, 130 stopped by the user."""
        code: Any
        typed = sys.argv[1:] if args is None else list(args)
        try:
            code = super().main(typed, "relight", complete_var, False, windows_expand_args, **extra)
            sys.stdout.flush()
        except RelightError as error:
            code = error.exit_code
            _explain(error, with_traceback="--json" not in typed)
        except typer.TyperException as error:
            code = error.exit_code
            say_error(f"{_end_sentence(error.format_message())} {_where_to_look(error)}")
        except (typer.Abort, KeyboardInterrupt):
            code = INTERRUPTED
        except BrokenPipeError:
            # The reader has closed the pipe (`relight list | head -1`). Keep Python's own flush from complaining.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        except OSError as error:
            if os.environ.get("RELIGHT_DEBUG"):
                raise
            code = 1
            where = f": {error.filename}" if error.filename else ""
            say_error(f"{error.strerror or error}{where}. Set RELIGHT_DEBUG=1 to see the traceback.")
        sys.exit(code or 0)


def _join_help_lines(app: typer.Typer) -> None:
    """Join the lines of each paragraph, which typer would keep apart: help should wrap at the terminal's width."""
    for command in app.registered_commands:
        paragraphs = ((command.callback and command.callback.__doc__) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


app = typer.Typer(
    cls=RelightGroup,
    name="relight",
    help="Launch, watch, stop, resume and export PyTorch training runs that cannot be lost.",
    epilog=examples("relight run digits", "relight list", "relight resume digits-k3f9", "relight up"),
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

training_commands.register(app)
task_commands.register(app)
listing_commands.register(app)
checkpoint_commands.register(app)
organizing_commands.register(app)
deletion_commands.register(app)
import_command.register(app)
mirror_commands.register(app)
drill_command.register(app)
dashboard_command.register(app)

_join_help_lines(app)


@app.callback()
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version of Relight and exit.")] = False,
) -> None:
    """Answer `relight` and `relight --version`; subcommands answer everything else."""
    if version:
        from relight.version import __version__

        say(f"relight {__version__}")
    elif context.invoked_subcommand is None:
        say(context.get_help())
    else:
        return
    raise typer.Exit()


def run_command_line() -> NoReturn:
    """Run the command that was typed and exit."""
    typer.main.get_command(app).main()
    raise AssertionError("the command line always exits")


def _explain(error: RelightError, *, with_traceback: bool) -> None:
    """Print the error as one line on stderr; before it, on stdout, the whole traceback of the user's own code."""
    traceback = getattr(error, "traceback", None)
    if traceback and with_traceback:
        say(traceback.rstrip())
        sys.stdout.flush()
    say_error(str(error))


def _end_sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else text + "."


def _where_to_look(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"See `{context.command_path if context else 'relight'} --help`."
