"""The run folders of the command line's tests, and paths that break careless code."""

from tests.cli.conftest import ask, make_run, runs
from tests.runs.conftest import weird_folder

__all__ = ["ask", "make_run", "runs", "weird_folder"]
