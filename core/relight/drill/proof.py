"""The proof that a drill leaves in the runs folder, and whether it still holds for a run as it is now."""

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
from relight.runs.record_file import read_record, read_record_or_none, write_record
from relight.runs.records import AttemptStart, Record, ResumeCheck, RunRecord, TaskReference
from relight.wording import count, name_some

_FOLDER = ".drills"
_IRRELEVANT_OPTIONS = {
    "epochs", "max_steps", "batch_size", "lr", "momentum", "weight_decay", "warmup_steps", "clip_norm", "seed",
    "device", "threads", "max_loss_s", "max_overhead", "checkpoint_every_s", "checkpoint_every_steps", "keep_latest",
    "keep_best", "keep_best_by", "keep_every_steps", "keep_every_hours",
}  # fmt: skip
"""Options that change numbers but not what a checkpoint must hold. The device and the number of threads that were
really used are in the fingerprint, and compared there."""
_NOT_COMPARED = {"git.commit", "hash_seed"}
"""The code itself is compared, so its commit adds nothing."""


class FirstDifference(msgspec.Struct, frozen=True, kw_only=True):
    """The first difference between the resumed and the uninterrupted run, its likely cause, and the cure."""

    part: str
    """"tensor", "generator", "data position", "metric", …"""
    name: str
    step: int
    """Of the first checkpoint, or logged value, that differs."""
    detail: str
    cause: str
    cure: str
    others: int
    """Number of other things that differ at that step."""


class DrilledKill(msgspec.Struct, frozen=True, kw_only=True):
    """One kill of a drill, and the step of the checkpoint from which a new process continued."""

    step: int
    from_step: int
    in_validation: bool = False
    """Whether it came in a validation after that step."""
    rank: int | msgspec.UnsetType = msgspec.UNSET
    """Which rank was killed, if several trained."""


class DrillProof(Record, frozen=True, kw_only=True):
    """The result of one drill. `bit_exact` is its verdict: equal state digests, and equal metrics at every step."""

    format: str = "relight-drill"
    task: TaskReference
    config: dict[str, Any]
    """The options that `choose_relevant` picks."""
    time_s: float
    bit_exact: bool
    fingerprint: Fingerprint
    """Versions, device, threads and code of the drill."""
    code_files: tuple[str, ...] = ()
    """The task's own files, relative to its folder."""
    steps: int
    killed_at_step: int
    """Of the first kill."""
    resumed_from_step: int
    kills: tuple[DrilledKill, ...] = ()
    """All kills; none in a proof of an older version, which had one."""
    cut_off: bool = False
    """Whether the drill ended the trainings at `steps`, because they are longer."""
    nproc: int | msgspec.UnsetType = msgspec.UNSET
    """How many ranks trained, if several did."""
    mid_epoch: bool
    """False when epochs are so short that every checkpoint is at the end of one."""
    checkpoints_compared: int
    tensors_compared: int
    metric_steps_compared: int
    state_digest: str
    """Of the resumed run's last checkpoint."""
    first_difference: FirstDifference | None
    duration_s: float

    uninterrupted_digest: str | msgspec.UnsetType = msgspec.UNSET
    """This field and the next two are set right after the drill only: the file does not contain them."""
    folder: str | msgspec.UnsetType | None = msgspec.UNSET
    """Where both runs are, when they were kept."""
    script_config: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    """The config that a script recorded."""

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return 1 if isinstance(self.nproc, msgspec.UnsetType) else self.nproc


class JudgedProof(msgspec.Struct, frozen=True, kw_only=True):
    """A proof, and what has changed since; no changes mean that it still holds."""

    proof: DrillProof
    changes: tuple[FingerprintChange, ...]
    disagreement: str = ""
    """How the run's own newest checked resume contradicts the drill, in sentences; "" if it does not."""

    def list_facts(self) -> dict[str, Any]:
        """Return the value of `proof` in `show --json`; the keys are a contract."""
        proof = self.proof
        return {
            "bit_exact": proof.bit_exact, "time_s": proof.time_s, "changes": self.changes,
            "disagreement": self.disagreement, "fingerprint": proof.fingerprint,
            "first_difference": proof.first_difference,
        }  # fmt: skip


def choose_relevant(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a drill proves something about: workers, optimizer, precision, the task's own."""
    return {key: config[key] for key in sorted(config) if key not in _IRRELEVANT_OPTIONS}


def write_proof(folder: Path, proof: DrillProof) -> None:
    """Write `proof` to a runs folder; it replaces the earlier one for the same task, config and ranks."""
    path = _proof_path(folder, proof.task, proof.config, nproc=proof.world_size)
    make_folder(path.parent)
    unset = dict.fromkeys(("uninterrupted_digest", "folder", "script_config"), msgspec.UNSET)
    write_record(path, msgspec.structs.replace(proof, **unset))


def find_proof(folder: Path, task: TaskReference, config: Mapping[str, Any], *, nproc: int = 1) -> DrillProof | None:
    """Return the proof for exactly that config and those ranks, else the newest for that task; None without one."""
    exact = _read(_proof_path(folder, task, config, nproc=nproc))
    if exact is not None:
        return exact
    others = (folder / _FOLDER).glob(f"{_task_key(task)}-*.json") if (folder / _FOLDER).is_dir() else ()
    found = [proof for path in others if (proof := _read(path)) is not None and _is_same(proof.task, task)]
    return max(found, key=lambda proof: proof.time_s, default=None)


def judge_proof(
    proof: DrillProof, *, config: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> tuple[FingerprintChange, ...]:
    """Return what has changed since the drill; nothing means that the proof still holds for such a run.

    `fingerprint` is that of the run's newest attempt. The code is compared as it is on disk now, because that is what a
    resume would run.
    """
    before, now = dict(proof.fingerprint), dict(fingerprint)
    now.pop("code.digest", None)
    if proof.code_files and proof.task.path is not None and "code.digest" in before:
        now["code.digest"] = digest_code(Path(proof.task.path).parent, proof.code_files)
    changes = compare_fingerprints({key: value for key, value in before.items() if key not in _NOT_COMPARED}, now)
    relevant = choose_relevant(config)
    options = tuple(
        FingerprintChange(key=f"config.{key}", before=proof.config[key], now=relevant[key])
        for key in sorted(proof.config.keys() & relevant.keys())
        if proof.config[key] != relevant[key]
    )
    return (*changes, *options)


def judge_run(layout: RunLayout, record: RunRecord) -> JudgedProof | None:
    """Return the proof for a run's task and what has changed since; None when there is no proof."""
    attempt = layout.attempt(layout.latest_attempt())
    start = read_record_or_none(attempt.start, AttemptStart)
    nproc = 1 if start is None else start.world_size
    proof = find_proof(layout.folder.parent, record.task, record.config, nproc=nproc)
    if proof is None:
        return None
    environment = read_environment(attempt.environment) or {}
    changes = judge_proof(proof, config=record.config, fingerprint=take_fingerprint(environment))
    disagreement = "" if changes else word_disagreement(proof, _find_newest_check(layout))
    return JudgedProof(proof=proof, changes=changes, disagreement=disagreement)


def word_kills(proof: DrillProof) -> str:
    """Say where the drill killed, and from where each resume continued."""
    kills = proof.kills or (DrilledKill(step=proof.killed_at_step, from_step=proof.resumed_from_step),)
    return name_some([_word_kill(kill) for kill in kills])


def _word_kill(kill: DrilledKill) -> str:
    where = "in the validation after" if kill.in_validation else "at"
    rank = "" if isinstance(kill.rank, msgspec.UnsetType) else f"rank {kill.rank}, "
    return f"{where} step {kill.step} ({rank}resumed from step {kill.from_step})"


def word_disagreement(proof: DrillProof, check: ResumeCheck | None) -> str:
    """Say how a real resume of the run contradicts the drill; "" if it does not, or if nothing was compared."""
    if check is None or check.verdict == ("exact" if proof.bit_exact else "different"):
        return ""
    if check.verdict == "different":
        return (
            f"The drill found that a resume of this task is exact, but the resume of attempt {check.attempt} was not. "
            "Trust the resume: a short drill cannot meet everything that happens in a long training."
        )
    if check.verdict == "exact":
        return (
            f"The drill found that a resume of this task is not exact, but attempt {check.attempt} computed "
            f"{count(check.equal_steps, 'step')} exactly as attempt {check.against} had. What the drill found may "
            "show later in the training, or at other places in it."
        )
    return ""


def _find_newest_check(layout: RunLayout) -> ResumeCheck | None:
    """Return the newest comparison of a resume with what an earlier attempt computed; None without one."""
    for attempt in reversed(layout.list_attempts()):
        check = read_record_or_none(layout.attempt(attempt).resume_check, ResumeCheck)
        if check is not None:
            return check
    return None


def _proof_path(folder: Path, task: TaskReference, config: Mapping[str, Any], *, nproc: int) -> Path:
    relevant = msgspec.json.encode(choose_relevant(config))
    if nproc > 1:
        relevant += f" {nproc} ranks".encode()
    return folder / _FOLDER / f"{_task_key(task)}-{xxhash.xxh3_64_hexdigest(relevant)[:8]}.json"


def _task_key(task: TaskReference) -> str:
    """Return a file name prefix that only this task has: its name, and a digest of where it is."""
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
