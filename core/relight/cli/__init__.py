"""The command line: parse, call the engine, print. It holds no logic of its own."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that was typed, and end the process with its exit code."""
    from relight.cli.application import run_command_line

    sys.exit(run_command_line())
