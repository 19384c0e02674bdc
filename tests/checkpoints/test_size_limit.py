"""A limit on the size of files (`ulimit -f`) fails a save with one sentence that names the cure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import resource, sys
from pathlib import Path
from relight.checkpoints.staging import StagingMemory
from relight.checkpoints.store import CheckpointStore
from relight.errors import SaveError
from tests.checkpoints.snapshots import make_snapshot
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
store = CheckpointStore(Path(sys.argv[1]))
for save in (lambda: StagingMemory.create(1 << 20), lambda: store.commit(*make_snapshot(1))):
    try:
        save()
    except SaveError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(store.commit(*make_snapshot(1)).step)
"""


def test_a_limit_on_the_size_of_files_fails_the_save_and_nothing_else(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path / "checkpoints")],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    staged, written, step = done.stdout.splitlines()
    for sentence in (staged, written):
        assert "(ulimit -f)" in sentence and "prlimit --fsize=unlimited" in sentence, done
    assert step == "1"
