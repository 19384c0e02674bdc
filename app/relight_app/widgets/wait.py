"""Wait for slow work while a page is drawn; the person can still leave the page."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

import streamlit as st

from relight_app.jobs import Jobs

_POLL_S = 0.05
_T = TypeVar("_T")


def wait_for(jobs: Jobs, key: Hashable, work: Callable[[], _T]) -> _T:
    """Return or raise what `work` does; meanwhile the page stays responsive."""
    begun = jobs.start(key, work)
    while (job := begun.wait(_POLL_S)).state == "running":
        _ = "remembered" in st.session_state  # Streamlit aborts the drawing here when there is a new request
    if job.error is not None:
        raise job.error
    result: _T = job.result
    return result
