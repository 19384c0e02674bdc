"""A page for `test_view.py`: a view that shows the content of a file, and the actions that were requested in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import streamlit as st

from relight_app.markup import Markup
from relight_app.widgets.view import view

SCENE = Path(os.environ["RELIGHT_RUNS"]) / "scene.json"


@st.fragment(run_every=0.2)
def show() -> None:
    scene = json.loads(SCENE.read_text(encoding="utf-8"))
    view(Markup(scene["html"]), key="scene", on_action=act)
    st.write("shown: " + scene["name"])
    st.write("done: " + "; ".join(st.session_state.get("done", [])))


def act(name: str, value: object) -> None:
    st.session_state["done"] = [*st.session_state.get("done", []), f"{name} {json.dumps(value)}"]


st.title("A view")
show()
