"""`python -m relight.cli`: the same as the `relight` command."""

from relight.cli import main

main()
