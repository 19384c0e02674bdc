"""The form that starts a run from another run's checkpoint, with changed options."""

from __future__ import annotations

import json
import shlex
from typing import Any

from relight.errors import CheckpointNotFound, RelightError, UsageError
from relight.runs.layout import RunLayout
from relight.runs.records import RunRecord
from relight.supervision.branch import name_branch
from relight.supervision.job_submission import read_plan
from relight.tasks.reference import TaskDescription
from relight_app.actions import Branch
from relight_app.engine import Engine
from relight_app.icons import icon
from relight_app.markup import Markup, tag
from relight_app.navigation import address
from relight_app.parts.controls import READ_ONLY
from relight_app.parts.empty import build_empty
from relight_app.parts.forms import (
    BUSY_DESCRIBING,
    build_branch_command,
    build_fields,
    build_text_field,
    name_place,
    name_task,
)
from relight_app.parts.notice import build_traceback
from relight_app.parts.part import Query, read_request
from relight_app.parts.place import build_place_fields, build_processes_field, count_processes
from relight_app.problems import explain
from relight_app.settings import current_settings


def build_branch_form(engine: Engine, query: Query) -> Markup:
    """Build the form for the run and step of the query."""
    title = tag("h1", "Branch", data_title="Branch · Relight")
    if current_settings().read_only:
        return tag("div", title, tag("p", READ_ONLY), class_="stack")
    try:
        if not query.get("id"):
            raise UsageError("Open a run, and choose “Branch from here” in the menu of a checkpoint.")
        layout = engine.find_layout(query["id"])
        run = layout.run_id
        record = engine.read_record(run)
        step = _find_step(engine, run, query.get("step", ""))
        task = engine.find_description(name_task(record.task))
    except RelightError as error:
        problem = explain(error)
        back = tag("a", "See all runs", class_="button", href=address("runs"))
        traceback = build_traceback(problem.traceback, key="branch-traceback") if problem.traceback else None
        missing = build_empty("Cannot branch from here", problem.sentence, action=back)
        return tag("div", title, missing, traceback, class_="stack wide")
    origin = tag(
        "p", "The new run continues from step ", tag("strong", f"{step:,}"), " of ",
        tag("a", record.name, class_="link", href=address("run", id=run)), f" ({run}), with its weights, its optimizer "
        "and its position in the data. You can change every option that keeps the shapes of the model.", class_="muted",
    )  # fmt: skip
    if task is None:
        engine.expect_description()
    form = _build_form(layout, record, step, task) if task is not None else _build_question(record)
    return tag("div", title, origin, form, class_="stack wide")


def build_branch_command_line(engine: Engine, query: Query) -> Markup:
    """Build the command that branches as the form says."""
    request = read_request(query, Branch)
    arguments = request.arguments if isinstance(request.arguments, str) else None
    command = build_branch_command(
        request.run, request.step, request.config, name=request.name, weights_only=request.weights_only,
        nproc=str(request.nproc).strip(), place=name_place(request.on, request.nodes, request.sbatch),
        arguments=arguments,
    )  # fmt: skip
    return Markup(tag("span", command))


def _build_question(record: RunRecord) -> Markup:
    """Build the button that imports the person's file, to learn its options."""
    return tag(
        "form",
        tag("p", "The options of this run's task are in ", tag("span", name_task(record.task), class_="mono"),
            ". A separate process must import the file to show them."),
        tag("input", type="hidden", name_="file", value=name_task(record.task)),
        tag("button", "Show options", type="submit", class_="button solid"),
        BUSY_DESCRIBING,
        class_="card body stack",
        data_act="describe",
    )  # fmt: skip


def _build_form(layout: RunLayout, record: RunRecord, step: int, task: TaskDescription) -> Markup:
    run, place = layout.run_id, read_plan(layout)
    given: dict[str, Any] = {field.name: record.config.get(field.name, field.default) for field in task.fields}
    arguments = shlex.join(record.task.arguments)
    return tag(
        "form",
        build_fields(task.fields, given, implied=given),
        tag(
            "div",
            tag(
                "div",
                build_text_field("Name", "name", placeholder=name_branch(record.name, step), maxlength="200",
                                 hint="Shown in the list of runs."),
                tag(
                    "label",
                    tag("span", "Start from"),
                    tag(
                        "select",
                        tag("option", "Whole state", value="false"),
                        tag("option", "Weights only (step 0, new optimizer)", value="true"),
                        name_="weights_only", data_default="false",
                        title="The whole state continues the parent's training. Weights only starts a new one, to "
                        "fine-tune.",
                    ),
                    class_="field",
                ),
                build_processes_field(processes := count_processes(layout), implied=processes),
                build_place_fields(place, implied=place),
                build_text_field(
                    "Arguments", "arguments", value=arguments, data_default=arguments, data_send_empty=True,
                    hint="What you would type after the script's name.",
                ) if not task.fields else None,
                class_="fields",
            ),
            tag("div", tag("button", icon("branch"), "Start branch", type="submit", class_="button solid"),
                class_="row"),
            tag(
                "div",
                tag("code", tag("span", build_branch_command(run, step, {})), class_="text shell",
                    id="branch-command", data_preview="branch-command"),
                tag("button", "Copy", type="button", class_="button small", data_copy="branch-command"),
                class_="copyable",
            ),
            class_="card body stack",
        ),
        class_="stack",
        data_act="branch",
        data_payload=json.dumps({"run": run, "step": step}),
        data_then=address("run") + "?id={run}",
        data_key=f"branch-{run}-{step}",
    )  # fmt: skip


def _find_step(engine: Engine, run: str, step: str) -> int:
    steps = [info.step for info in engine.list_checkpoints(run).checkpoints]
    if step in map(str, steps):
        return int(step)
    if not steps:
        raise CheckpointNotFound(f"Run {run!r} has no checkpoint yet.")
    wrong = f"Run {run!r} has no checkpoint at step {step}." if step else f"No step of run {run!r} was given."
    raise CheckpointNotFound(f"{wrong} It has checkpoints at steps {', '.join(map(str, steps))}.")
