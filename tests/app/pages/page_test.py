"""Opens a page with Streamlit's AppTest: in this process, without a server or a browser."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from streamlit.testing.v1 import AppTest

TIMEOUT_S = 60.0


def open_page(name: str, **query: str) -> AppTest:
    """Open the page called `name` with this query, and draw it once."""
    page = AppTest.from_string(
        f"from relight_app.pages import {name}_page\n{name}_page.render()\n", default_timeout=TIMEOUT_S
    )
    for key, value in query.items():
        page.query_params[key] = value
    return page.run()


def view_texts(page: AppTest) -> str:
    """Return the text of everything that `view` shows, without its tags."""
    shown = [html.unescape(re.sub(r"<[^>]+>", " ", str(data["html"]))) for data in _data(page, "relight_view")]
    return re.sub(r"\s+", " ", "\n".join(shown))


def view_markup(page: AppTest) -> str:
    """Return the markup of everything that `view` shows."""
    return "\n".join(str(data["html"]) for data in _data(page, "relight_view"))


def live_data(page: AppTest, component: str) -> list[dict[str, Any]]:
    """Return the data of the live charts or values on the page."""
    return _data(page, component)


def _data(page: AppTest, component: str) -> list[dict[str, Any]]:
    return [
        json.loads(element.proto.json)
        for element in page.get("bidi_component")
        if element.proto.component_name == component
    ]
