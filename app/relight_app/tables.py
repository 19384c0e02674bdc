"""Pure builders of the lists: runs, checkpoints, attempts, config. From the engine's records to markup."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relight.checkpoints.listing import CheckpointInfo
from relight.runs.status import RunStatus
from relight.runs.summary import DamagedRun, RunSummary
from relight_app.attempts import AttemptView
from relight_app.charts import draw_sparkline
from relight_app.formats import (
    count,
    describe_bytes,
    describe_duration,
    describe_eta,
    describe_metric,
    describe_moment,
    describe_risk,
    short_metric,
    title_metric,
)
from relight_app.icons import icon
from relight_app.markup import Markup, join, tag
from relight_app.navigation import address

_LABELS = {"best": "best", "pinned": "kept", "parent": "kept", "exported": "on"}
_REASONS = {
    "periodic": "by the clock",
    "best": "new best",
    "stop": "at a stop",
    "signal": "at a signal",
    "exception": "at an error",
    "manual": "asked for",
    "final": "at the end",
}


def build_run_list(runs: Sequence[RunSummary], *, curves: Mapping[str, tuple[str, Sequence[float]]]) -> Markup:
    """The table of runs. `curves` gives, by run, a metric's name and its values from the start to now."""
    heads = ("Run", "Status", "Progress", "Best", "Curve", "At risk now", "Changed")
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
    """The runs whose folder cannot be read, each with the sentence that says why."""
    return tag(
        "div",
        tag("strong", f"{count(len(damaged), 'run')} cannot be read"),
        tag("ul", [tag("li", tag("span", run.run, class_="mono"), ": ", run.reason) for run in damaged]),
        class_="notice bad",
        role="status",
    )


def build_pill(status: RunStatus | str) -> Markup:
    """A status as a pill: a sign, a colour and the word."""
    name = str(status)
    return tag("span", icon(name), name.capitalize(), class_=f"pill {name}")


def build_age(time_s: float) -> Markup:
    """How long ago something was. The browser counts: words of ours would change the whole list every second."""
    return tag("time", data_s=f"{time_s:.0f}", title=describe_moment(time_s))


def build_checkpoints(
    checkpoints: Sequence[CheckpointInfo],
    *,
    best_metric: str | None,
    resume_refusal: str | None,
    limit: int = 200,
) -> Markup:
    """The table of checkpoints, the newest first, each with a menu. `resume_refusal` says why none can be resumed from.

    The menu's actions are "resume", "export" and "pin"/"unpin", with the checkpoint's step.
    """
    metrics = _metric_columns(checkpoints, best_metric)
    newest_first = sorted(checkpoints, key=lambda info: info.sequence, reverse=True)
    shown = newest_first[:limit]
    heads = [
        tag("th", "Step", scope="col", class_="right"),
        tag("th", "Epoch", scope="col", class_="right"),
        [tag("th", title_metric(name), scope="col", class_="right") for name in metrics],
        tag("th", "Labels", scope="col"),
        tag("th", "Saved", scope="col"),
        tag("th", "Size", scope="col", class_="right"),
        tag("th", "Age", scope="col"),
        tag("th", tag("span", "Actions", class_="unseen"), scope="col", class_="actions"),
    ]
    left_out = len(newest_first) - len(shown)
    return join(
        tag(
            "div",
            tag(
                "div",
                tag(
                    "table",
                    tag("thead", tag("tr", heads)),
                    tag("tbody", [_checkpoint_row(info, metrics, resume_refusal) for info in shown]),
                    class_="dense",
                    aria_label="Checkpoints",
                ),
                class_="scroll",
                tabindex="0",
                role="region",
                aria_label="Checkpoints, scrolls sideways",
            ),
            class_="table",
        ),
        tag("p", f"{left_out} older checkpoints are not shown; `relight checkpoints` lists all.", class_="sub")
        if left_out
        else None,
    )


def build_attempts(attempts: Sequence[AttemptView], *, now_s: float) -> Markup:
    """The table of attempts, the newest first: why each began, what it did, how it ended."""
    heads = ("Attempt", "Began", "Steps", "Lasted", "End")
    return tag(
        "div",
        tag(
            "div",
            tag(
                "table",
                tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads])),
                tag("tbody", [_attempt_row(attempt, now_s) for attempt in reversed(attempts)]),
                class_="dense",
                aria_label="Attempts",
            ),
            class_="scroll",
            tabindex="0",
            role="region",
            aria_label="Attempts, scrolls sideways",
        ),
        class_="table",
    )


def build_config(config: Mapping[str, Any], *, defaults: Mapping[str, Any], changes: Iterable[str] = ()) -> Markup:
    """A config as a list of facts, in the order of `defaults`; what is not the default is set off."""
    changed = set(changes)
    rows = []
    order = list(defaults)
    for key, value in sorted(config.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)):
        unusual = key in defaults and defaults[key] != value
        told = unusual and defaults[key] not in (None, "")
        marks = [
            tag("span", f"default {_show(defaults[key])}", class_="badge") if told else None,
            tag("span", "changed in this branch", class_="badge kept") if key in changed else None,
        ]
        shown = tag("span", _show(value), class_="mono changed" if unusual else "mono")
        rows.append(tag("div", tag("dt", key, class_="mono"), tag("dd", shown, " ", marks, class_="row")))
    return tag("dl", rows, class_="facts")


def filter_runs(runs: Iterable[RunSummary], *, status: str | None, text: str) -> list[RunSummary]:
    """The runs of that status whose name, id or task has every word of `text`."""
    words = text.lower().split()
    return [
        run
        for run in runs
        if (status is None or str(run.status) == status)
        and all(word in f"{run.name} {run.run} {run.task}".lower() for word in words)
    ]


def sort_runs(runs: Iterable[RunSummary]) -> list[RunSummary]:
    """Those that are alive first, then by when they were created, newest first."""
    return sorted(runs, key=lambda run: (not RunStatus(run.status).is_live, -run.created_s, run.run))


def describe_progress(run: RunSummary) -> tuple[float | None, str]:
    """A share of one (None when the end is not known), and the words beside the bar."""
    words = [f"{run.step:,} / {run.steps_total:,}" if run.steps_total else count(run.step, "step")]
    if run.eta_s is not None and RunStatus(run.status).is_live:
        words.append(f"{describe_eta(run.eta_s)} left")
    elif run.epochs:
        words.insert(0, f"epoch {min(run.epoch + 1, run.epochs)} of {run.epochs}")
    return (min(1.0, run.step / run.steps_total) if run.steps_total else None), " · ".join(words)


def _run_row(run: RunSummary, curve: tuple[str, Sequence[float]] | None) -> Markup:
    share, words = describe_progress(run)
    status = str(run.status)
    live = RunStatus(run.status).is_live
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
        tag("td", _bar(share, status, f"Progress of {run.name}"), tag("div", words, class_="sub"), class_="progress"),
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
        tag("td", _risk(run, live=live), class_="atrisk nowrap"),
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


def _risk(run: RunSummary, *, live: bool) -> Markup | None:
    if run.saving_failure:
        return tag("span", "Saving fails", class_="badge bad", title=run.saving_failure)
    if not run.work_at_risk_steps:
        return None
    words = describe_risk(run.work_at_risk_s, run.work_at_risk_steps)
    if live:
        return tag("span", words)
    return tag("span", f"{words} lost", class_="muted")


def _bar(share: float | None, status: str, label: str) -> Markup:
    percent = round(100 * share) if share is not None else None
    return tag(
        "div",
        tag("i", style=f"width:{100 * (share or 0):.1f}%"),
        class_=f"bar {status}",
        role="progressbar",
        aria_label=label,
        aria_valuemin="0",
        aria_valuemax="100",
        aria_valuenow=percent,
    )


def _metric_columns(checkpoints: Sequence[CheckpointInfo], best_metric: str | None) -> list[str]:
    """Which metrics get a column: the best metric's first, then losses, then others, four at most."""
    names = {name for info in checkpoints for name in info.metrics if short_metric(name) != "lr"}
    if best_metric:
        names.discard(best_metric)
    ranked = sorted(names, key=lambda name: (short_metric(name) != "loss", not name.startswith("validation/"), name))
    return ([best_metric] if best_metric else []) + ranked[:3]


def _checkpoint_row(info: CheckpointInfo, metrics: Sequence[str], resume_refusal: str | None) -> Markup:
    labels = [tag("span", label, class_=f"badge {_LABELS.get(label, '')}") for label in info.labels]
    verified = (
        tag("span", icon("verified"), "verified", class_="badge", title="Read back from the disk, every digest right")
        if info.verified
        else tag("span", "not verified yet", class_="badge", title="Durable; it is read back and compared soon")
    )
    menu = f"menu-{info.sequence}"
    return tag(
        "tr",
        tag("td", f"{info.step:,}", class_="right"),
        tag("td", str(info.epoch), class_="right muted"),
        [tag("td", _checkpoint_metric(info, name), class_="right") for name in metrics],
        tag("td", tag("span", labels, verified, class_="row nowrap")),
        tag("td", _REASONS.get(info.reason, info.reason), class_="nowrap muted"),
        tag("td", describe_bytes(info.bytes), class_="right nowrap"),
        tag("td", build_age(info.time_s), class_="nowrap muted"),
        tag(
            "td",
            tag(
                "button", icon("more"), class_="icon-button", type="button", data_menu=menu, aria_haspopup="menu",
                aria_expanded="false", aria_label=f"Actions for step {info.step}",
            ),
            tag("div", _checkpoint_menu(info, resume_refusal), class_="menu", id=menu, role="menu", popover="auto",
                aria_label=f"Step {info.step}"),
            class_="right actions",
        ),
        data_key=info.sequence,
    )  # fmt: skip


def _checkpoint_metric(info: CheckpointInfo, name: str) -> str:
    return describe_metric(name, info.metrics[name]) if name in info.metrics else "–"


def _checkpoint_menu(info: CheckpointInfo, resume_refusal: str | None) -> list[Markup]:
    pinned = "pinned" in info.labels
    return [
        _menu_item("Resume from here", "resume", info.step, refusal=resume_refusal),
        _menu_item("Export these weights", "export", info.step),
        _menu_item("Unpin" if pinned else "Pin, never to be removed", "unpin" if pinned else "pin", info.step),
    ]


def _menu_item(label: str, action: str, step: int, *, refusal: str | None = None) -> Markup:
    return tag(
        "button",
        label,
        tag("span", refusal, class_="sub") if refusal else None,
        type="button",
        role="menuitem",
        tabindex="-1",
        data_action=action,
        data_value=json.dumps(step),
        aria_disabled="true" if refusal else None,
    )


def _attempt_row(attempt: AttemptView, now_s: float) -> Markup:
    return tag(
        "tr",
        tag("td", str(attempt.number)),
        tag("td", describe_moment(attempt.began_s), tag("div", attempt.why, class_="sub"), class_="nowrap"),
        tag("td", attempt.steps, class_="nowrap"),
        tag("td", describe_duration(attempt.lasted_s(now_s)), class_="nowrap"),
        tag(
            "td",
            build_pill(attempt.outcome),
            tag("div", attempt.reason, class_="sub") if attempt.reason else None,
            [tag("div", note, class_="sub") for note in attempt.notes],
        ),
        data_key=attempt.number,
    )


def _show(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value in (None, "") else str(value)
