"""The command line: parse arguments, call the engine, print."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Run the command that was typed and exit with its exit code."""
    from relight.machine.standard_streams import replace_closed_streams

    replace_closed_streams()
    from relight.cli.application import run_command_line

    run_command_line()
