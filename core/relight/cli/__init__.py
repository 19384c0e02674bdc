"""The command line: parse, call the engine, print. It holds no logic of its own."""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Run the command that was typed, and end the process with its exit code."""
    from relight.cli.application import run_command_line

    run_command_line()
