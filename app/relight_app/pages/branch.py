"""Starting a run from another's checkpoint: the parent's config as a form, what is changed marked, and the button."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any

import streamlit as st

from relight.errors import CheckpointNotFound, RelightError
from relight.runs.records import RunRecord
from relight.tasks.reference import TaskDescription
from relight_app import actions
from relight_app.actions import BranchRequest, Outcome
from relight_app.engine import Engine, current_engine
from relight_app.launch_form import build_branch_command, changed_from
from relight_app.markup import tag
from relight_app.navigation import address, go_to
from relight_app.problems import explain
from relight_app.widgets.action_button import action_button
from relight_app.widgets.config_form import read_config_form, show_config_form
from relight_app.widgets.empty import build_empty
from relight_app.widgets.notice import show_problem
from relight_app.widgets.view import view

_FORM = "branch"
_POLL_S = 0.5


def render() -> None:
    """Draw the form for the run and step that the address names."""
    branched = st.session_state.pop("branched", None)
    if branched is not None:
        go_to("run", id=branched)
    engine = current_engine()
    asked, step = st.query_params.get("id", ""), st.query_params.get("step", "")
    st.title("Branch", anchor=False)
    try:
        run = engine.find_layout(asked).run_id
        record = engine.read_record(run)
        chosen = _find_step(engine, run, step)
        task = _describe(engine, record)
    except RelightError as error:
        problem = explain(error)
        if problem.traceback:
            show_problem(problem, key="branch-missing-problem")
        back = tag("a", "See all runs", class_="button", href=address("runs"), data_page="runs")
        view(build_empty("No branch from here", problem.sentence, action=back), key="branch-missing")
        return
    origin = tag("a", record.name, class_="link", href=address("run", id=run), data_page="run",
                 data_query=json.dumps({"id": run}))  # fmt: skip
    view(
        tag("p", "A new run goes on from step ", tag("strong", f"{chosen:,}"), " of ", origin, " (", run, "), with its "
            "weights, its optimizer and its place in the data. Change what you like; a model of another shape is "
            "refused.", class_="muted"),
        key="branch-origin",
    )  # fmt: skip
    given = {field.name: record.config.get(field.name, field.default) for field in task.fields}
    values = show_config_form(task, given, key=f"{_FORM}-{run}", mark=True)
    _show_start(engine, task, run=run, title=record.name, step=chosen, given=given, values=values)


def _find_step(engine: Engine, run: str, step: str) -> int:
    steps = [info.step for info in engine.list_checkpoints(run).checkpoints]
    if step.isascii() and step.isdigit() and int(step) in steps:
        return int(step)
    there = ", ".join(map(str, steps)) or "none"
    raise CheckpointNotFound(f"{run} has no checkpoint at step {step or '(none was named)'}. It has: {there}.")


def _describe(engine: Engine, record: RunRecord) -> TaskDescription:
    if record.task.kind == "script":
        raise RelightError(
            f"{record.task.name} is a script, whose options are its own arguments: branch on a terminal, with "
            f"relight branch {record.run} --from STEP."
        )
    text = record.task.name if record.task.kind == "builtin" else f"{record.task.path}:{record.task.class_name}"
    with st.spinner("Reading the task…"):
        return engine.describe_task(text)


def _show_start(
    engine: Engine,
    task: TaskDescription,
    *,
    run: str,
    title: str,
    step: int,
    given: Mapping[str, Any],
    values: Mapping[str, Any],
) -> None:
    with st.container(border=True, key="group-branch"):
        with st.grid(4, min_column_width=140, gap="small"):
            name = st.text_input(
                "Name", key="branch-name", max_chars=200, placeholder=title, help="What the lists show."
            )
        changed = changed_from(given, values)
        st.code(build_branch_command(run, step, changed, name=name), language=None, wrap_lines=True)
        token = st.session_state.setdefault("branch-token", secrets.token_hex(8))
        job = actions.branch_job(engine, token)
        if job is not None and job.state == "running":
            st.button("Branching…", disabled=True, icon=":material/hourglass_top:", help="The checkpoint is copied.")
            _watch(engine, token)
            return
        if job is not None:
            engine.jobs.forget(("branch", token))
            _take(actions.outcome_of(job))
            st.rerun()
        problem = st.session_state.get("branch-problem")
        if problem is not None and problem[0] == (run, step, changed):
            show_problem(problem[1], key="branch-problem-shown")
        action_button(
            "Start the branch", _start, engine, task, run, step, given, key="branch-start", type="primary",
            icon=":material/fork_right:",
        )  # fmt: skip


def _start(engine: Engine, task: TaskDescription, run: str, step: int, given: Mapping[str, Any]) -> None:
    form = st.session_state
    changed = changed_from(given, read_config_form(task, key=f"{_FORM}-{run}"))
    request = BranchRequest(run, step, changed, form["branch-name"], form["branch-token"])
    form["branch-asked"] = (run, step, changed)
    _take(actions.branch(engine, request))


def _take(outcome: Outcome) -> None:
    form = st.session_state
    asked = form.get("branch-asked")
    if outcome.problem is not None:
        form["branch-problem"] = (asked, outcome.problem)
        form.pop("branch-token", None)
    elif not outcome.pending:
        form.pop("branch-problem", None)
        form.pop("branch-token", None)
        form["branched"] = outcome.run


def _watch(engine: Engine, token: str) -> None:
    """Rerun the page once the branch has started, or was refused."""

    def watch() -> None:
        job = actions.branch_job(engine, token)
        if job is None or job.state != "running":
            st.rerun()

    st.fragment(watch, run_every=_POLL_S)()
