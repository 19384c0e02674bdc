"""The actions of the pages: launch, resume, branch, drill, stop, export, pin. Errors become sentences for the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relight.checkpoints.export import Format, export_to_run
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.store import CheckpointStore
from relight.drill.proof import DrillProof, choose_relevant
from relight.drill.rehearsal import run_drill
from relight.runs.records import PreparedTask, TaskReference
from relight.supervision.branch import branch_run
from relight.supervision.launch import launch_run
from relight.supervision.resume import resume_run
from relight.supervision.stop import stop_run
from relight.supervision.trust import require_trust
from relight.tasks.reference import launch_script, resolve_task, validate_config
from relight_app.engine import Engine
from relight_app.jobs import Job, Work
from relight_app.problems import Problem, explain

_PATIENCE_S = 2.0


@dataclass(frozen=True)
class Outcome:
    """The result of an action: the run that it concerned, or the problem. `pending`: it continues in the background."""

    run: str = ""
    problem: Problem | None = None
    pending: bool = False


@dataclass(frozen=True)
class LaunchRequest:
    """A launch. `config` has the values that differ from the task's defaults; `arguments` are those of a script."""

    task: str
    config: Mapping[str, Any]
    name: str
    token: str
    max_restarts: int = 0
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class BranchRequest:
    """A branch. `config` has the values that differ from the parent's.

    `arguments` are those of a script; None keeps the parent's.
    """

    run: str
    step: int
    config: Mapping[str, Any]
    name: str
    token: str
    weights_only: bool = False
    arguments: tuple[str, ...] | None = None


@dataclass(frozen=True)
class DrillRequest:
    """A drill of a run's own task, with its config as it was launched; or of a task by the name that a person typed.

    For a task by name, `config` has the values that differ from the defaults, and `arguments` are those of a script.
    """

    task: TaskReference | str
    config: Mapping[str, Any]
    arguments: tuple[str, ...] = ()
    run: str = ""
    """The run whose task this is; "" for a task by name."""


def launch(engine: Engine, request: LaunchRequest) -> Outcome:
    """Start a new run. A second call with the same token returns the first one's run."""

    def work() -> Outcome:
        prepared = _prepare(request.task, request.config, request.arguments)
        launched = launch_run(
            engine.folder,
            prepared,
            name=request.name or None,
            token=request.token,
            max_restarts=request.max_restarts,
        )
        return Outcome(launched.layout.run_id)

    return _try(engine, work)


def resume(engine: Engine, run: str, *, from_step: int | None = None, token: str) -> Outcome:
    """Resume a run from its last good checkpoint, or from the one at `from_step`.

    A process of the previous attempt may still be ending. The resume then waits for it in the background, and
    `resume_job` has the outcome.
    """

    def work() -> Outcome:
        launched = resume_run(engine.find_layout(run), from_=from_step, token=token)
        return Outcome(launched.layout.run_id)

    return _wait_a_while(engine, ("resume", run), work, pending=Outcome(run, pending=True))


def resume_job(engine: Engine, run: str) -> Job | None:
    """Return the run's resume that is in the background, or has ended there."""
    return engine.jobs.find(("resume", run))


def branch(engine: Engine, request: BranchRequest) -> Outcome:
    """Start a run from another run's checkpoint. A second call with the same token returns the first one's run.

    Verifying and copying a large checkpoint takes long. It then continues in the background, and `branch_job` has the
    outcome.
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
        )
        return Outcome(launched.layout.run_id)

    return _wait_a_while(engine, ("branch", request.token), work, pending=Outcome(pending=True))


def branch_job(engine: Engine, token: str) -> Job | None:
    """Return the branch of that token that is in the background, or has ended there."""
    return engine.jobs.find(("branch", token))


def drill(engine: Engine, request: DrillRequest) -> None:
    """Prove in the background that a killed run of the task resumes bit for bit; see `drill_job`."""

    def work(job: Work) -> DrillProof:
        job.tell("Checking that the task can be trained.")
        try:
            if request.run:
                require_trust(engine.find_layout(request.run), engine.read_record(request.run))
            prepared = _prepare(request.task, request.config, request.arguments)
            return run_drill(engine.folder, prepared, tell=job.tell)
        finally:
            engine.memo.forget()

    engine.jobs.start_telling(_drill_key(request), work)


def drill_job(engine: Engine, request: DrillRequest) -> Job | None:
    """Return the newest drill of that task and config since the server started."""
    return engine.jobs.find(_drill_key(request))


def stop(engine: Engine, run: str, *, now: bool = False) -> Outcome:
    """Ask a run to stop at its next step edge with a checkpoint; with `now`, to stop without waiting for either."""

    def work() -> Outcome:
        stop_run(engine.find_layout(run), now=now)
        return Outcome(run)

    return _try(engine, work)


def export(engine: Engine, run: str, *, which: str | int, format: Format) -> None:
    """Export the weights of the checkpoint "best", "latest" or at a step, in the background; see `export_job`."""

    def work() -> Path:
        store, info = _find_checkpoint(engine, run, which)
        return export_to_run(engine.find_layout(run), store, info, best=which == "best", format=format)[0].path

    engine.jobs.start(("export", run), work)


def export_job(engine: Engine, run: str) -> Job | None:
    """Return the run's newest export since the server started."""
    return engine.jobs.find(("export", run))


def pin(engine: Engine, run: str, *, step: int, on: bool) -> Outcome:
    """Pin a checkpoint, so that retention never removes it, or unpin it."""

    def work() -> Outcome:
        store, info = _find_checkpoint(engine, run, step)
        store.pin(info, on=on)
        return Outcome(run)

    return _try(engine, work)


def outcome_of(job: Job) -> Outcome:
    """Return the outcome of a resume or branch that has ended."""
    if job.error is not None:
        return Outcome(problem=explain(job.error))
    assert isinstance(job.result, Outcome)
    return job.result


def _prepare(task: TaskReference | str, config: Mapping[str, Any], arguments: tuple[str, ...]) -> PreparedTask:
    if isinstance(task, str):
        task = resolve_task(task)
        if task.kind == "script":
            task = launch_script(task, arguments=arguments)
    return validate_config(task, config)


def _find_checkpoint(engine: Engine, run: str, which: str | int) -> tuple[CheckpointStore, CheckpointInfo]:
    record, store = engine.read_record(run), engine.open_store(run)
    info = store.find(which, objective=record.objective)
    return store, info


def _drill_key(request: DrillRequest) -> Hashable:
    task, arguments = request.task, request.arguments
    named: Hashable = task
    if not isinstance(task, str):
        named, arguments = (task.kind, task.path or task.name, task.class_name), task.arguments
    return "drill", named, arguments, json.dumps(choose_relevant(request.config), sort_keys=True, default=str)


def _wait_a_while(engine: Engine, key: Hashable, work: Callable[[], Outcome], *, pending: Outcome) -> Outcome:
    """Do `work` as the job `key`; return its outcome, or `pending` when it takes longer than two seconds."""
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
