"""`python -m relight.supervision.rank_process RUN_FOLDER ATTEMPT COMMAND…`: becomes one rank of an attempt.

torchrun starts it for each rank. It puts the rank on record and its output into the rank's own log, then the process
runs the trainer's command: its pid, which is on record, stays the same.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from relight.runs.layout import RunLayout
from relight.supervision.ranks import record_rank


def main(arguments: list[str]) -> None:
    """Record the rank that the environment names, then run the command."""
    folder, number, *command = arguments
    rank = int(os.environ["RANK"])
    own = record_rank(RunLayout(Path(folder)), rank=rank, attempt=int(number))
    if rank:
        log = os.open(own.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
