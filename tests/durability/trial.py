"""Checks what must work in a folder on any file system: two runs, a lock, checkpoints, retention, quarantine.

python -m tests.durability.trial FOLDER ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from relight.checkpoints.deletion import apply_retention, sweep
from relight.checkpoints.recovery import find_newest_good, verify_store
from relight.checkpoints.retention import RetentionPolicy, plan_retention
from relight.checkpoints.store import CheckpointStore
from relight.errors import RelightError
from relight.runs.catalog import create_run, find_run, list_layouts
from relight.runs.lock import RunLock, is_locked
from relight.runs.records import PreparedTask, TaskReference
from tests.durability.lives import assert_right
from tests.durability.saver import snapshot_at

DIGITS = TaskReference(kind="builtin", name="digits")


def try_folder(folder: Path) -> None:
    """Raise AssertionError, or an error of the file system, for whatever does not work."""
    layout = create_run(folder / "runs", PreparedTask(DIGITS), name="Trial").layout
    other = create_run(folder / "runs", PreparedTask(DIGITS), name="trial").layout
    assert {found.run_id for found in list_layouts(folder / "runs")} == {layout.run_id, other.run_id}
    assert find_run(folder / "runs", layout.run_id).folder == layout.folder
    with RunLock.acquire(layout):
        assert is_locked(layout)
        with pytest.raises(RelightError):
            RunLock.acquire(layout)
    store = CheckpointStore(layout.checkpoints)
    for step in range(1, 8):
        info = store.commit(*snapshot_at(step))
        assert not store.check(info, from_disk=True)
        store.mark_verified(info)
        if step == 2:
            store.pin(info)
        apply_retention(store, plan_retention(store.list().checkpoints, RetentionPolicy(best=())))
    assert [info.step for info in store.list().checkpoints] == [2, 6, 7]
    # Nothing is replaced, and for a damaged checkpoint the one before it is taken.
    pack = store.layout.packs / store.find(7).name.pack
    data = bytearray(pack.read_bytes())
    data[-1] ^= 1
    pack.write_bytes(data)
    good, passed = find_newest_good(store)
    assert good is not None
    assert (good.step, [one.step for one in passed]) == (6, [7])
    for info in CheckpointStore(layout.checkpoints).list().checkpoints:
        assert_right(store, info)
    sweep(store)
    assert verify_store(store).damaged == []


def main() -> None:
    """Try each folder."""
    for folder in map(Path, sys.argv[1:]):
        folder.mkdir(exist_ok=True)
        try_folder(folder)
        print(f"all is well in {folder}", flush=True)


if __name__ == "__main__":
    main()
