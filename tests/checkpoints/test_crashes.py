"""Crashes at every point of the real write protocol (the idea of ALICE): what was acknowledged is always recovered.

The tests record the operations of the real writer, build every disk that a crash may leave, and run the real recovery
on each. The mutation tests leave out one sync of the protocol at a time, to show that the simulator notices it.
`RELIGHT_CRASHES=thorough` tries about four times as many disks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from relight.checkpoints import labels
from relight.checkpoints.arrival import Arrival
from relight.checkpoints.deletion import apply_retention
from relight.checkpoints.file_names import parse_pack_name
from relight.checkpoints.retention import BestRule, RetentionPolicy, plan_retention
from relight.checkpoints.store import CheckpointStore
from tests.checkpoints.simulator.disk import MOST_EXHAUSTIVE
from tests.checkpoints.simulator.log import Acknowledge, Create, Entry, Recorder, Remove, Rename, Sync, SyncFolder
from tests.checkpoints.simulator.trial import StoreRecovery, Verdict, try_all
from tests.checkpoints.snapshots import make_snapshot

Change = Callable[[list[Entry]], list[Entry]]
THOROUGH = os.environ.get("RELIGHT_CRASHES") == "thorough"
POLICY = RetentionPolicy(best=(BestRule(count=1),))


@pytest.fixture
def recorded(memory_path: Path) -> tuple[list[Entry], set[tuple[int, str]]]:
    """The log of a writer that makes four checkpoints with shared weights, verifies, pins one and removes old ones.

    All packs but the first are begun before their snapshots are complete, the second one with a wrong guess.
    """
    folder = memory_path / "recorded"
    recorder = Recorder(folder)
    store = CheckpointStore(folder, operations=recorder)
    existed: set[tuple[int, str]] = set()
    for step in range(1, 5):
        arrival = Arrival()
        arrival.complete()
        snapshot = make_snapshot(step, frozen=40, trained=10, score=float(-abs(step - 1)))
        info = store.commit(*snapshot, arrival=arrival)
        state = (step, store.digest(info))
        existed.add(state)
        recorder.log.append(Acknowledge(*state))
        store.mark_verified(info)
        if step == 1:
            store.pin(info)
            recorder.log.append(Acknowledge(*state, pinned=True))
        apply_retention(store, plan_retention(store.list().checkpoints, POLICY))
    assert [info.step for info in store.list().checkpoints] == [1, 3, 4]
    written = [
        entry.path for entry in recorder.log if isinstance(entry, Create) and entry.path.endswith(".safetensors")
    ]
    assert [parse_pack_name(Path(path).name).step for path in written] == [1, 2, 2, 3, 4]
    return recorder.log, existed


def judge(
    recorded: tuple[list[Entry], set[tuple[int, str]]],
    folder: Path,
    *,
    journaled: bool,
    change: Change | None = None,
) -> Verdict:
    log, existed = recorded
    return try_all(
        change(log) if change else log,
        folder,
        journaled=journaled,
        existed=existed,
        recover=StoreRecovery(),
        stop_at_first=change is not None,
        exhaustive=MOST_EXHAUSTIVE if THOROUGH else 6,
    )


@pytest.mark.parametrize("journaled", [True, False], ids=["ext4-like", "worst-case POSIX"])
def test_no_crash_loses_or_changes_what_was_acknowledged(
    recorded: tuple[list[Entry], set[tuple[int, str]]], memory_path: Path, journaled: bool
) -> None:
    verdict = judge(recorded, memory_path / "crashed", journaled=journaled)
    assert verdict.examples == []
    assert verdict.broken == 0
    assert verdict.disks > (150 if journaled else 1000)


@pytest.mark.parametrize("journaled", [True, False], ids=["ext4-like", "worst-case POSIX"])
def test_a_pin_that_a_crash_left_unsynced_is_durable_after_the_next_pin(memory_path: Path, journaled: bool) -> None:
    recorder = Recorder(memory_path / "recorded")
    store = CheckpointStore(memory_path / "recorded", operations=recorder)
    info = store.commit(*make_snapshot(1, frozen=40, trained=10))
    state = (1, store.digest(info))
    labels.add(
        info.name, "pinned", layout=store.layout, operations=recorder, durable=False
    )  # the process is killed here
    store.pin(info)
    recorder.log.append(Acknowledge(*state, pinned=True))
    verdict = judge((recorder.log, {state}), memory_path / "crashed", journaled=journaled)
    assert verdict.examples == []


def without(kind: type[Entry], folder: str) -> Change:
    """Return a change that leaves out the syncs of a folder, or of the files that end up in it."""

    def change(log: list[Entry]) -> list[Entry]:
        if kind is SyncFolder:
            changed = [entry for entry in log if entry != SyncFolder(folder)]
        else:
            created = {entry.path: entry.inode for entry in log if isinstance(entry, Create)}
            inodes = {
                created[entry.source] for entry in log if isinstance(entry, Rename) and entry.target.startswith(folder)
            }
            changed = [entry for entry in log if not (isinstance(entry, Sync) and entry.inode in inodes)]
        assert len(changed) < len(log)
        return changed

    return change


@pytest.mark.parametrize(
    ("kind", "folder"),
    [(Sync, "packs"), (SyncFolder, "packs"), (Sync, "manifests"), (SyncFolder, "manifests"), (SyncFolder, "labels")],
    ids=["pack", "folder of packs", "manifest", "folder of manifests", "folder of labels"],
)
def test_leaving_out_any_sync_is_noticed(
    recorded: tuple[list[Entry], set[tuple[int, str]]], memory_path: Path, kind: type[Entry], folder: str
) -> None:
    verdicts = [
        judge(recorded, memory_path / "crashed", journaled=journaled, change=without(kind, folder))
        for journaled in (True, False)
    ]
    assert any(verdict.broken for verdict in verdicts)


def test_leaving_out_the_sync_of_the_store_itself_is_noticed(
    recorded: tuple[list[Entry], set[tuple[int, str]]], memory_path: Path
) -> None:
    verdict = judge(
        recorded,
        memory_path / "crashed",
        journaled=False,
        change=lambda log: [e for e in log if e != SyncFolder("")],
    )
    assert verdict.broken


def test_removing_a_pack_before_the_removal_of_its_manifest_is_durable_is_noticed(
    recorded: tuple[list[Entry], set[tuple[int, str]]], memory_path: Path
) -> None:
    def change(log: list[Entry]) -> list[Entry]:
        """Leave out the sync of `manifests/` between the two removals."""
        return [
            entry
            for before, entry in zip([None, *log], log, strict=False)
            if not (entry == SyncFolder("manifests") and isinstance(before, Remove))
        ]

    assert len(change(recorded[0])) < len(recorded[0])
    assert judge(recorded, memory_path / "crashed", journaled=False, change=change).broken


def test_acknowledging_before_the_folder_is_synced_is_noticed(
    recorded: tuple[list[Entry], set[tuple[int, str]]], memory_path: Path
) -> None:
    def swap(log: list[Entry]) -> list[Entry]:
        """Acknowledge as soon as the manifest has its name, before the folder is synced."""
        changed: list[Entry] = []
        for entry in log:
            if isinstance(entry, Acknowledge) and not entry.pinned:
                place = max(
                    i for i, e in enumerate(changed) if isinstance(e, Rename) and e.target.startswith("manifests")
                )
                changed.insert(place + 1, entry)
            else:
                changed.append(entry)
        return changed

    assert judge(recorded, memory_path / "crashed", journaled=False, change=swap).broken
