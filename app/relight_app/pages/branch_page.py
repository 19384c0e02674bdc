"""The Branch page: start a run from another run's checkpoint, with changed options."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from relight.errors import CheckpointNotFound, RelightError
from relight.runs.records import RunRecord
from relight.supervision.branch import name_branch
from relight.supervision.trust import require_trust
from relight.tasks.reference import TaskDescription
from relight_app import actions
from relight_app.actions import BranchRequest, Outcome
from relight_app.browser_session import remembered, widget_values
from relight_app.engine import Engine, current_engine
from relight_app.launch_form import build_branch_command, changed_from, name_task
from relight_app.markup import tag
from relight_app.navigation import address, leave_for
from relight_app.problems import Problem, explain
from relight_app.widgets.action_button import action_button
from relight_app.widgets.config_form import read_config_form, show_config_form
from relight_app.widgets.empty import build_empty
from relight_app.widgets.notice import show_problem
from relight_app.widgets.view import view
from relight_app.widgets.wait import wait_for

_POLL_S = 0.5


@dataclass(frozen=True)
class _Branch:
    """The checkpoint to branch from, and the config of its run."""

    run: str
    title: str
    step: int
    task: TaskDescription
    given: Mapping[str, Any]
    arguments: str

    @property
    def form(self) -> str:
        """The prefix of the form's widget keys: one form per run."""
        return f"branch-{self.run}"

    @property
    def is_script(self) -> bool:
        """Whether the task has arguments instead of options."""
        return not self.task.fields


def render() -> None:
    """Draw the form for the run and step that the address names."""
    engine = current_engine()
    asked, step = st.query_params.get("id", ""), st.query_params.get("step", "")
    st.title("Branch", anchor=False)
    try:
        run = engine.find_layout(asked).run_id
        record = engine.read_record(run)
        require_trust(engine.find_layout(run), record)  # before the file of its task is imported
        chosen = _find_step(engine, run, step)
        task = _describe(engine, record)
    except RelightError as error:
        problem = explain(error)
        if problem.traceback:
            show_problem(problem, key="branch-missing-problem")
        back = tag("a", "See all runs", class_="button", href=address("runs"), data_page="runs")
        view(build_empty("Cannot branch from here", problem.sentence, action=back), key="branch-missing")
        return
    origin = tag("a", record.name, class_="link", href=address("run", id=run), data_page="run",
                 data_query=json.dumps({"id": run}))  # fmt: skip
    view(
        tag("p", "The new run continues from step ", tag("strong", f"{chosen:,}"), " of ", origin, " (", run, "), with "
            "its weights, its optimizer and its position in the data. You can change every option that keeps the "
            "shapes of the model.", class_="muted"),
        key="branch-origin",
    )  # fmt: skip
    given = {field.name: record.config.get(field.name, field.default) for field in task.fields}
    branch = _Branch(run, record.name, chosen, task, given, shlex.join(record.task.arguments))
    values = show_config_form(task, given, key=branch.form, mark=True)
    _show_start(engine, branch, values)


def _find_step(engine: Engine, run: str, step: str) -> int:
    steps = [info.step for info in engine.list_checkpoints(run).checkpoints]
    if step.isascii() and step.isdigit() and int(step) in steps:
        return int(step)
    if not steps:
        raise CheckpointNotFound(f"Run {run!r} has no checkpoint yet.")
    wrong = f"Run {run!r} has no checkpoint at step {step}." if step else f"No step of run {run!r} was given."
    raise CheckpointNotFound(f"{wrong} It has checkpoints at steps {', '.join(map(str, steps))}.")


def _describe(engine: Engine, record: RunRecord) -> TaskDescription:
    text = name_task(record.task)
    if record.task.kind == "builtin":
        return engine.describe_task(text)
    with st.spinner("Importing the file…"):
        return wait_for(engine.jobs, ("describe", text), lambda: engine.describe_task(text))


def _show_start(engine: Engine, branch: _Branch, values: Mapping[str, Any]) -> None:
    with st.container(border=True, key="group-branch"):
        arguments = None
        if branch.is_script:
            st.text_input(
                "Arguments", value=branch.arguments, key="branch-arguments", icon=":material/terminal:",
                help="What you would type after the script's name.",
            )  # fmt: skip
            arguments = _changed_arguments(branch)
        with st.grid(2, min_column_width=280, gap="small"):
            name = st.text_input(
                "Name",
                key="branch-name",
                max_chars=200,
                placeholder=name_branch(branch.title, branch.step),
                help="Shown in the list of runs.",
            )
            weights_only = st.selectbox(
                "Start from", (False, True), key="branch-weights-only",
                format_func=lambda only: "Weights only (step 0, new optimizer)" if only else "Whole state",
                help="The whole state continues the parent's training. Weights only starts a new one, to fine-tune.",
            )  # fmt: skip
        changed = changed_from(branch.given, values)
        command = build_branch_command(
            branch.run, branch.step, changed, name=name, weights_only=weights_only, arguments=arguments
        )
        token = remembered().setdefault("branch-token", secrets.token_hex(8))
        job = actions.branch_job(engine, token)
        if job is not None and job.state == "running":
            st.button("Branching…", disabled=True, icon=":material/hourglass_top:", help="Copying the checkpoint.")
            _watch(engine, token)
            return
        if job is not None:
            engine.jobs.forget(("branch", token))
            _take(actions.outcome_of(job))
            st.rerun()
        action_button(
            "Start branch", _start, engine, branch, token, key="branch-start", type="primary",
            icon=":material/fork_right:",
        )  # fmt: skip
        # Below the button, so that it does not move while it is being pressed.
        problem = remembered().get("branch-problem")
        if problem is not None and problem[0] == (branch.run, branch.step, changed, arguments):
            show_problem(problem[1], key="branch-problem-shown")
        st.code(command, language=None, wrap_lines=True)


def _start(engine: Engine, branch: _Branch, token: str) -> None:
    form = widget_values()
    changed = changed_from(branch.given, read_config_form(branch.task, key=branch.form))
    arguments = _changed_arguments(branch)
    remembered()["branch-asked"] = (branch.run, branch.step, changed, arguments)
    try:
        split = None if arguments is None else tuple(shlex.split(arguments))
    except ValueError as error:
        _take(Outcome(problem=Problem(f"The arguments cannot be parsed: {error}.")))
        return
    request = BranchRequest(
        branch.run, branch.step, changed, form["branch-name"], token,
        weights_only=form["branch-weights-only"], arguments=split,
    )  # fmt: skip
    _take(actions.branch(engine, request))


def _changed_arguments(branch: _Branch) -> str | None:
    typed = widget_values().get("branch-arguments")
    return typed if branch.is_script and typed is not None and typed != branch.arguments else None


def _take(outcome: Outcome) -> None:
    memory = remembered()
    asked = memory.get("branch-asked")
    if outcome.problem is not None:
        memory["branch-problem"] = (asked, outcome.problem)
        memory.pop("branch-token", None)
    elif not outcome.pending:
        memory.pop("branch-problem", None)
        memory.pop("branch-token", None)
        leave_for("run", id=outcome.run)


def _watch(engine: Engine, token: str) -> None:
    """Rerun the page when the branch in the background has started or failed."""

    def watch() -> None:
        job = actions.branch_job(engine, token)
        if job is None or job.state != "running":
            st.rerun()

    st.fragment(watch, run_every=_POLL_S)()
