"""The figures at the top of a run's page: the browser fills them in from the run's events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from relight.overview.summary import RunSummary
from relight.overview.work_at_risk import UNPACED_LIMIT_S
from relight_app.formats import is_share, title_metric
from relight_app.markup import Markup, tag

FigureFormat = Literal["auto", "integer", "percent", "duration", "rate"]


@dataclass(frozen=True)
class Figure:
    """One figure with its label."""

    field: str
    """A field of `relight_app.server.live_state.LiveState` ("step"), or a metric's full name for its latest value."""
    label: str
    format: FigureFormat = "auto"
    detail: str | None = None
    """Template of the line below the value: "of {steps_total}". It is empty while one of its fields is unknown."""
    warn_above: float | None = None
    """A larger value is shown in the warning color."""


def build_figures(figures: Sequence[Figure]) -> Markup:
    """Build the figures as cards above a progress bar."""
    cards = [
        tag(
            "div",
            tag("dt", figure.label),
            tag("dd", data_live=figure.field, data_format=figure.format, class_="value"),
            tag("dd", data_template=figure.detail, class_="sub") if figure.detail else None,
            data_key=figure.field,
            data_field=figure.field,
            data_warn=figure.field if figure.warn_above is not None else None,
            data_warn_above=figure.warn_above,
        )
        for figure in figures
    ]
    bar = tag(
        "div", tag("i", data_live_width="progress"), class_="bar", role="progressbar", aria_label="Progress",
        aria_valuemin="0", aria_valuemax="100",
    )  # fmt: skip
    return tag("div", tag("dl", cards, class_="figures"), bar, class_="stack")


def plan_figures(run: RunSummary) -> list[Figure]:
    """Plan the figures at the top of a run's page; a live run has others than a dead one."""
    best = Figure("best", "Best", detail="at step {best_step}")
    if run.best is not None:
        name = title_metric(run.best.metric)
        shown: FigureFormat = "percent" if is_share(run.best.metric) else "auto"
        best = Figure("best", f"Best {name[:1].lower()}{name[1:]}", shown, detail="at step {best_step}")
    figures = [
        Figure("step", "Step", "integer", detail="of {steps_total}, epoch {epoch} of {epochs}"),
        Figure("train/loss", "Train loss"),
        best,
    ]
    if run.status.is_live:
        figures.append(Figure("steps_per_s", "Speed", "rate", detail="{eta_s} left"))
        figures.append(
            Figure(
                "work_at_risk_s", "At risk now", "duration", detail="{work_at_risk_steps} steps",
                warn_above=run.pacing.at_risk_limit_s if run.pacing is not None else UNPACED_LIMIT_S,
            )
        )  # fmt: skip
    else:
        figures.append(Figure("work_s", "Trained for", "duration", detail="attempt {attempt}"))
        if run.work_at_risk_steps:
            figures.append(
                Figure("work_at_risk_s", "Lost", "duration", detail="{work_at_risk_steps} steps", warn_above=0)
            )
    return figures
