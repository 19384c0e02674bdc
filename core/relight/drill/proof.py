"""What a drill has shown, kept beside the runs, and whether it still speaks for a run as that is now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from relight.errors import DamagedFile
from relight.runs.durable_file import make_folder
from relight.runs.fingerprint import (
    Fingerprint,
    FingerprintChange,
    compare_fingerprints,
    digest_code,
    read_environment,
    take_fingerprint,
)
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, write_record
from relight.runs.records import Record, RunRecord, TaskReference

FOLDER = ".drills"
_NO_MATTER = {
    "epochs", "max_steps", "batch_size", "lr", "momentum", "weight_decay", "warmup_steps", "clip_norm", "seed",
    "device", "threads", "checkpoint_every_s", "checkpoint_every_steps", "keep_latest", "keep_best",
    "keep_best_by", "keep_every_steps", "keep_every_hours",
}  # fmt: skip
"""Options of every task that change numbers but not what a checkpoint must hold; device and threads are compared as
they turned out, in the fingerprint."""
_NOT_COMPARED = {"git.commit", "hash_seed"}
"""The code itself is compared, so its commit tells nothing more."""


class FirstDifference(msgspec.Struct, frozen=True, kw_only=True):
    """What differs first between the resumed and the uninterrupted run, why that usually is, and what helps."""

    part: str
    """"tensor", "generator", "data position", "metric", …"""
    name: str
    step: int
    """Of the first checkpoint, or logged value, that differs."""
    detail: str
    cause: str
    cure: str
    others: int
    """How much else differs at that step."""


class DrillProof(Record, frozen=True, kw_only=True):
    """The result of one drill. `bit_exact` is its verdict."""

    format: str = "relight-drill"
    task: TaskReference
    config: dict[str, Any]
    """The options that matter to it."""
    time_s: float
    bit_exact: bool
    fingerprint: Fingerprint
    code_files: tuple[str, ...] = ()
    """The task's own files, relative to its folder."""
    steps: int
    killed_at_step: int
    resumed_from_step: int
    mid_epoch: bool
    checkpoints_compared: int
    tensors_compared: int
    metric_steps_compared: int
    state_digest: str
    first_difference: FirstDifference | None
    duration_s: float


class JudgedProof(msgspec.Struct, frozen=True, kw_only=True):
    """A drill's result, and what is not as it was then: nothing while it still speaks for the run."""

    proof: DrillProof
    changes: tuple[FingerprintChange, ...]


def choose_relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config that a drill proves something about: workers, optimizer, precision, the task's own."""
    return {key: config[key] for key in sorted(config) if key not in _NO_MATTER}


def proof_path(folder: Path, task: TaskReference, config: Mapping[str, Any]) -> Path:
    """Where in a runs folder the newest drill of that task with that config is kept."""
    relevant = msgspec.json.encode(choose_relevant(config))
    return folder / FOLDER / f"{_task_key(task)}-{xxhash.xxh3_64_hexdigest(relevant)[:8]}.json"


def write_proof(folder: Path, proof: DrillProof) -> Path:
    """Keep `proof` in a runs folder, in place of the one before of the same task and config."""
    path = proof_path(folder, proof.task, proof.config)
    make_folder(path.parent)
    write_record(path, proof)
    return path


def find_proof(folder: Path, task: TaskReference, config: Mapping[str, Any]) -> DrillProof | None:
    """The drill of exactly that config, else the newest one of that task; None when none was held that can be read."""
    exact = _read(proof_path(folder, task, config))
    if exact is not None:
        return exact
    others = (folder / FOLDER).glob(f"{_task_key(task)}-*.json") if (folder / FOLDER).is_dir() else ()
    found = [proof for path in others if (proof := _read(path)) is not None and _is_same(proof.task, task)]
    return max(found, key=lambda proof: proof.time_s, default=None)


def judge_proof(
    proof: DrillProof, *, config: Mapping[str, Any], fingerprint: Mapping[str, Any] | None
) -> tuple[FingerprintChange, ...]:
    """What is not as it was in the drill; nothing means that it still speaks for such a run.

    `fingerprint` is that of the run's newest attempt, None before it has one. The code is compared as it lies on the
    disk now, which is what a resume would run.
    """
    before, now = dict(proof.fingerprint), dict(fingerprint or {})
    now.pop("code.digest", None)
    if proof.code_files and proof.task.path is not None and "code.digest" in before:
        now["code.digest"] = digest_code(Path(proof.task.path).parent, proof.code_files)
    changes = compare_fingerprints(
        {key: value for key, value in before.items() if key not in _NOT_COMPARED}, now
    )  # fmt: skip
    relevant = choose_relevant(config)
    options = tuple(
        FingerprintChange(key=f"config.{key}", before=proof.config[key], now=relevant[key])
        for key in sorted(proof.config.keys() & relevant.keys())
        if proof.config[key] != relevant[key]
    )
    return (*changes, *options)


def judge_run(layout: RunLayout, record: RunRecord) -> JudgedProof | None:
    """The drill that was held with a run's task, and what has changed since; None when none was held."""
    proof = find_proof(layout.folder.parent, record.task, record.config)
    if proof is None:
        return None
    environment = read_environment(layout.attempt(layout.latest_attempt()).environment) or {}
    changes = judge_proof(proof, config=record.config, fingerprint=take_fingerprint(environment))
    return JudgedProof(proof=proof, changes=changes)


def _task_key(task: TaskReference) -> str:
    """A file name's beginning that only this task has: what people call it, and a digest of where it is."""
    slug = re.sub(r"[^a-z0-9]+", "-", task.name.lower()).strip("-")[:40] or "task"
    where = f"{task.kind}\0{task.path or task.name}\0{task.class_name or ''}"
    return f"{slug}-{xxhash.xxh3_64_hexdigest(where.encode())[:8]}"


def _is_same(one: TaskReference, other: TaskReference) -> bool:
    return (one.kind, one.path or one.name, one.class_name) == (other.kind, other.path or other.name, other.class_name)


def _read(path: Path) -> DrillProof | None:
    try:
        return read_record(path, DrillProof)
    except (FileNotFoundError, DamagedFile):
        return None
