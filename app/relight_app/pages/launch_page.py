"""The Launch page: choose a task, set its options, start a run."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Mapping
from typing import Any

import streamlit as st

from relight.errors import RelightError
from relight.tasks.reference import TaskDescription
from relight_app import actions
from relight_app.actions import DrillRequest, LaunchRequest
from relight_app.browser_session import remembered, widget_values
from relight_app.engine import Engine, current_engine
from relight_app.formats import title_metric
from relight_app.launch_form import build_command, changed_values
from relight_app.navigation import leave_for
from relight_app.problems import Problem, explain
from relight_app.widgets.action_button import action_button
from relight_app.widgets.config_form import read_config_form, show_config_form
from relight_app.widgets.drill_section import show_drill, show_drill_button
from relight_app.widgets.notice import show_problem
from relight_app.widgets.proof_card import build_drill_card
from relight_app.widgets.wait import wait_for

_OWN = "file"


def render() -> None:
    """Draw the page."""
    engine = current_engine()
    st.title("Launch", anchor=False)
    task = _choose_task(engine)
    if task is None:
        return
    metric = task.objective.metric
    decided = f" {title_metric(metric)} decides which checkpoint is the best." if metric else ""
    st.caption(task.summary + decided)
    given = _repeated_config(engine)
    values = show_config_form(task, given)
    _show_launch(engine, task, values)


def _choose_task(engine: Engine) -> TaskDescription | None:
    tasks = {task.name: task for task in engine.list_tasks()}
    names = [*tasks, _OWN]
    asked = st.query_params.get("task")
    chosen = st.segmented_control(
        "Task", names, default=asked if asked in names else names[0], required=True, key="task",
        format_func=lambda name: tasks[name].title if name in tasks else "Your own file", on_change=_note_task,
    )  # fmt: skip
    if chosen in tasks:
        return tasks[str(chosen)]
    text = st.text_input(
        "Task or script file", key="file", bind="query-params", placeholder="train.py:MyTask", icon=":material/code:",
        help="A Python file with a subclass of relight.Task, or a training script that imports relight. Relative paths "
        "start from the folder in which the dashboard was started.",
    )  # fmt: skip
    if not text:
        st.caption(
            "Enter FILE.py:Class to see the options of a task; a separate process imports the file. Enter FILE.py to "
            "launch a training script with its own arguments."
        )
        return None
    try:
        with st.spinner("Importing the file…"):
            return wait_for(engine.jobs, ("describe", text), lambda: engine.describe_task(text))
    except RelightError as error:
        show_problem(explain(error), key="task-problem")
        return None


def _note_task() -> None:
    """Put the chosen task's name into the address: a bound widget would put its title there."""
    st.query_params["task"] = str(st.session_state["task"])


def _repeated_config(engine: Engine) -> Mapping[str, Any]:
    """Return the config of the run that the address asks to repeat; {} without one."""
    repeated = st.query_params.get("from")
    if not repeated:
        return {}
    try:
        return engine.read_record(repeated).config
    except RelightError as error:
        show_problem(explain(error), key="repeat-problem")
        return {}


def _show_launch(engine: Engine, task: TaskDescription, values: Mapping[str, Any]) -> None:
    with st.container(border=True, key="group-launch"):
        with st.grid(4, min_column_width=140, gap="small"):
            name = st.text_input(
                "Name", key="run-name", max_chars=200, placeholder=task.name.rpartition("/")[2],
                help="Shown in the list of runs.",
            )  # fmt: skip
            restarts = st.number_input(
                "Automatic restarts", value=0, min_value=0, max_value=1000, step=1, key="run-restarts",
                help="How many times a crashed run resumes from its last checkpoint without you.",
            )  # fmt: skip
        arguments = _ask_for_arguments() if not task.fields else ""
        split = _split(arguments)
        changed = changed_values(task.fields, values)
        command = build_command(task.name, changed, name=name, max_restarts=restarts, arguments=arguments)
        drill = DrillRequest(task.name, changed, split) if split is not None else None
        drilled = actions.drill_job(engine, drill) if drill is not None else None
        # Created with the button: several presses of it start one run.
        token = remembered().setdefault("launch-token", secrets.token_hex(8))
        with st.container(horizontal=True, gap="small"):
            action_button(
                "Launch", _launch, engine, task, token, _chosen(), key="launch", type="primary",
                icon=":material/rocket_launch:",
            )  # fmt: skip
            if drill is not None:
                show_drill_button(engine, drill, drilled, key="drill")
        # Below the buttons, so that a button that is being pressed does not move when a value changes.
        problem = remembered().get("launch-problem")
        if problem is not None and problem[0] == (task.name, changed):
            show_problem(problem[1], key="launch-problem-shown")
        st.code(command, language=None, wrap_lines=True)
        if drill is not None:
            show_drill(
                engine, drill, drilled, key="drill-card",
                build=lambda job: build_drill_card(job, key="drill-problem"),
            )  # fmt: skip


def _ask_for_arguments() -> str:
    return st.text_input(
        "Arguments", key="run-arguments", placeholder="--lr 3e-4", icon=":material/terminal:",
        help="What you would type after the script's name.",
    )  # fmt: skip


def _split(arguments: str) -> tuple[str, ...] | None:
    """Split the arguments of a script as a shell does; None when a quotation mark is not closed."""
    try:
        return tuple(shlex.split(arguments))
    except ValueError:
        return None


def _chosen() -> tuple[str, str]:
    values = widget_values()
    return str(values.get("task")), str(values.get("file"))


def _launch(engine: Engine, task: TaskDescription, token: str, chosen: tuple[str, str]) -> None:
    """Launch what the form holds now: a press can bring values that the page has not been drawn with yet."""
    if chosen != _chosen():
        return  # another task was chosen at the same time: show its form first
    form, memory = widget_values(), remembered()
    changed = changed_values(task.fields, read_config_form(task))
    arguments = _split(form.get("run-arguments") or "" if not task.fields else "")
    if arguments is None:
        sentence = "The arguments cannot be parsed: a quotation mark is not closed."
        memory["launch-problem"] = ((task.name, changed), Problem(sentence))
        return
    request = LaunchRequest(task.name, changed, form["run-name"], token, form["run-restarts"], arguments)
    outcome = actions.launch(engine, request)
    if outcome.problem is not None:
        memory["launch-problem"] = ((request.task, request.config), outcome.problem)
        return
    memory.pop("launch-problem", None)
    memory.pop("launch-token", None)
    leave_for("run", id=outcome.run)
