"""Damage to any file of a run is found and named, or shown to be harmless: each kind of file, each kind of damage."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from relight.checkpoints.export import export_weights
from relight.checkpoints.store import CheckpointStore
from relight.metrics.metric_records import read_records
from relight.overview.verification import check_run
from relight.runs.json_digest import add_digest
from relight.runs.layout import RunLayout
from relight.runs.process_identity import current_process
from relight.runs.record_file import write_record
from relight.runs.records import ScriptRecord, StopRequest, TrainerOutcome

if TYPE_CHECKING:
    from tests.cli.conftest import RunMaker

HARMLESS = {
    "lock": "the kernel's lock counts, not what is in the file",
    "attempts/0001/log.txt": "text for people",
    "attempts/0001/supervisor.txt": "text for people",
}
DAMAGES: dict[str, Callable[[bytearray, random.Random], bytes]] = {}


def damage(function: Callable[[bytearray, random.Random], bytes]) -> Callable[[bytearray, random.Random], bytes]:
    DAMAGES[function.__name__] = function
    return function


@damage
def bit_flip(data: bytearray, chance: random.Random) -> bytes:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


@damage
def truncation(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[: chance.randrange(1, len(data))])


@damage
def empty(data: bytearray, chance: random.Random) -> bytes:
    return b""


@damage
def zero_block(data: bytearray, chance: random.Random) -> bytes:
    size = min(4096, max(1, len(data) // 2))
    begin = chance.randrange(len(data) - size + 1)
    data[begin : begin + size] = bytes(size)
    return bytes(data)


@pytest.fixture
def run(make_run: RunMaker) -> RunLayout:
    """A run that has every kind of file."""
    layout = make_run()
    store = CheckpointStore(layout.checkpoints)
    info = store.find("latest")
    store.mark_verified(info)
    store.pin(info)
    layout.exports.mkdir()
    export_weights(store, info, layout.exports / "best_model.safetensors")
    attempt = layout.attempt(1)
    write_record(attempt.outcome, TrainerOutcome(outcome="finished", step=20))
    write_record(attempt.writer, current_process())
    write_record(attempt.script, ScriptRecord(config={"lr": 0.1}))
    write_record(layout.stop_request, StopRequest(attempt=1, time_s=5.0))
    attempt.environment.write_bytes(add_digest(msgspec.json.format(b'{"torch":"2.13.0","threads":2}', indent=2)))
    attempt.supervisor_log.write_text("said something\n")
    layout.lock.write_text("4121\n")
    return layout


def test_a_whole_run_has_no_damage_and_every_file_is_known(run: RunLayout) -> None:
    check = check_run(run)
    assert check.damaged == []
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    read = [path for path in files if str(path.relative_to(run.folder)) not in HARMLESS]
    # format.json, a manifest and a pack for each checkpoint are counted as checkpoints.
    assert check.files + 1 + 2 * check.checkpoints == len(read)


@pytest.mark.parametrize("kind", sorted(DAMAGES))
def test_every_damage_to_every_file_is_found_and_named_or_harmless(run: RunLayout, kind: str) -> None:
    chance = random.Random(kind)
    found = 0
    for path in sorted(path for path in run.folder.rglob("*") if path.is_file()):
        pristine = path.read_bytes()
        if not pristine:
            continue  # a label: there is nothing in it that could rot
        for _ in range(12 if kind != "empty" else 1):
            damaged = DAMAGES[kind](bytearray(pristine), chance)
            if damaged == pristine:
                continue
            path.write_bytes(damaged)
            named = [entry.path for entry in check_run(run).damaged]
            if named:
                found += 1
                assert set(named) & _may_be_named(run, path), (path, named)
            else:
                assert _is_harmless(run, path, pristine, damaged), (path, kind, damaged[:400])
        path.write_bytes(pristine)
    assert found > (15 if kind == "empty" else 150)
    assert check_run(run).damaged == []


def test_a_label_that_is_no_empty_file_is_named(run: RunLayout) -> None:
    label = next((run.checkpoints / "labels").iterdir())
    label.write_bytes(b"x")
    assert [entry.path for entry in check_run(run).damaged] == [str(label)]


def _may_be_named(run: RunLayout, path: Path) -> set[str]:
    """The file itself; for a pack, the manifests of the checkpoints that are lost by it."""
    if path.parent.name != "packs":
        return {str(path)}
    return {str(path), *(str(manifest) for manifest in (run.checkpoints / "manifests").iterdir())}


def _is_harmless(run: RunLayout, path: Path, pristine: bytes, damaged: bytes) -> bool:
    name = str(path.relative_to(run.folder))
    if name in HARMLESS:
        return True
    if path == run.attempt(1).progress:
        return damaged == b""  # what a trainer leaves that is killed as it begins; the step is known from elsewhere
    if path.suffix == ".rlm":
        return _is_only_a_curve(path, pristine)
    # Damage to the digest's own line, or to the white space before it: what is said is unchanged.
    said, before = json.loads(damaged.decode(errors="replace")), json.loads(pristine)
    before.pop("digest", None)
    return {key: said.get(key) for key in before} == before


def _is_only_a_curve(path: Path, pristine: bytes) -> bool:
    """Values have no digest: a point of a curve is another one, or its end is missing. Nothing is computed from it."""
    records = read_records(path)
    damaged = path.read_bytes()
    path.write_bytes(pristine)
    before = read_records(path)
    path.write_bytes(damaged)
    count = len(records.steps)
    return count <= len(before.steps) and records.header == before.header and bool(np.all(records.times > 0))
