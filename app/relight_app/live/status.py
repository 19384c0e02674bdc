"""Live values: step, rate, ETA, work at risk, status and latest metrics that tick in the browser without a rerun."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import streamlit as st

ValueFormat = Literal["auto", "integer", "number", "percent", "duration", "rate", "bytes", "text", "status"]


@dataclass(frozen=True)
class LiveValue:
    """One value with its label.

    `field`: "step", "steps_total", "epoch", "epochs", "steps_per_s", "eta_s", "elapsed_s", "work_s", "work_at_risk_s",
    "work_at_risk_steps", "durable_step", "status", "reason", "phase", "attempt", "best", "progress" (0 to 1), or the
    full name of a metric ("train/loss"), whose latest value it is.
    `detail` is a template below the value: "of {steps_total}", "step {best_step}"; a field without a value hides it.
    `warn_above` colours the value as a warning from there on.
    """

    field: str
    label: str
    format: ValueFormat = "auto"
    detail: str | None = None
    warn_above: float | None = None


def live_values(
    *,
    run: str,
    values: Sequence[LiveValue],
    key: str,
    layout: Literal["cards", "line"] = "cards",
    progress_bar: bool = False,
    rerun_on: Sequence[str] = (),
    on_change: Callable[[], None] | None = None,
) -> None:
    """Show `values` of `run` and keep them fresh.

    `layout`: a strip of cards (st.metric's look), or one line of text. `progress_bar` adds a thin bar of the progress.
    `rerun_on` names fields ("status", "attempt", "durable_step"): when one of them changes, the page (or the fragment
    that this call is in) reruns once, so that buttons and tables follow without polling; `on_change` is called before.
    """
    for value in values:
        st.caption(value.label)
