"""The drill: train, kill in mid-epoch, resume in a new process, compare with an uninterrupted run, keep the proof."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relight.checkpoints.store import CheckpointStore
from relight.drill.comparison import Comparison, compare_runs
from relight.drill.explanation import Evidence, explain_difference
from relight.drill.proof import DrillProof, FirstDifference, choose_relevant, write_proof
from relight.drill.suspects import DataWatch, find_suspects, find_warned_kernels
from relight.drill.temporary_runs import make_temporary_runs, remove_leftovers
from relight.drill.trainings import DrillFailed, DrillPlan, ResumedRun, Tell, is_on_cpu, plan_drill, train_both
from relight.runs.durable_file import make_folder
from relight.runs.fingerprint import read_environment, take_fingerprint
from relight.runs.layout import RunLayout
from relight.runs.log import read_log_tail
from relight.runs.records import PreparedTask
from relight.runs.run_record import read_run_record

_LOG_BYTES = 1 << 20
_TRIES = 3
_MORE_STEPS = 20
"""How many times longer the next try is when the training ended before it could be killed."""


def run_drill(
    folder: Path, task: PreparedTask, *, steps: int = 40, keep: bool = False, timeout_s: float = 600.0, tell: Tell
) -> DrillProof:
    """Run the drill with `task` and write its proof to the runs folder `folder`.

    Both runs live in a temporary folder inside `folder`, which is removed at the end, whatever happens, unless `keep`.
    `timeout_s` bounds each training. `tell` receives a sentence at each stage. Raises `DrillFailed` when a training
    crashes or takes too long.
    """
    begun_s = time.monotonic()
    make_folder(folder)
    remove_leftovers(folder)
    data = DataWatch(task.config)
    for wanted_steps in (steps * _MORE_STEPS**tried for tried in range(_TRIES)):
        plan = plan_drill(task, steps=wanted_steps, timeout_s=timeout_s)
        with make_temporary_runs(folder, keep=keep) as runs:
            trained = train_both(runs, plan, tell=tell)
            if trained is not None:
                tell("Comparing.")
                proof = _make_proof(
                    task, plan, *trained, data=data, begun_s=begun_s, folder=str(runs) if keep else None
                )
                write_proof(folder, proof)
                return proof
        if plan.max_steps < wanted_steps:
            break
        tell("The training ended before it could be killed. Trying again with more steps.")
    raise DrillFailed(
        f"{task.reference.name} ends before it can be killed. Make it longer, for example with --set epochs=100."
    )


def _make_proof(
    task: PreparedTask,
    plan: DrillPlan,
    resumed: ResumedRun,
    uninterrupted: RunLayout,
    *,
    data: DataWatch,
    begun_s: float,
    folder: str | None,
) -> DrillProof:
    compared = compare_runs(resumed.layout, uninterrupted)
    if compared is None:
        raise DrillFailed(f"{task.reference.name} left no checkpoints to compare.")
    environment = _read_environment(resumed.layout, resumed.layout.latest_attempt())
    recorded = read_run_record(resumed.layout).config if task.reference.kind == "script" else None
    return DrillProof(
        task=task.reference,
        config=choose_relevant(task.config if recorded is None else recorded),
        time_s=time.time(),
        bit_exact=compared.bit_exact,
        fingerprint=take_fingerprint(environment),
        code_files=_list_code_files(environment),
        steps=compared.last_step,
        killed_at_step=resumed.killed_at_step,
        resumed_from_step=resumed.from_step,
        mid_epoch=resumed.mid_epoch,
        checkpoints_compared=compared.checkpoints,
        tensors_compared=compared.tensors,
        metric_steps_compared=compared.metric_steps,
        state_digest=compared.digest,
        first_difference=_explain(compared, plan, resumed, uninterrupted, data=data),
        duration_s=time.monotonic() - begun_s,
        uninterrupted_digest=compared.uninterrupted_digest,
        folder=folder,
        script_config=recorded,
    )


def _explain(
    compared: Comparison, plan: DrillPlan, resumed: ResumedRun, uninterrupted: RunLayout, *, data: DataWatch
) -> FirstDifference | None:
    if not compared.differences:
        return None
    first, *others = compared.differences
    task, environment = plan.task.reference, _read_environment(uninterrupted, 1)
    suspects = (
        find_suspects(Path(task.path).parent, _list_code_files(environment), class_name=task.class_name)
        if task.path is not None
        else ()
    )
    explanation = explain_difference(
        first,
        Evidence(
            step=compared.step,
            resumed_from=resumed.from_step,
            metric_step=compared.metric_step,
            steps_per_epoch=resumed.steps_per_epoch,
            on_cpu=is_on_cpu(uninterrupted),
            suspects=suspects,
            kernels=find_warned_kernels(read_log_tail(uninterrupted.attempt(1).log, max_bytes=_LOG_BYTES)),
            changed_data=data.find_change(),
            nothing_tracked=_tracks_nothing(resumed.layout),
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
