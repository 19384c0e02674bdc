"""The list of runs: what each is doing, and what is at risk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from relight.overview.summary import DamagedRun, RunListing, RunSummary
from relight.runs.status import RunStatus
from relight.wording import count, describe_duration
from relight_app.charts import draw_sparkline
from relight_app.engine import Engine
from relight_app.formats import (
    describe_metric,
    describe_risk,
    short_metric,
    title_metric,
)
from relight_app.icons import icon
from relight_app.markup import Markup, join, tag
from relight_app.navigation import address
from relight_app.parts.controls import choice
from relight_app.parts.empty import build_empty
from relight_app.parts.moments import build_age
from relight_app.parts.part import Query

_MOST_ROWS = 200
_STATUSES = {"": "All", "running": "Running", "finished": "Finished", "stopped": "Stopped", "crashed": "Crashed",
             "interrupted": "Interrupted"}  # fmt: skip


def build_runs(engine: Engine, query: Query) -> Markup:
    """Build the start page."""
    status = query.get("status", "").lower()
    status = status if status in _STATUSES else ""
    text = query.get("q", "")
    search = tag(
        "label", icon("search"), tag("span", "Search runs", class_="unseen"),
        tag("input", type="search", value=text, placeholder="Search name, id or task", data_query="q",
            data_key="search", autocomplete="off", spellcheck="false"),
        class_="search",
    )  # fmt: skip
    head = tag(
        "div",
        tag("h1", "Runs"),
        tag("div", choice("Status", "status", _STATUSES, status), search, class_="row push"),
        class_="page-header",
    )
    listing = engine.list_runs()
    return tag("div", head, _build_body(engine, listing, status=status or None, text=text), class_="stack",
               data_title="Runs · Relight")  # fmt: skip


def _build_body(engine: Engine, listing: RunListing, *, status: str | None, text: str) -> Markup:
    damaged = build_damaged_runs(listing.damaged) if listing.damaged else None
    if not listing.runs:
        return tag("div", _build_first_step(engine), damaged, class_="stack")
    chosen = sort_runs(filter_runs(listing.runs, status=status, text=text))
    if chosen:
        curves = {run.run: curve for run in chosen[:_MOST_ROWS] if (curve := engine.read_curve(run)) is not None}
        table = build_run_list(chosen[:_MOST_ROWS], curves=curves)
    else:
        table = build_empty(
            "No runs match",
            f"Clear the search or choose another status ({count(len(listing.runs), 'run')} in all).",
        )
    left_out = len(chosen) - _MOST_ROWS
    rest = (
        tag("p", f"{count(left_out, 'older run')} not shown. Use the search to find them.", class_="sub")
        if left_out > 0
        else None
    )
    return tag("div", tag("p", _totals(listing.runs), class_="sub"), table, rest, damaged, class_="stack")


def _totals(runs: Sequence[RunSummary]) -> str:
    numbers = {status: sum(run.status is status for run in runs) for status in RunStatus}
    parts = [f"{number} {status}" for status, number in numbers.items() if number]
    return f"{count(len(runs), 'run')}: {', '.join(parts)}"


def _build_first_step(engine: Engine) -> Markup:
    return build_empty(
        "No runs yet",
        "Start with a network that reads handwritten digits: it trains in less than a minute on any machine. "
        "You can kill it halfway and resume it.",
        action=tag("a", "Launch the first run", class_="button solid", href=address("launch")),
        footnote=tag("span", "Runs are stored in ", tag("span", str(engine.folder), class_="mono")),
    )


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
                "a", run.name, class_="open", href=address("run", id=run.run)
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
