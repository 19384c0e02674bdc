"""The dashboard's Streamlit script: page setup and navigation, nothing else. `python -m relight_app` serves it."""

from __future__ import annotations

import streamlit as st

from relight_app.frame import build_pages, set_up_page

set_up_page()
st.navigation(build_pages(), position="top").run()
