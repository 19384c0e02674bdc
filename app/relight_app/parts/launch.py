"""The form that starts a run. Nothing here runs a person's code: describing a task in a file takes a press."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relight.errors import RelightError
from relight.mirror.address import choose_mirror
from relight.runs.records import SlurmJob
from relight.supervision.job_submission import read_plan
from relight.tasks.reference import TaskDescription
from relight_app.actions import Launch, name_gpus
from relight_app.engine import Engine
from relight_app.formats import title_metric
from relight_app.icons import icon
from relight_app.machine_reader import read_cards
from relight_app.markup import Markup, tag
from relight_app.navigation import address
from relight_app.parts.controls import READ_ONLY, choice
from relight_app.parts.drill import DRILL_HELP, build_drill_card
from relight_app.parts.forms import BUSY_DESCRIBING, build_command, build_fields, build_text_field, name_place
from relight_app.parts.gpu_choice import build_gpu_choice, find_owners
from relight_app.parts.notice import build_problem
from relight_app.parts.part import Query, read_request
from relight_app.parts.place import build_place_fields, build_processes_field, count_processes
from relight_app.problems import explain
from relight_app.settings import current_settings

_OWN = "file"
_NOTHING = Markup("")


def build_launch_form(engine: Engine, query: Query) -> Markup:
    """Build the choice of a task, and its options."""
    if current_settings().read_only:
        return tag("div", tag("h1", "Launch"), tag("p", READ_ONLY), class_="stack", data_title="Launch · Relight")
    tasks = {task.name: task for task in engine.list_tasks()}
    chosen = query.get("task", "")
    chosen = chosen if chosen in (*tasks, _OWN) else next(iter(tasks))
    titles = {name: task.title for name, task in tasks.items()} | {_OWN: "Your own file"}
    own = chosen == _OWN
    file = query.get("file", "").strip()
    task, problem = tasks.get(chosen), None
    if own:
        engine.expect_description()
    if own and file:
        try:
            task = engine.find_description(file)
        except RelightError as error:
            problem = build_problem(explain(error), key="task-problem")
    repeated, refused = _read_repeated(engine, query)
    return tag(
        "div",
        tag("h1", "Launch"),
        choice("Task", "task", titles, chosen),
        _build_file_form(file, known=task is not None) if own else None,
        problem,
        refused,
        _build_form(task, repeated, build_gpu_choice(read_cards(), find_owners(engine))) if task is not None else None,
        class_="stack wide",
        data_title="Launch · Relight",
    )


def build_launch_command_line(engine: Engine, query: Query) -> Markup:
    """Build the command that launches what the form holds."""
    request = read_request(query, Launch)
    arguments = request.arguments if isinstance(request.arguments, str) else ""
    command = build_command(
        request.task, request.config, name=request.name, max_restarts=request.max_restarts, mirror=request.mirror,
        nproc=str(request.nproc).strip(), gpus=name_gpus(request), arguments=arguments,
        place=name_place(request.on, request.nodes, request.sbatch),
    )  # fmt: skip
    return Markup(tag("span", command))


def build_launch_drill(engine: Engine, query: Query) -> Markup:
    """Build the progress or the result of the newest drill of the chosen task."""
    task = query.get("task") or next(iter(task.name for task in engine.list_tasks()))
    if task == _OWN:
        task = query.get("file", "").strip()
    job = engine.jobs.find_newest("drill", task)  # as `drill_subject` begins
    return build_drill_card(job, key="drill-problem") or _NOTHING


def _build_file_form(file: str, *, known: bool) -> Markup:
    hint = (
        "A Python file with a subclass of relight.Task, or a training script that imports relight. Relative paths "
        "start from the folder in which the dashboard was started."
    )
    return tag(
        "form",
        build_text_field("Task or script file", "file", value=file, hint=hint, placeholder="train.py:MyTask"),
        tag("button", "Show options", type="submit", class_="button" if known else "button solid"),
        tag(
            "p",
            "Enter FILE.py:Class to see the options of a task: a separate process imports the file. Enter FILE.py to "
            "launch a training script with its own arguments.",
            class_="sub whole at-rest",
        ),
        BUSY_DESCRIBING,
        class_="row fielded",
        data_act="describe",
        data_set='{"task": "file", "file": "{file}"}',
    )


def _build_form(task: TaskDescription, repeated: _Repeated, gpus: Markup | None) -> Markup:
    metric = task.objective.metric
    decided = f" {title_metric(metric)} decides which checkpoint is the best." if metric else ""
    defaults = {field.name: field.default for field in task.fields}
    return tag(
        "form",
        tag("p", task.summary, decided, class_="muted"),
        build_fields(task.fields, repeated.config, implied=defaults),
        tag(
            "div",
            tag(
                "div",
                build_text_field("Name", "name", placeholder=task.name.rpartition("/")[2], maxlength="200",
                                 hint="Shown in the list of runs."),
                build_text_field(
                    "Automatic restarts", "max_restarts", value="0", inputmode="numeric", data_default="0",
                    hint="How many times Relight restarts the run after a crash, from its last checkpoint.",
                ),
                build_processes_field(repeated.processes, implied=1),
                build_place_fields(repeated.place, implied=None),
                _build_mirror_field(),
                build_text_field(
                    "Arguments", "arguments", placeholder="--lr 3e-4",
                    hint="What you would type after the script's name.",
                ) if not task.fields else None,
                class_="fields",
            ),
            gpus,
            tag(
                "div",
                tag("button", icon("launch"), "Launch", type="submit", class_="button solid"),
                tag(
                    "button", icon("verified"), "Prove resume", type="submit", class_="button",
                    data_submit="drill", data_fields="config arguments nproc",
                    title=DRILL_HELP,
                ),
                class_="row",
            ),
            tag(
                "div",
                tag("code", tag("span", build_command(task.name, {})), class_="text shell", id="launch-command",
                    data_preview="launch-command", data_key=task.name),
                tag("button", "Copy", type="button", class_="button small", data_copy="launch-command"),
                class_="copyable",
            ),
            class_="card body stack",
        ),
        class_="stack",
        data_act="launch",
        data_payload=json.dumps({"task": task.name}),
        data_then=address("run") + "?id={run}",
        data_key=f"launch-{task.name}",
    )  # fmt: skip


def _build_mirror_field() -> Markup:
    try:
        address = choose_mirror(None)
    except RelightError:
        address = None  # the launch says what is wrong with RELIGHT_MIRROR, which may hold a password
    usual = address.url if address is not None else ""
    return build_text_field(
        "Copy to", "mirror", value=usual, placeholder="s3://bucket/prefix", data_default=usual,
        data_send_empty=bool(usual) or None,
        hint="Where the checkpoints are copied while the run trains: S3, or a folder on another disk. May be empty.",
    )  # fmt: skip


@dataclass(frozen=True)
class _Repeated:
    """What the form takes from the run that the address asks to repeat."""

    config: Mapping[str, Any] = field(default_factory=dict)
    processes: int = 1
    place: SlurmJob | None = None


def _read_repeated(engine: Engine, query: Query) -> tuple[_Repeated, Markup | None]:
    run = query.get("from")
    if not run:
        return _Repeated(), None
    try:
        layout, config = engine.find_layout(run), engine.read_record(run).config
    except RelightError as error:
        return _Repeated(), build_problem(explain(error), key="repeat-problem")
    return _Repeated(config, count_processes(layout), read_plan(layout)), None
