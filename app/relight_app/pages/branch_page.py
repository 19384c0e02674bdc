"""The Branch page: start a run from another run's checkpoint, with changed options."""

from __future__ import annotations

import streamlit as st

from relight_app.pages.shown_parts import show_parts


def render() -> None:
    """Mount the form for the run and step that the address names."""
    show_parts("branch-form", key="branch", query=st.query_params.to_dict())
