"""The Machine page: CPU, memory, disk, GPUs and the processes on them, updated each second."""

from __future__ import annotations

import streamlit as st

from relight_app.machine_view import build_machine
from relight_app.server.machine_reader import latest_machine_report
from relight_app.widgets.view import view

_REFRESH_S = 1.0


def render() -> None:
    """Draw the page."""
    st.title("Machine", anchor=False)
    _show()


@st.fragment(run_every=_REFRESH_S)
def _show() -> None:
    view(build_machine(latest_machine_report()), key="machine")
