"""Waiting on a page for something slow, in a way that whoever loses patience can leave."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

import streamlit as st

from relight_app.jobs import Jobs

_POLL_S = 0.05
_T = TypeVar("_T")


def wait_for(jobs: Jobs, key: Hashable, work: Callable[[], _T]) -> _T:
    """What `work` returns or raises; while it is under way, the page can be left and pressed as ever."""
    begun = jobs.start(key, work)
    while (job := begun.wait(_POLL_S)).state == "running":
        _ = "remembered" in st.session_state  # Streamlit ends the drawing here when something else was asked for
    if job.error is not None:
        raise job.error
    result: _T = job.result
    return result
