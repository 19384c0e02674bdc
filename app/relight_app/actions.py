"""What a page can have done: launch, resume, branch, drill, export, pin. An error is a sentence, no page is blocked."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from relight.checkpoints.export import export_best, export_weights
from relight.drill.proof import DrillProof, choose_relevant
from relight.drill.rehearsal import run_drill
from relight.runs.records import TaskReference
from relight.supervision.branch import branch_run
from relight.supervision.launch import launch_run
from relight.supervision.resume import resume_run
from relight.supervision.stop import stop_run
from relight.tasks.reference import launch_script, resolve_task, validate_config
from relight_app.engine import Engine
from relight_app.jobs import Job, Work
from relight_app.problems import Problem, explain

ExportFormat = Literal["safetensors", "pth"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = ("safetensors", "pth")
_PATIENCE_S = 2.0


@dataclass(frozen=True)
class Outcome:
    """What came of an action: `run` and sentences to tell, or the problem. `pending`: it goes on in the background."""

    run: str = ""
    notes: tuple[str, ...] = ()
    problem: Problem | None = None
    pending: bool = False


@dataclass(frozen=True)
class Request:
    """A launch that somebody asked for. `config` has what differs from the task's defaults."""

    task: str
    config: Mapping[str, Any]
    name: str
    token: str
    max_restarts: int = 0
    arguments: tuple[str, ...] = ()
    """Of a training script."""


@dataclass(frozen=True)
class BranchRequest:
    """A branch that somebody asked for. `config` has what differs from the parent's."""

    run: str
    step: int
    config: Mapping[str, Any]
    name: str
    token: str
    max_restarts: int = 0
    weights_only: bool = False
    arguments: tuple[str, ...] | None = None
    """Of a script; None leaves them as they are."""


@dataclass(frozen=True)
class DrillRequest:
    """A drill of a run's own task, with its config as it was launched; or of a task that a person named.

    For a named task, `config` has what differs from the defaults, and `arguments` are those of a script.
    """

    task: TaskReference | str
    config: Mapping[str, Any]
    arguments: tuple[str, ...] = ()


def launch(engine: Engine, request: Request) -> Outcome:
    """Start a new run; the same token again starts none and names the same run."""

    def work() -> Outcome:
        reference = resolve_task(request.task)
        if reference.kind == "script":
            reference = launch_script(reference, arguments=request.arguments)
        prepared = validate_config(reference, request.config)
        launched = launch_run(
            engine.folder,
            task=prepared.reference,
            config=prepared.config,
            best_metric=prepared.best_metric,
            higher_is_better=prepared.higher_is_better,
            name=request.name or None,
            token=request.token,
            max_restarts=request.max_restarts,
        )
        return Outcome(launched.layout.run_id, launched.notes)

    return _try(engine, work)


def resume(engine: Engine, run: str, *, from_step: int | None = None, token: str) -> Outcome:
    """Bring a dead run back, from its last good checkpoint or from that of one step.

    It may have to wait until a process of the attempt before has ended: then it goes on in the background, and
    `resume_job` tells what became of it.
    """

    def work() -> Outcome:
        launched = resume_run(engine.find_layout(run), from_=from_step, token=token)
        return Outcome(launched.layout.run_id, launched.notes)

    return _wait_a_while(engine, ("resume", run), work, pending=Outcome(run, pending=True))


def resume_job(engine: Engine, run: str) -> Job | None:
    """A resume that goes on in the background, or has ended there."""
    return engine.jobs.find(("resume", run))


def branch(engine: Engine, request: BranchRequest) -> Outcome:
    """Start a run from another's checkpoint; the same token again starts none and names the same run.

    A large checkpoint takes long to verify and to copy: then it goes on in the background (`branch_job`).
    """

    def work() -> Outcome:
        launched = branch_run(
            engine.find_layout(request.run),
            from_=request.step,
            config_changes=request.config,
            weights_only=request.weights_only,
            arguments=request.arguments,
            name=request.name or None,
            token=request.token,
            max_restarts=request.max_restarts,
        )
        return Outcome(launched.layout.run_id, launched.notes)

    return _wait_a_while(engine, ("branch", request.token), work, pending=Outcome(pending=True))


def branch_job(engine: Engine, token: str) -> Job | None:
    """A branch that goes on in the background, or has ended there."""
    return engine.jobs.find(("branch", token))


def drill(engine: Engine, request: DrillRequest) -> None:
    """Prove in the background that a killed run of the task comes back bit for bit; see `drill_job`."""

    def work(job: Work) -> DrillProof:
        job.tell("Checking that the task can be trained.")
        task = request.task
        reference = resolve_task(task) if isinstance(task, str) else task
        if isinstance(task, str) and reference.kind == "script":
            reference = launch_script(reference, arguments=request.arguments)
        prepared = validate_config(reference, request.config)
        try:
            return run_drill(engine.folder, prepared, tell=job.tell)
        finally:
            engine.memo.forget()

    engine.jobs.start_telling(_drill_key(request), work)


def drill_job(engine: Engine, request: DrillRequest) -> Job | None:
    """Return the newest drill of that task and config since the server started."""
    return engine.jobs.find(_drill_key(request))


def stop(engine: Engine, run: str, *, now: bool = False) -> Outcome:
    """Ask a run to stop at its next step edge with a checkpoint; `now`: without waiting for either."""

    def work() -> Outcome:
        stop_run(engine.find_layout(run), now=now)
        return Outcome(run)

    return _try(engine, work)


def export(engine: Engine, run: str, *, which: str | int, format: ExportFormat) -> None:
    """Export weights in the background: "best", "latest" or a step. `export_job` tells what became of it."""

    def work() -> Path:
        record = engine.read_record(run)
        store = engine.open_store(run)
        info = store.find(which, best_metric=record.best_metric, higher_is_better=record.higher_is_better)
        folder = engine.find_layout(run).exports
        if which == "best":  # as `relight export` does: always the same path
            return export_best(store, info, folder, format=format)[0].path
        return export_weights(store, info, folder / f"{run}-step{info.step}.{format}", format=format).path

    engine.jobs.start(("export", run), work)


def export_job(engine: Engine, run: str) -> Job | None:
    """The newest export of that run in this server's life."""
    return engine.jobs.find(("export", run))


def pin(engine: Engine, run: str, *, step: int, on: bool) -> Outcome:
    """Keep a checkpoint from ever being removed, or no longer."""

    def work() -> Outcome:
        record = engine.read_record(run)
        store = engine.open_store(run)
        info = store.find(step, best_metric=record.best_metric, higher_is_better=record.higher_is_better)
        store.pin(info, on=on)
        return Outcome(run)

    return _try(engine, work)


def outcome_of(job: Job) -> Outcome:
    """What came of a resume that has ended."""
    if job.error is not None:
        return Outcome(problem=explain(job.error))
    assert isinstance(job.result, Outcome)
    return job.result


def _drill_key(request: DrillRequest) -> Hashable:
    task, arguments = request.task, request.arguments
    named: Hashable = task
    if not isinstance(task, str):
        named, arguments = (task.kind, task.path or task.name, task.class_name), task.arguments
    return "drill", named, arguments, json.dumps(choose_relevant(request.config), sort_keys=True, default=str)


def _wait_a_while(engine: Engine, key: Hashable, work: Callable[[], Outcome], *, pending: Outcome) -> Outcome:
    """Do `work` as the job `key`, and answer with what becomes of it; with `pending` when it goes on for longer."""
    job = engine.jobs.start(key, lambda: _try(engine, work)).wait(_PATIENCE_S)
    if job.state == "running":
        return pending
    engine.jobs.forget(key)
    return outcome_of(job)


def _try(engine: Engine, work: Callable[[], Outcome]) -> Outcome:
    try:
        return work()
    except Exception as error:
        return Outcome(problem=explain(error))
    finally:
        engine.memo.forget()
