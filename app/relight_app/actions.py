"""What a person can ask for: each action is a request and a function, the same for every page and for scripts.

`relight_app.server.action_route` serves them as `POST /actions/NAME`. Expected errors are `RelightError`s.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from relight.checkpoints.export import Format, export_to_run
from relight.checkpoints.listing import CheckpointInfo
from relight.checkpoints.store import CheckpointStore
from relight.drill.proof import choose_relevant
from relight.drill.rehearsal import run_drill
from relight.errors import UsageError
from relight.mirror.address import choose_mirror
from relight.overview.verification import check_run
from relight.runs.about import change_about
from relight.runs.record_file import read_record_or_none
from relight.runs.records import AttemptStart, PreparedTask, TaskReference
from relight.runs.trash import delete_run, restore_run
from relight.supervision.branch import branch_run
from relight.supervision.gpu_choice import choose_gpus
from relight.supervision.interrupted_runs import resume_interrupted_runs
from relight.supervision.job_submission import plan_job, read_plan
from relight.supervision.launch import launch_run
from relight.supervision.nproc import choose_nproc
from relight.supervision.resume import resume_run
from relight.supervision.stop import stop_run
from relight.supervision.trust import require_trust
from relight.tasks.reference import launch_script, resolve_task, validate_config
from relight_app.engine import Engine
from relight_app.jobs import Work

Answer = dict[str, Any]
"""What an action answers, as JSON; "run" names the run that it concerns."""
Subject = tuple[str | int | bool | tuple[str, ...] | None, ...]
"""What identifies the work of an action, beginning with its name: requests of one subject share it."""
R = TypeVar("R", bound="Request")


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of an action's request."""


class Launch(Request, frozen=True):
    """Start a new run. `config` has values by option, as text or typed; `arguments` are those of a script.

    `mirror` is where to copy it; None means RELIGHT_MIRROR, and "" nowhere. `nproc` is a number of processes or "auto",
    as for `relight run --nproc`; "" means one. `gpus` are cards as for `relight run --gpus`, or {"0": true, "2": true};
    "" means all. `on`, `nodes` and `sbatch` are as for `relight run`; None means on this machine.
    """

    task: str
    config: dict[str, Any] = {}
    name: str = ""
    max_restarts: int = 0
    mirror: str | None = None
    nproc: str | int = ""
    gpus: str | dict[str, bool] = ""
    on: str | None = None
    nodes: int | None = None
    sbatch: str | list[str] | None = None
    arguments: str | list[str] = ""


class Resume(Request, frozen=True):
    """Resume a run from its last good checkpoint, or from the one at `step`.

    `attempt` is the newest attempt that the person saw: several presses in several tabs then start one attempt.
    """

    run: str
    step: int | None = None
    attempt: int | None = None
    trust: bool = False


class Stop(Request, frozen=True):
    """Stop a run at its next step edge with a checkpoint; with `now`, without waiting for either."""

    run: str
    now: bool = False


class Branch(Request, frozen=True):
    """Start a run from another run's checkpoint. `config` has the values to change; None keeps the arguments.

    `on`, `nodes`, `sbatch` and `nproc` are as for `relight branch`; None and "" mean as the parent.
    """

    run: str
    step: int
    config: dict[str, Any] = {}
    arguments: str | list[str] | None = None
    weights_only: bool = False
    name: str = ""
    nproc: str | int = ""
    on: str | None = None
    nodes: int | None = None
    sbatch: str | list[str] | None = None
    trust: bool = False


class Export(Request, frozen=True):
    """Export the weights of the checkpoint "best", "latest" or at a step."""

    run: str
    which: str | int = "best"
    format: Format = "safetensors"


class Pin(Request, frozen=True):
    """Pin a checkpoint, so that retention never removes it; with `on` false, unpin it."""

    run: str
    step: int
    on: bool = True


class Verify(Request, frozen=True):
    """Read every checkpoint of a run and compare each digest."""

    run: str


class Drill(Request, frozen=True):
    """Prove that a killed run resumes bit for bit. With `run`, its own task as it was launched; else the named task.

    A run is drilled with as many processes as it has, a task with `nproc`, as for a launch.
    """

    run: str = ""
    task: str = ""
    config: dict[str, Any] = {}
    arguments: str | list[str] = ""
    nproc: str | int = ""


class Rename(Request, frozen=True):
    """Change the shown name of a run; its id stays."""

    run: str
    name: str


class Note(Request, frozen=True):
    """Write a note about a run."""

    run: str
    note: str


class Tag(Request, frozen=True):
    """Add tags to a run and remove others: lists, or text with spaces between them."""

    run: str
    add: str | list[str] = ""
    remove: str | list[str] = ""


class Star(Request, frozen=True):
    """Star a run; with `on` false, take the star away."""

    run: str
    on: bool = True


class Archive(Request, frozen=True):
    """Leave a run out of lists; with `on` false, show it again."""

    run: str
    on: bool = True


class Delete(Request, frozen=True):
    """Move a run to the trash for seven days; with `now`, remove it at once."""

    run: str
    now: bool = False


class Restore(Request, frozen=True):
    """Bring a run back from the trash."""

    run: str


class ResumeInterrupted(Request, frozen=True):
    """Resume every run that a reboot or a kill interrupted in the last seven days; with `crashed`, the others too."""

    crashed: bool = False


class Describe(Request, frozen=True):
    """Import a person's file in a separate process to learn the options of its task."""

    file: str


@dataclass(frozen=True)
class Action(Generic[R]):
    """An action. While its work on one subject runs, a second request joins it instead of starting it again."""

    request: type[R]
    act: Callable[[Engine, R, str, Work], Answer]
    """Called with the engine, the request, the idempotency key, and the work, which can tell about its progress."""
    subject: Callable[[R], Subject] | None = None
    """None: each request is a subject of its own."""


def split_arguments(arguments: str | list[str]) -> tuple[str, ...]:
    """Split a script's arguments as a shell does. Raises `UsageError` when a quotation mark is not closed."""
    if isinstance(arguments, list):
        return tuple(arguments)
    try:
        return tuple(shlex.split(arguments))
    except ValueError as error:
        raise UsageError(f"The arguments cannot be parsed: {error}.") from None


def _list_options(sbatch: str | list[str] | None) -> list[str] | None:
    return [sbatch] if isinstance(sbatch, str) else sbatch


def name_gpus(request: Launch) -> str:
    """Return the chosen cards as `--gpus` takes them; "" without a choice."""
    if isinstance(request.gpus, str):
        return request.gpus.strip()
    return ",".join(name for name, chosen in request.gpus.items() if chosen)


def drill_subject(request: Drill) -> Subject:
    """Return what identifies the drill of a request: its run, or its task with what matters of its config."""
    if request.run:
        return "drill", request.run
    relevant = json.dumps(choose_relevant(request.config), sort_keys=True, default=str)
    return "drill", request.task, relevant, split_arguments(request.arguments), str(request.nproc).strip()


def _launch(engine: Engine, request: Launch, key: str, _work: Work) -> Answer:
    mirror = choose_mirror(request.mirror)
    gpus, asked = choose_gpus(name_gpus(request) or None) or (), str(request.nproc).strip() or None
    slurm = plan_job(
        request.on, nodes=request.nodes, options=_list_options(request.sbatch), nproc=asked,
        gpus=name_gpus(request) or None,
    )  # fmt: skip
    nproc = choose_nproc(asked, gpus=gpus) or 1
    prepared = _prepare(request.task, request.config, split_arguments(request.arguments))
    launched = launch_run(
        engine.folder, prepared, name=request.name or None, token=key, max_restarts=request.max_restarts, nproc=nproc,
        gpus=gpus, mirror=mirror, slurm=slurm,
    )  # fmt: skip
    return {"run": launched.layout.run_id}


def _resume(engine: Engine, request: Resume, key: str, _work: Work) -> Answer:
    token = key if request.attempt is None else f"{request.run}-after-{request.attempt}"
    layout = engine.find_layout(request.run)
    launched = resume_run(layout, from_=request.step, token=token, trust=request.trust)
    return {"run": launched.layout.run_id}


def _stop(engine: Engine, request: Stop, _key: str, _work: Work) -> Answer:
    layout = engine.find_layout(request.run)
    stop_run(layout, now=request.now)
    return {"run": layout.run_id}


def _branch(engine: Engine, request: Branch, key: str, _work: Work) -> Answer:
    parent, nproc = engine.find_layout(request.run), str(request.nproc).strip() or None
    slurm = plan_job(
        request.on, nodes=request.nodes, options=_list_options(request.sbatch), nproc=nproc, before=read_plan(parent)
    )
    launched = branch_run(
        parent,
        from_=request.step,
        config_changes=request.config,
        weights_only=request.weights_only,
        arguments=None if request.arguments is None else split_arguments(request.arguments),
        name=request.name or None,
        token=key,
        nproc=choose_nproc(nproc),
        slurm=slurm,
        trust=request.trust,
    )
    return {"run": launched.layout.run_id, "parent": request.run}


def _export(engine: Engine, request: Export, _key: str, _work: Work) -> Answer:
    layout = engine.find_layout(request.run)
    store, info = _find_checkpoint(engine, request.run, request.which)
    exported = export_to_run(layout, store, info, best=request.which == "best", format=request.format)[0]
    return {"run": layout.run_id, "file": exported.path.name, "step": info.step, "sha256": exported.sha256}


def _pin(engine: Engine, request: Pin, _key: str, _work: Work) -> Answer:
    store, info = _find_checkpoint(engine, request.run, request.step)
    store.pin(info, on=request.on)
    return {"run": request.run, "step": info.step, "pinned": request.on}


def _verify(engine: Engine, request: Verify, _key: str, _work: Work) -> Answer:
    layout = engine.find_layout(request.run)
    return {"run": layout.run_id, "check": msgspec.to_builtins(check_run(layout))}


def _drill(engine: Engine, request: Drill, _key: str, work: Work) -> Answer:
    work.tell("Checking that the task can be trained.")
    task: TaskReference | str = request.task
    config, arguments = request.config, split_arguments(request.arguments)
    nproc = choose_nproc(str(request.nproc).strip() or None) or 1
    if request.run:
        record = engine.read_launch(request.run)  # as launched: a script reports its own config only once it runs
        layout = engine.find_layout(request.run)
        require_trust(layout, engine.read_record(request.run))
        task, config = record.task, record.config
        start = read_record_or_none(layout.attempt(layout.latest_attempt()).start, AttemptStart)
        nproc = 1 if start is None else start.world_size
    elif not request.task:
        raise UsageError("A drill needs the id of a run, or the name of a task.")
    proof = run_drill(engine.folder, _prepare(task, config, arguments), nproc=nproc, tell=work.tell)
    return {"run": request.run, "proof": msgspec.to_builtins(proof)}


def _rename(engine: Engine, request: Rename, _key: str, _work: Work) -> Answer:
    return _describe_about(engine, request.run, name=request.name)


def _note(engine: Engine, request: Note, _key: str, _work: Work) -> Answer:
    return _describe_about(engine, request.run, note=request.note)


def _tag(engine: Engine, request: Tag, _key: str, _work: Work) -> Answer:
    return _describe_about(
        engine, request.run, add_tags=_split_words(request.add), remove_tags=_split_words(request.remove)
    )


def _star(engine: Engine, request: Star, _key: str, _work: Work) -> Answer:
    return _describe_about(engine, request.run, starred=request.on)


def _archive(engine: Engine, request: Archive, _key: str, _work: Work) -> Answer:
    return _describe_about(engine, request.run, archived=request.on)


def _delete(engine: Engine, request: Delete, _key: str, _work: Work) -> Answer:
    layout = engine.find_layout(request.run)
    trashed = delete_run(layout, now=request.now)
    return {"run": layout.run_id, "trashed": msgspec.to_builtins(trashed)}


def _restore(engine: Engine, request: Restore, _key: str, _work: Work) -> Answer:
    return {"run": restore_run(engine.folder, request.run).run_id}


def _resume_interrupted(engine: Engine, request: ResumeInterrupted, key: str, work: Work) -> Answer:
    results = []
    for result in resume_interrupted_runs(engine.folder, crashed=request.crashed, token=key):
        work.tell(result.sentence)
        results.append(msgspec.to_builtins(result))
    return {"results": results}


def _describe(engine: Engine, request: Describe, _key: str, _work: Work) -> Answer:
    description = engine.describe_task(request.file)
    return {"task": description.name, "title": description.title, "options": msgspec.to_builtins(description.fields)}


ACTIONS: dict[str, Action[Any]] = {
    "launch": Action(Launch, _launch),
    "resume": Action(Resume, _resume, lambda request: ("resume", request.run, request.step)),
    "resume-interrupted": Action(
        ResumeInterrupted, _resume_interrupted, lambda request: ("resume-interrupted", request.crashed)
    ),
    "stop": Action(Stop, _stop),
    "branch": Action(Branch, _branch),
    "export": Action(Export, _export, lambda request: ("export", request.run, request.which, request.format)),
    "pin": Action(Pin, _pin),
    "verify": Action(Verify, _verify, lambda request: ("verify", request.run)),
    "drill": Action(Drill, _drill, drill_subject),
    "rename": Action(Rename, _rename),
    "note": Action(Note, _note),
    "tag": Action(Tag, _tag),
    "star": Action(Star, _star),
    "archive": Action(Archive, _archive),
    "delete": Action(Delete, _delete),
    "restore": Action(Restore, _restore),
    "describe": Action(Describe, _describe, lambda request: ("describe", request.file)),
}


def _prepare(task: TaskReference | str, config: Mapping[str, Any], arguments: tuple[str, ...]) -> PreparedTask:
    if isinstance(task, str):
        task = resolve_task(task)
        if task.kind == "script":
            task = launch_script(task, arguments=arguments)
    return validate_config(task, config)


def _split_words(words: str | list[str]) -> list[str]:
    return words.replace(",", " ").split() if isinstance(words, str) else words


def _describe_about(engine: Engine, run: str, **changes: Any) -> Answer:
    layout = engine.find_layout(run)
    about = msgspec.to_builtins(change_about(layout, **changes))
    return {"run": layout.run_id, "about": {key: value for key, value in about.items() if key != "version"}}


def _find_checkpoint(engine: Engine, run: str, which: str | int) -> tuple[CheckpointStore, CheckpointInfo]:
    record, store = engine.read_record(run), engine.open_store(run)
    return store, store.find(which, objective=record.objective)
