"""The drill: train, kill -9 in mid-epoch, resume in a new process, and compare with a run that nobody killed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relight.checkpoints.digest import state_digest
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.store import CheckpointStore
from relight.drill.comparison import find_differences, find_metric_difference
from relight.drill.explanation import Evidence, explain_difference
from relight.drill.proof import DrillProof, FirstDifference, choose_relevant, write_proof
from relight.drill.suspects import DataWatch, Suspect, find_suspects, find_warned_kernels
from relight.drill.trainings import (
    DrillFailed,
    DrillTask,
    ResumedRun,
    Tell,
    finish,
    launch_uninterrupted,
    make_temporary_runs,
    plan_config,
    resume_killed,
    sweep_leftovers,
    train_and_kill,
)
from relight.metrics.file_format import MetricFormatError, decode_header, parse_file_name
from relight.runs.durable_file import make_folder
from relight.runs.fingerprint import Fingerprint, read_environment, take_fingerprint
from relight.runs.layout import RunLayout
from relight.runs.log import read_log_tail
from relight.runs.records import TaskReference
from relight.runs.run_record import read_run_record

DEFAULT_STEPS = 40
_LOG_BYTES = 1 << 20
_TRIES = 3
_MORE_STEPS = 20
"""How many times longer the drill gets when the training was over before it could be killed."""

MetricRows = Mapping[int, Mapping[str, float]]
"""Values by step and full name."""


@dataclass(frozen=True)
class DrillReport:
    """What the drill found. `bit_exact` is its verdict: equal state digests, and equal metrics at every step."""

    bit_exact: bool
    task: str
    steps: int
    killed_at_step: int
    resumed_from_step: int
    mid_epoch: bool
    """False when every checkpoint of so short an epoch lies at its edge."""
    checkpoints_compared: int
    tensors_compared: int
    metric_steps_compared: int
    digest: str
    """State digest of the resumed run's last checkpoint."""
    uninterrupted_digest: str
    first_difference: FirstDifference | None
    duration_s: float
    folder: str | None
    """Where both runs are, when they were to be kept."""
    fingerprint: Fingerprint
    """Versions, device, threads and code of the drill."""
    code_files: tuple[str, ...]
    script_config: Mapping[str, Any] | None = None
    """The config that a script has recorded."""


def drill(
    task: TaskReference,
    *,
    config: Mapping[str, Any],
    best_metric: str | None,
    higher_is_better: bool,
    steps: int = DEFAULT_STEPS,
    folder: Path | None = None,
    keep: bool = False,
    timeout_s: float = 600.0,
    tell: Tell = lambda text: None,
) -> DrillReport:
    """Hold the drill with `task`, in a temporary runs folder inside `folder` (else the system's).

    That folder is removed after, whatever happens, unless it is to `keep`. `timeout_s` bounds each training; `tell` is
    called with a sentence now and then. Raises `DrillFailed` when the training itself does not get through.
    """
    begun = time.monotonic()
    if folder is not None:
        sweep_leftovers(folder)
    data = DataWatch(config)
    for more in (_MORE_STEPS**tried for tried in range(_TRIES)):
        own = {} if task.kind == "script" else config
        plan = DrillTask(
            task,
            plan_config(own, steps=steps * more),
            best_metric,
            higher_is_better,
            timeout_s,
            sets=config if task.kind == "script" else {},
        )
        with make_temporary_runs(folder, keep=keep) as runs:
            tell(f"Training {task.name} for {plan.config['max_steps']} steps, to be killed on the way.")
            killed = train_and_kill(runs, plan)
            if killed is not None:
                twin = None
                if killed.on_cpu:  # two models may not fit in the memory of one card
                    tell("Training the same without a kill, at the same time.")
                    twin = launch_uninterrupted(runs, plan)
                resumed = resume_killed(killed, plan, tell=tell)
                if twin is None:
                    tell("Training the same without a kill.")
                    twin = launch_uninterrupted(runs, plan)
                finish(twin, 1, plan)
                tell("Comparing.")
                return _compare(plan, resumed, twin, data=data, begun=begun, kept=runs if keep else None)
        if plan.config["max_steps"] < steps * more:
            break
        tell("It was over before it could be killed; once more, with more steps.")
    raise DrillFailed(f"{task.name} is over before it can be killed: give it more to do, with --set epochs=100, say.")


def hold_and_keep(
    folder: Path,
    task: TaskReference,
    *,
    config: Mapping[str, Any],
    best_metric: str | None,
    higher_is_better: bool,
    steps: int = DEFAULT_STEPS,
    keep: bool = False,
    timeout_s: float = 600.0,
    tell: Tell = lambda text: None,
) -> DrillReport:
    """Hold the drill as `drill` does, and keep what it shows in the runs folder `folder`, for the runs of that task."""
    make_folder(folder)
    report = drill(
        task,
        config=config,
        best_metric=best_metric,
        higher_is_better=higher_is_better,
        steps=steps,
        folder=folder,
        keep=keep,
        timeout_s=timeout_s,
        tell=tell,
    )
    write_proof(folder, _make_proof(task, config, report))
    return report


def _make_proof(task: TaskReference, config: Mapping[str, Any], report: DrillReport) -> DrillProof:
    return DrillProof(
        task=task,
        config=choose_relevant(config if report.script_config is None else report.script_config),
        time_s=time.time(),
        bit_exact=report.bit_exact,
        fingerprint=report.fingerprint,
        code_files=report.code_files,
        steps=report.steps,
        killed_at_step=report.killed_at_step,
        resumed_from_step=report.resumed_from_step,
        mid_epoch=report.mid_epoch,
        checkpoints_compared=report.checkpoints_compared,
        tensors_compared=report.tensors_compared,
        metric_steps_compared=report.metric_steps_compared,
        state_digest=report.digest,
        first_difference=report.first_difference,
        duration_s=report.duration_s,
    )


def _compare(
    plan: DrillTask, resumed: ResumedRun, twin: RunLayout, *, data: DataWatch, begun: float, kept: Path | None
) -> DrillReport:
    """Compare what both runs left: every checkpoint that both have, and every logged value."""
    store, twin_store = CheckpointStore(resumed.layout.checkpoints), CheckpointStore(twin.checkpoints)
    pairs = _pair_by_step(store, twin_store)
    if not pairs:
        raise DrillFailed(f"{plan.reference.name} left no checkpoints to compare.")
    ours, theirs = _read_metrics(resumed.layout), _read_metrics(twin)
    last, twin_last = pairs[-1]
    digest, twin_digest = store.digest(last), twin_store.digest(twin_last)
    difference = _find_first_difference(
        plan, resumed, twin, data=data, store=store, twin_store=twin_store, pairs=pairs, ours=ours, theirs=theirs
    )
    environment = read_environment(resumed.layout.attempt(resumed.layout.latest_attempt()).environment) or {}
    return DrillReport(
        bit_exact=difference is None and digest == twin_digest,
        task=plan.reference.name,
        steps=last.step,
        killed_at_step=resumed.killed_at_step,
        resumed_from_step=resumed.from_step,
        mid_epoch=resumed.mid_epoch,
        checkpoints_compared=len(pairs),
        tensors_compared=len(store.read_manifest(last).tensors),
        metric_steps_compared=len(ours.keys() & theirs.keys()),
        digest=digest,
        uninterrupted_digest=twin_digest,
        first_difference=difference,
        duration_s=time.monotonic() - begun,
        folder=None if kept is None else str(kept),
        fingerprint=take_fingerprint(environment),
        code_files=_code_files(environment),
        script_config=read_run_record(resumed.layout).config if plan.reference.kind == "script" else None,
    )


def _find_first_difference(
    plan: DrillTask,
    resumed: ResumedRun,
    twin: RunLayout,
    *,
    data: DataWatch,
    store: CheckpointStore,
    twin_store: CheckpointStore,
    pairs: list[tuple[CheckpointInfo, CheckpointInfo]],
    ours: MetricRows,
    theirs: MetricRows,
) -> FirstDifference | None:
    """The earliest checkpoint that differs, and what in it comes first; else the earliest logged value."""
    logged = find_metric_difference(ours, theirs)
    step, found = 0, []
    for mine, other in pairs:
        manifest, twin_manifest = store.read_manifest(mine), twin_store.read_manifest(other)
        if state_digest(manifest) != state_digest(twin_manifest):
            step = mine.step
            with store.open(mine) as reader, twin_store.open(other) as twin_reader:
                found = find_differences(manifest, twin_manifest, read_resumed=reader.read, read_twin=twin_reader.read)
            break
    if not found and logged is not None:
        step, found = logged[0], [logged[1]]
    if not found:
        return None
    first = found[0]
    environment = read_environment(twin.attempt(1).environment) or {}
    explanation = explain_difference(
        first,
        Evidence(
            step=step,
            resumed_from=resumed.from_step,
            metric_step=logged[0] if logged is not None else None,
            steps_per_epoch=resumed.steps_per_epoch,
            on_cpu=environment.get("device") == "cpu",
            suspects=_find_suspects(plan.reference, environment),
            kernels=find_warned_kernels(read_log_tail(twin.attempt(1).log, max_bytes=_LOG_BYTES)),
            changed_data=data.find_change(),
            nothing_tracked=_tracks_nothing(resumed.layout),
        ),
    )
    return FirstDifference(
        part=first.part,
        name=first.name,
        step=step,
        detail=first.detail,
        cause=explanation.cause,
        cure=explanation.cure,
        others=len(found) - 1,
    )


def _find_suspects(task: TaskReference, environment: Mapping[str, Any]) -> tuple[Suspect, ...]:
    if task.path is None:
        return ()
    return find_suspects(Path(task.path).parent, _code_files(environment), class_name=task.class_name)


def _code_files(environment: Mapping[str, Any]) -> tuple[str, ...]:
    code = environment.get("code")
    files = code.get("files") if isinstance(code, dict) else None
    return tuple(str(name) for name in files) if isinstance(files, list) else ()


def _pair_by_step(store: CheckpointStore, twin: CheckpointStore) -> list[tuple[CheckpointInfo, CheckpointInfo]]:
    """The newest checkpoint of each step that both stores have, by step."""
    ours = {info.step: info for info in store.list().checkpoints}
    theirs = {info.step: info for info in twin.list().checkpoints}
    return [(ours[step], theirs[step]) for step in sorted(ours.keys() & theirs.keys())]


def _read_metrics(layout: RunLayout) -> MetricRows:
    """What training and validation logged, of the latest attempt that has the step; without rates, the clock's own."""
    rows: dict[int, dict[str, float]] = {}
    for path in sorted(layout.metrics.iterdir()):
        if parse_file_name(path.name) is None:
            continue
        data = path.read_bytes()
        try:
            header, begin = decode_header(data)
        except MetricFormatError:
            continue
        if header.stream not in ("train", "validation"):
            continue
        whole = begin + (len(data) - begin) // header.record_bytes * header.record_bytes
        for step, _, *values in header.record_struct().iter_unpack(data[begin:whole]):
            named = zip(header.names, values, strict=True)
            rows.setdefault(step, {}).update({name: value for name, value in named if not _is_of_the_clock(name)})
    return rows


def _is_of_the_clock(name: str) -> bool:
    return name.endswith("_s") or "per_s" in name or "seconds" in name


def _tracks_nothing(layout: RunLayout) -> bool:
    """Whether the newest checkpoint of a script holds neither module nor optimizer nor anything else of its own."""
    store = CheckpointStore(layout.checkpoints)
    with store.open(store.find("latest")) as reader:
        parts = reader.state.get("parts", {})
    return all(name == "loader" or name.startswith("script:") for name in parts)
