"""The command line: parse arguments, call the engine, print."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Run the command that was typed and exit with its exit code."""
    from relight.cli.application import run_command_line

    run_command_line()
