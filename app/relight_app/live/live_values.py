"""Live values: step, rate, ETA, work at risk, status and latest metrics that tick in the browser without a rerun."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from relight.runs.layout import RunLayout
from relight_app.live.component import BrowserComponent
from relight_app.server.assets import module_url
from relight_app.server.live_state import live_fields, read_live_state
from relight_app.server.settings import runs_folder

ValueFormat = Literal["auto", "integer", "number", "percent", "duration", "rate", "bytes", "text", "status"]


@dataclass(frozen=True)
class LiveValue:
    """One value with its label.

    `field`: any of `relight_app.server.live_state.LiveState` ("step", "steps_per_s", "eta_s", "elapsed_s",
    "work_at_risk_s", "durable_step", "status", "attempt", "best", "progress", ...), or the full name of a metric
    ("train/loss"), whose latest value it is.
    `detail` is a template below the value: "of {steps_total}", "at step {best_step}"; it stays empty while a figure in
    it is not known. `warn_above` colours the value as a warning from there on.
    """

    field: str
    label: str
    format: ValueFormat = "auto"
    detail: str | None = None
    warn_above: float | None = None


_COMPONENT = BrowserComponent(
    "relight_live_values",
    html='\n<div class="relight-values"></div>\n',
    css=Path(__file__).with_name("values.css").read_text(encoding="utf-8"),
)


def live_values(
    *,
    run: str,
    values: Sequence[LiveValue],
    key: str,
    layout: Literal["cards", "line"] = "cards",
    progress_bar: bool = False,
    rerun_on: Sequence[str] = (),
    on_change: Callable[[], None] | None = None,
    drawn: dict[str, Any] | None = None,
) -> None:
    """Show `values` of `run` and keep them fresh.

    `layout`: a strip of cards (st.metric's look), or one line of text. `progress_bar` adds a thin bar of the progress.
    `rerun_on` names fields ("status", "attempt", "durable_step"): when one of them changes, the page (or the fragment
    that this call is in) reruns once, so that buttons and tables follow without polling; `on_change` is called before.
    `drawn` is the state (`read_fields`) that the rest of the page was drawn with, where that was read earlier.
    `values` may be empty: then there is nothing to see, and only the rerun.
    """
    state = read_fields(run)
    _COMPONENT.mount(
        data={
            "module": module_url("values.js"),
            "run": run,
            "values": [asdict(value) for value in values],
            "layout": layout,
            "progress_bar": progress_bar,
            "state": _plain(state),
            "rendered": {field: _read(drawn or state, field) for field in rerun_on},
        },
        key=key,
        on_changed=on_change or _ignore,
    )


def read_fields(run: str) -> dict[str, Any]:
    """The run's live state now."""
    return live_fields(read_live_state(RunLayout(runs_folder() / run)))


def _ignore() -> None:
    """A trigger needs a callback to be known; the rerun itself is all that is wanted."""


def _read(state: dict[str, Any], field: str) -> Any:
    value = state["metrics"].get(field) if "/" in field else state.get(field)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """The state as JSON can hold it: not finite is null, as in the stream."""
    return {
        **{field: _read(state, field) for field in state},
        "metrics": {n: _read(state, n) for n in state["metrics"]},
    }
