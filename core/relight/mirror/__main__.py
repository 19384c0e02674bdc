"""`python -m relight.mirror RUN_FOLDER`: copy a run to its mirror while it trains. The supervisor starts it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from relight.mirror.mirroring import serve
from relight.runs.layout import RunLayout

if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)  # to the supervisor's log
    sys.exit(serve(RunLayout(Path(sys.argv[1]))))
