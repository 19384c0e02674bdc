"""The drill: train, kill at chosen steps, resume in new processes, compare with an undisturbed run, keep the proof."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from relight.checkpoints.store import CheckpointStore
from relight.drill.comparison import Comparison, compare_runs
from relight.drill.explanation import Evidence, explain_difference
from relight.drill.proof import DrilledKill, DrillProof, FirstDifference, choose_relevant, write_proof
from relight.drill.suspects import DataWatch, find_suspects, find_warned_kernels
from relight.drill.temporary_runs import make_temporary_runs, remove_leftovers
from relight.drill.trainings import (
    DrillFailed,
    DrillPlan,
    KilledRun,
    Tell,
    Trainings,
    WholeRun,
    is_on_cpu,
    plan_drill,
    train_all,
)
from relight.runs.durable_file import make_folder
from relight.runs.fingerprint import read_environment, take_fingerprint
from relight.runs.layout import RunLayout
from relight.runs.log import read_log_tail
from relight.runs.records import PreparedTask, name_nproc
from relight.runs.run_record import read_run_record
from relight.wording import count

_LOG_BYTES = 1 << 20
LONG_STEPS = 100
LONG_S = 30.0
"""A training is long, so the drill ends it, after this many steps or seconds, whichever comes first."""


def run_drill(
    folder: Path,
    task: PreparedTask,
    *,
    steps: int | None = None,
    nproc: int = 1,
    keep: bool = False,
    timeout_s: float = 600.0,
    tell: Tell,
) -> DrillProof:
    """Run the drill with `task` and write its proof to the runs folder `folder`.

    The trainings end as they would without a drill, but after `steps` steps at the latest; None means 100 steps or 30
    seconds. `nproc` ranks train each of them, and `timeout_s` bounds it. All runs live in a temporary folder inside
    `folder`, which is removed at the end, whatever happens, unless `keep`. `tell` receives a sentence at each stage,
    one at a time, but from several threads. Raises `DrillFailed` when a training crashes or takes too long.
    """
    begun_s = time.monotonic()
    make_folder(folder)
    remove_leftovers(folder)
    data = DataWatch(task.config)
    plan = plan_drill(
        task, steps=steps or LONG_STEPS, seconds=0.0 if steps else LONG_S, timeout_s=timeout_s, nproc=nproc, tell=tell
    )
    with make_temporary_runs(folder, keep=keep) as runs:
        trained = train_all(runs, plan)
        if not trained.killed:
            raise DrillFailed(_word_never_killed(plan, trained.whole.steps.count))
        tell("Comparing.")
        proof = _make_proof(plan, trained, data=data, begun_s=begun_s, folder=str(runs) if keep else None)
        write_proof(folder, proof)
        return proof


def _word_never_killed(plan: DrillPlan, steps: int) -> str:
    if steps >= 2:
        return (
            f"{plan.name} made no checkpoint from which its {steps} steps could continue, so it was not killed. Its "
            "log says why."
        )
    longer = "longer" if plan.is_script else "longer, for example with --set epochs=100"
    return f"{plan.name} ends after {count(steps, 'step')}, before it can be killed. Make it {longer}."


def _make_proof(
    plan: DrillPlan, trained: Trainings, *, data: DataWatch, begun_s: float, folder: str | None
) -> DrillProof:
    whole = trained.whole.layout
    compared = [(run, compare_runs(run.layout, whole, nproc=plan.nproc)) for run in trained.killed]
    found = [(run, comparison) for run, comparison in compared if comparison is not None]
    if len(found) < len(compared):
        raise DrillFailed(f"{plan.name} left no checkpoints to compare.")
    run, worst = min(found, key=lambda each: (each[1].bit_exact, each[1].step))
    environment = _read_environment(run.layout, run.layout.latest_attempt())
    recorded = read_run_record(run.layout).config if plan.is_script else None
    kills = [kill for run in trained.killed for kill in run.kills]
    return DrillProof(
        task=plan.task.reference,
        config=choose_relevant(plan.task.config if recorded is None else recorded),
        time_s=time.time(),
        bit_exact=worst.bit_exact,
        fingerprint=take_fingerprint(environment),
        code_files=_list_code_files(environment),
        steps=worst.last_step,
        killed_at_step=kills[0].step,
        resumed_from_step=kills[0].from_step,
        kills=tuple(
            DrilledKill(
                step=kill.step,
                from_step=kill.from_step,
                in_validation=kill.in_validation,
                rank=msgspec.UNSET if kill.rank is None else kill.rank,
            )
            for kill in kills
        ),
        nproc=name_nproc(plan.nproc),
        cut_off=trained.whole.cut_off,
        mid_epoch=any(kill.from_step % trained.whole.steps.per_epoch for kill in kills)
        if trained.whole.steps.per_epoch
        else True,
        checkpoints_compared=sum(comparison.checkpoints for _, comparison in found),
        tensors_compared=worst.tensors,
        metric_steps_compared=worst.metric_steps,
        state_digest=worst.digest,
        first_difference=_explain(worst, plan, run, trained.whole, data=data),
        duration_s=time.monotonic() - begun_s,
        uninterrupted_digest=worst.uninterrupted_digest,
        folder=folder,
        script_config=recorded,
    )


def _explain(
    compared: Comparison, plan: DrillPlan, run: KilledRun, whole: WholeRun, *, data: DataWatch
) -> FirstDifference | None:
    if not compared.differences:
        return None
    first, *others = compared.differences
    task, environment = plan.task.reference, _read_environment(whole.layout, 1)
    suspects = (
        find_suspects(Path(task.path).parent, _list_code_files(environment), class_name=task.class_name)
        if task.path is not None
        else ()
    )
    at = compared.step if compared.first_step is None else min(compared.step, compared.first_step)
    explanation = explain_difference(
        first,
        Evidence(
            step=compared.step,
            first_step=compared.first_step,
            saved_again=compared.saved_again,
            resumed_from=max(
                (kill.from_step for kill in run.kills if kill.from_step < at), default=run.kills[0].from_step
            ),
            steps_per_epoch=whole.steps.per_epoch,
            on_cpu=is_on_cpu(whole.layout),
            is_script=plan.is_script,
            suspects=suspects,
            kernels=find_warned_kernels(read_log_tail(whole.layout.attempt(1).log, max_bytes=_LOG_BYTES)),
            changed_data=data.find_change(),
            nothing_tracked=_tracks_nothing(run.layout),
        ),
    )
    return FirstDifference(
        part=first.part,
        name=first.name,
        step=compared.step,
        detail=first.detail,
        cause=explanation.cause,
        cure=explanation.cure,
        others=len(others),
    )


def _read_environment(layout: RunLayout, attempt: int) -> Mapping[str, Any]:
    return read_environment(layout.attempt(attempt).environment) or {}


def _list_code_files(environment: Mapping[str, Any]) -> tuple[str, ...]:
    code = environment.get("code")
    files = code.get("files") if isinstance(code, dict) else None
    return tuple(str(name) for name in files) if isinstance(files, list) else ()


def _tracks_nothing(layout: RunLayout) -> bool:
    """Return whether a script's newest checkpoint holds no module, no optimizer and nothing else that it tracks."""
    store = CheckpointStore(layout.checkpoints)
    with store.open(store.find("latest")) as reader:
        parts = reader.state.get("parts", {})
    return all(name == "loader" or name.startswith("script:") for name in parts)
