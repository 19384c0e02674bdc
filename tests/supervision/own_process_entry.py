"""What `relight run --id` does, for a run of the stand-in: `own_process_entry.py RUNS_FOLDER BEHAVIOR…`."""

from __future__ import annotations

import sys
from pathlib import Path

from relight.errors import RelightError
from relight.supervision.own_process import OwnProcess, Wish
from supervision.conftest import stand_in


def main(folder: str, *behavior: str) -> int:
    process = OwnProcess()
    try:
        launched = process.begin(
            Path(folder), Wish("stand-in-a2b3", stand_in(*behavior)), tell=lambda line: print(line, flush=True)
        )
    except RelightError as error:
        print(error, flush=True)
        return error.exit_code
    return 0 if launched is None else process.supervise(launched)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
