"""The button that proves a resume, and the result: on the Launch page for a task, on a run's page for the run's own."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from relight_app import actions
from relight_app.actions import DrillRequest
from relight_app.engine import Engine
from relight_app.jobs import Job
from relight_app.markup import Markup
from relight_app.widgets.action_button import action_button
from relight_app.widgets.view import view

_REFRESH_S = 0.5
_HELP = (
    "Trains a few steps, ends the training with kill -9, resumes it in a new process, and compares every bit with an "
    "uninterrupted run. The drill continues when you leave this page."
)


def show_drill_button(engine: Engine, request: DrillRequest, job: Job | None, *, key: str) -> None:
    """Draw "Prove resume"; it is disabled while the drill `job` runs."""
    action_button(
        "Prove resume", actions.drill, engine, request, key=key, icon=":material/verified_user:", help=_HELP,
        disabled=job is not None and job.state == "running",
    )  # fmt: skip


def show_drill(
    engine: Engine, request: DrillRequest, job: Job | None, *, key: str, build: Callable[[Job | None], Markup | None]
) -> None:
    """Draw the progress or the result of a drill with `build`. `job` is what the button was drawn with."""
    running = job is not None and job.state == "running"

    def show() -> None:
        job = actions.drill_job(engine, request)
        content = build(job)
        if content is not None:
            view(content, key=key)
        if running and (job is None or job.state != "running"):
            st.rerun()

    st.fragment(show, run_every=_REFRESH_S if running else None)()
