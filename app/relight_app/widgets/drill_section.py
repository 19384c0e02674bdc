"""The button that proves a resume, and what came of it: on the Launch page for a task, on a run's page for its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from relight.runs.records import TaskReference
from relight_app import actions
from relight_app.engine import Engine
from relight_app.jobs import Job
from relight_app.markup import Markup
from relight_app.widgets.action_button import action_button
from relight_app.widgets.view import view

_REFRESH_S = 0.5
_HELP = (
    "Trains a few steps, kills them with -9, resumes in a new process, and compares every bit with a run that nobody "
    "killed. It goes on when you leave this page."
)


def show_drill_button(
    engine: Engine,
    task: TaskReference | str,
    config: Mapping[str, Any],
    *,
    key: str,
    arguments: tuple[str, ...] = (),
) -> None:
    """Draw "Prove resume"; while the drill is under way it cannot be pressed again."""
    job = actions.drill_job(engine, task, config, arguments=arguments)

    def hold() -> None:
        actions.drill(engine, task, config, arguments=arguments)

    action_button(
        "Prove resume", hold, key=key, icon=":material/verified_user:", help=_HELP,
        disabled=job is not None and job.state == "running",
    )  # fmt: skip


def show_drill(
    engine: Engine,
    task: TaskReference | str,
    config: Mapping[str, Any],
    *,
    key: str,
    arguments: tuple[str, ...] = (),
    build: Callable[[Job | None], Markup | None],
) -> None:
    """Draw how the drill goes, or what it has shown, as `build` says it."""
    job = actions.drill_job(engine, task, config, arguments=arguments)
    running = job is not None and job.state == "running"

    def show() -> None:
        job = actions.drill_job(engine, task, config, arguments=arguments)
        content = build(job)
        if content is not None:
            view(content, key=key)
        if running and job is not None and job.state != "running":
            st.rerun()

    st.fragment(show, run_every=_REFRESH_S if running else None)()
