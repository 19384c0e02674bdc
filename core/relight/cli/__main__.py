"""Runs the `relight` command as `python -m relight.cli`."""

from relight.cli import main

main()
