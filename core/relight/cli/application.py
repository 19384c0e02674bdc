"""The `relight` command: which commands there are, and how every kind of failure is said and becomes an exit code."""

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
    drill_command,
    import_command,
    listing_commands,
    task_commands,
    training_commands,
)
from relight.cli.options import examples
from relight.cli.output import say, say_error
from relight.errors import RelightError

STOPPED_BY_PERSON = 130


class RelightGroup(TyperGroup):
    """The group of all commands: an error becomes one line on stderr and an exit code, a bug keeps its traceback."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run one command and end with its exit code: 0, 1 for a clear error, 2 for wrong usage, 3, or 130."""
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
            say_error(f"{_sentence(error.format_message())} {_where_to_look(error)}")
        except (typer.Abort, KeyboardInterrupt):
            code = STOPPED_BY_PERSON
        except BrokenPipeError:
            # Whoever read our output has seen enough (`relight list | head -1`); Python's own flush must not complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        except OSError as error:
            if os.environ.get("RELIGHT_DEBUG"):
                raise
            code = 1
            where = f" {error.filename}" if error.filename else ""
            say_error(f"{error.strerror or error}{where} (RELIGHT_DEBUG=1 shows where this comes from).")
        sys.exit(code or 0)


app = typer.Typer(
    cls=RelightGroup,
    name="relight",
    help="Train with PyTorch so that nothing is lost: launch, watch, kill, resume, export.",
    epilog=examples("relight run digits", "relight list", "relight resume digits-k3f9", "relight up"),
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

training_commands.register(app)
listing_commands.register(app)
checkpoint_commands.register(app)
import_command.register(app)
drill_command.register(app)
task_commands.register(app)
dashboard_command.register(app)


@app.callback()
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print Relight's version.")] = False,
) -> None:
    """Answer `relight` and `relight --version`; everything else is a command's."""
    if version:
        from relight.version import __version__

        say(f"relight {__version__}")
    elif context.invoked_subcommand is None:
        say(context.get_help())
    else:
        return
    raise typer.Exit()


def run_command_line() -> NoReturn:
    """Run what was typed, and exit."""
    typer.main.get_command(app).main()
    raise AssertionError("the command line always exits")


def _explain(error: RelightError, *, with_traceback: bool) -> None:
    """One line on stderr; a traceback of the person's own code goes whole to stdout, above it."""
    traceback = getattr(error, "traceback", None)
    if traceback and with_traceback:
        say(traceback.rstrip())
        sys.stdout.flush()
    say_error(str(error))


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else text + "."


def _where_to_look(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"See `{context.command_path if context else 'relight'} --help`."
