"""Live values: step, speed, work at risk and latest metrics tick in the browser without a rerun."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from relight.runs.layout import RunLayout
from relight_app.live.component import BrowserComponent, component_key
from relight_app.server.assets import module_url
from relight_app.server.live_state import live_fields, read_live_state
from relight_app.server.settings import runs_folder

ValueFormat = Literal["auto", "integer", "percent", "duration", "rate"]


@dataclass(frozen=True)
class LiveValue:
    """One value with its label."""

    field: str
    """A field of `relight_app.server.live_state.LiveState` ("step"), or a metric's full name for its latest value."""
    label: str
    format: ValueFormat = "auto"
    detail: str | None = None
    """Template of the line below the value: "of {steps_total}". The line is empty while one of its fields is None."""
    warn_above: float | None = None
    """A larger value is shown in the warning color."""


_COMPONENT = BrowserComponent(
    "relight_live_values",
    html='\n<div class="relight-values"></div>\n',
    style=Path(__file__).with_name("values.css"),
)


def live_values(
    *, run: str, values: Sequence[LiveValue], key: str, rerun_on: Sequence[str], state: dict[str, Any]
) -> None:
    """Show `values` of `run` as cards above a progress bar, and keep them up to date.

    `state` is what `read_fields` returned before the page was drawn. When one of the fields in `rerun_on` differs from
    it, the page reruns once, so that buttons and tables follow without polling.
    """
    _COMPONENT.mount(
        data={
            "module": module_url("values.js"),
            "run": run,
            "values": [asdict(value) for value in values],
            "state": _replace_infinite(state),
            "rendered": {field: _read(state, field) for field in rerun_on},
        },
        key=component_key(key),
        on_changed_change=_ignore,
    )


def read_fields(run: str) -> dict[str, Any]:
    """Read the run's current live state."""
    return live_fields(read_live_state(RunLayout(runs_folder() / run)))


def _ignore() -> None:
    """Do nothing: Streamlit only accepts a trigger that has a callback, and the rerun itself is what we need."""


def _read(state: dict[str, Any], field: str) -> Any:
    value = state["metrics"].get(field) if "/" in field else state.get(field)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _replace_infinite(state: dict[str, Any]) -> dict[str, Any]:
    """Replace NaN and infinity with None, as the event stream does: JSON has neither."""
    return {
        **{field: _read(state, field) for field in state},
        "metrics": {name: _read(state, name) for name in state["metrics"]},
    }
