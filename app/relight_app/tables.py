"""Builders of the list of runs and of a run's config: pure functions from the engine's records to markup."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relight.overview.summary import DamagedRun, RunSummary
from relight.runs.status import RunStatus
from relight.wording import count, describe_duration
from relight_app.charts import draw_sparkline
from relight_app.formats import (
    describe_metric,
    describe_moment,
    describe_option,
    describe_risk,
    short_metric,
    title_metric,
)
from relight_app.icons import icon
from relight_app.markup import Markup, join, tag
from relight_app.navigation import address


def build_run_list(runs: Sequence[RunSummary], *, curves: Mapping[str, tuple[str, Sequence[float]]]) -> Markup:
    """Build the table of runs. `curves` has, by run, a metric's name and its values from the start to now."""
    heads = ("Run", "Status", "Progress", "Best", "Curve", "At risk now", "Updated")
    return tag(
        "div",
        tag(
            "div",
            tag(
                "table",
                tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads])),
                tag("tbody", [_run_row(run, curves.get(run.run)) for run in runs]),
                class_="runs",
                aria_label="Runs",
            ),
            class_="scroll",
        ),
        class_="table",
    )


def build_damaged_runs(damaged: Sequence[DamagedRun]) -> Markup:
    """Build the notice that names the unreadable run folders with their reasons."""
    return tag(
        "div",
        tag("strong", f"{count(len(damaged), 'run')} cannot be read"),
        tag("ul", [tag("li", tag("span", run.run, class_="mono"), ": ", run.reason) for run in damaged]),
        class_="notice bad",
        role="status",
    )


def build_pill(status: RunStatus) -> Markup:
    """Build a status pill: an icon, a color and the word."""
    return tag("span", icon(status), status.capitalize(), class_=f"pill {status}")


def build_age(time_s: float) -> Markup:
    """Build an age that the browser counts up; as text, it would change the whole list every second."""
    return tag("time", data_s=f"{time_s:.0f}", title=describe_moment(time_s))


def build_config(
    config: Mapping[str, Any], *, defaults: Mapping[str, Any], changes: Mapping[str, tuple[Any, Any]] | None = None
) -> Markup:
    """Build a config as a list of facts, in the order of `defaults`, and mark the values that differ from these.

    `changes` has what a branch changed, by key: the parent's value and its own.
    """
    changed = changes or {}
    rows = []
    order = list(defaults)
    for key, value in sorted(config.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)):
        unusual = key in defaults and defaults[key] != value
        has_default = unusual and defaults[key] not in (None, "")
        marks = [
            tag("span", f"default {describe_option(defaults[key])}", class_="badge") if has_default else None,
            tag("span", f"changed in this branch, was {describe_option(changed[key][0])}", class_="badge kept")
            if key in changed
            else None,
        ]
        shown = tag("span", describe_option(value), class_="mono changed" if unusual else "mono")
        rows.append(tag("div", tag("dt", key, class_="mono"), tag("dd", shown, " ", marks, class_="row")))
    return tag("dl", rows, class_="facts")


def filter_runs(runs: Iterable[RunSummary], *, status: str | None, text: str) -> list[RunSummary]:
    """Return the runs of that status whose name, id and task contain every word of `text`.

    A queued run counts as running: it will be in a second.
    """
    words = text.lower().split()

    def has_status(run: RunSummary) -> bool:
        return status is None or run.status == status or (status == RunStatus.RUNNING and run.status.is_live)

    return [
        run
        for run in runs
        if has_status(run) and all(word in f"{run.name} {run.run} {run.task}".lower() for word in words)
    ]


def sort_runs(runs: Iterable[RunSummary]) -> list[RunSummary]:
    """Return the live runs first, and then the newest."""
    return sorted(runs, key=lambda run: (not run.status.is_live, -run.created_s, run.run))


def describe_progress(run: RunSummary) -> tuple[float | None, str]:
    """Return the share from 0 to 1 (None when the total is unknown), and the words below the bar."""
    words = [f"{run.step:,} / {run.steps_total:,}" if run.steps_total else count(run.step, "step")]
    if run.eta_s is not None and run.status.is_live:
        words.append(f"{describe_duration(run.eta_s)} left")
    elif run.epochs:
        words.insert(0, f"epoch {min(run.epoch + 1, run.epochs)} of {run.epochs}")
    return (min(1.0, run.step / run.steps_total) if run.steps_total else None), " · ".join(words)


def _run_row(run: RunSummary, curve: tuple[str, Sequence[float]] | None) -> Markup:
    share, words = describe_progress(run)
    reason = tag("div", run.reason, class_="sub clip", title=run.reason) if run.reason else None
    best = run.best
    return tag(
        "tr",
        tag(
            "td",
            tag(
                "a", run.name, class_="open", href=address("run", id=run.run), data_page="run",
                data_query=json.dumps({"id": run.run}),
            ),
            tag("div", join(*_identity(run), separator=" · "), class_="sub clip"),
            class_="name",
        ),
        tag("td", build_pill(run.status), reason, class_="state"),
        tag("td", _bar(run, share), tag("div", words, class_="sub"), class_="progress"),
        tag(
            "td",
            describe_metric(best.metric, best.value) if best else tag("span", "–", class_="muted"),
            tag("div", f"{short_metric(best.metric)}, step {best.step:,}", class_="sub") if best else None,
            class_="best nowrap",
        ),
        tag(
            "td",
            draw_sparkline(curve[1], label=f"{title_metric(curve[0])} of {run.name}, from the start to now")
            if curve
            else None,
            class_="curve",
        ),
        tag("td", _risk(run), class_="atrisk nowrap"),
        tag("td", build_age(run.updated_s or run.created_s), class_="when nowrap muted"),
        data_key=run.run,
    )  # fmt: skip


def _identity(run: RunSummary) -> list[Markup | str]:
    parts: list[Markup | str] = [tag("span", run.run, class_="mono")] if run.run != run.name else []
    if run.task != run.name:
        parts.append(run.task)
    if run.attempt > 1:
        parts.append(f"attempt {run.attempt}")
    return parts or [run.task]


def _risk(run: RunSummary) -> Markup | None:
    if run.saving_failure:
        return tag("span", "Saving fails", class_="badge bad", title=run.saving_failure)
    if not run.work_at_risk_steps:
        return None
    words = describe_risk(run.work_at_risk_s, run.work_at_risk_steps)
    return tag("span", words) if run.status.is_live else tag("span", f"{words} lost", class_="muted")


def _bar(run: RunSummary, share: float | None) -> Markup:
    percent = round(100 * share) if share is not None else None
    return tag(
        "div",
        tag("i", style=f"width:{100 * (share or 0):.1f}%"),
        class_=f"bar {run.status}",
        role="progressbar",
        aria_label=f"Progress of {run.name}",
        aria_valuemin="0",
        aria_valuemax="100",
        aria_valuenow=percent,
    )
