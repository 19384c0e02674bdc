"""The list of runs: what each is doing, what is at risk, and what can be done with one or with several."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from relight.errors import UsageError
from relight.overview.run_columns import find_column, find_differing_config, flatten_config, word_value
from relight.overview.run_filter import FILTER_HELP, RunSelection, select_runs
from relight.overview.summary import DamagedRun, RunListing, RunSummary
from relight.runs.status import RunStatus
from relight.supervision.interrupted_runs import word_interrupted
from relight.wording import count, describe_duration
from relight_app.charts import draw_sparkline
from relight_app.engine import Engine
from relight_app.formats import describe_metric, describe_risk, short_metric, title_metric
from relight_app.icons import icon
from relight_app.markup import Markup, join, tag
from relight_app.navigation import address
from relight_app.parts.controls import Confirmation, Question, action_button, choice, menu, menu_item, menu_link
from relight_app.parts.empty import build_empty
from relight_app.parts.moments import build_age
from relight_app.parts.part import Query
from relight_app.settings import current_settings

_ROWS = 100
_CANDIDATES = 40
_STATUSES = {"": "All", "running": "Running", "finished": "Finished", "stopped": "Stopped", "crashed": "Crashed",
             "interrupted": "Interrupted"}  # fmt: skip
_RESUMABLE = (RunStatus.CRASHED, RunStatus.INTERRUPTED, RunStatus.STOPPED)
_HEADS = (("Run", "name"), ("Status", "status"), ("Progress", "progress"), ("Best", "best"), ("Curve", ""),
          ("At risk now", "risk"), ("Updated", "updated"))  # fmt: skip
"""The columns that are always there, and what they sort by."""
_DESCENDING_FIRST = {"progress", "best", "risk", "updated"}


def build_runs(engine: Engine, query: Query) -> Markup:
    """Build the start page."""
    listing = engine.list_runs()
    status = query.get("status", "").lower()
    status = status if status in _STATUSES else ""
    tools = tag(
        "div",
        choice("Status", "status", _STATUSES, status),
        _build_search(query.get("q", "")),
        _build_search_help(),
        _build_columns_menu(listing.runs, _read_columns(query)) if listing.runs else None,
        _build_bell(),
        class_="row push",
    )
    return tag(
        "div",
        tag("div", tag("h1", "Runs"), tools, class_="page-header"),
        _build_body(engine, listing, query, status=status),
        class_="stack",
        data_title=_title(listing.runs),
        data_state=_state(listing.runs),
        data_ended=describe_ended(listing.runs),
    )


def build_run_list(
    runs: Sequence[RunSummary],
    *,
    curves: Mapping[str, tuple[str, Sequence[float]]],
    columns: Sequence[str] = (),
    sort: str = "",
) -> Markup:
    """Build the table of runs. `curves` has, by run, a metric's name and its values from the start to now."""
    heads = [*_HEADS[:-1], *((name, name) for name in columns), _HEADS[-1]]
    select_all = tag("input", type="checkbox", data_select_all=True, aria_label="Select all runs")
    now_s = time.time()
    return tag(
        "div",
        tag(
            "div",
            tag(
                "table",
                tag(
                    "thead",
                    tag(
                        "tr",
                        tag("th", select_all, class_="select"),
                        [_head(words, key, sort) for words, key in heads],
                        tag("th", tag("span", "Actions", class_="unseen"), scope="col", class_="actions"),
                    ),
                ),
                tag("tbody", [_run_row(run, curves.get(run.run), columns, now_s) for run in runs]),
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


def order_runs(runs: Sequence[RunSummary]) -> list[RunSummary]:
    """Return the starred and the live runs first, and then the newest."""
    return sorted(runs, key=lambda run: (not run.starred, not run.status.is_live, -run.created_s, run.run))


def describe_progress(run: RunSummary) -> tuple[float | None, str]:
    """Return the share from 0 to 1 (None when the total is unknown), and the words below the bar."""
    words = [f"{run.step:,} / {run.steps_total:,}" if run.steps_total else count(run.step, "step")]
    if run.eta_s is not None and run.status.is_live:
        words.append(f"{describe_duration(run.eta_s)} left")
    elif run.epochs:
        words.insert(0, f"epoch {min(run.epoch + 1, run.epochs)} of {run.epochs}")
    return (min(1.0, run.step / run.steps_total) if run.steps_total else None), " · ".join(words)


def describe_ended(runs: Sequence[RunSummary]) -> str:
    """Return which of these runs have ended, the newest, as JSON for the browser's notifications."""
    newest = sorted((run for run in runs if not run.status.is_live), key=lambda run: -run.updated_s)[:20]
    return json.dumps(
        [
            {"key": f"{run.run}-{run.attempt}", "name": run.name, "status": run.status, "reason": run.reason}
            for run in newest
        ]
    )


def _build_body(engine: Engine, listing: RunListing, query: Query, *, status: str) -> Markup:
    damaged = build_damaged_runs(listing.damaged) if listing.damaged else None
    if not listing.runs:
        return tag("div", _build_first_step(engine), damaged, class_="stack")
    problem = None
    try:
        chosen = _select(listing.runs, query, status=status)
    except UsageError as error:
        problem = tag("div", str(error), class_="notice warn", role="status")
        chosen = RunSelection(runs=[], hidden=0, hint="")
    shown = chosen.runs[: _read_rows(query, len(chosen.runs))]
    if shown:
        curves = {run.run: curve for run in shown if (curve := engine.read_curve(run)) is not None}
        table = build_run_list(shown, curves=curves, columns=_read_columns(query), sort=query.get("sort", ""))
    elif problem is None:
        table = _build_no_match(chosen, query, status=status)
    else:
        table = None
    return tag(
        "div",
        tag("div", tag("p", _totals(listing.runs), class_="sub"), _build_hidden(chosen.hidden, query), class_="row"),
        _build_morning(engine),
        problem,
        _build_selection(),
        table,
        _build_more(len(chosen.runs), len(shown)),
        damaged,
        class_="stack",
    )


def _build_morning(engine: Engine) -> Markup | None:
    """Build the banner after a reboot: which runs were interrupted, what that cost, and one button."""
    found = engine.find_interrupted()
    job = engine.jobs.find(("resume-interrupted", False))
    busy = job is not None and job.is_running
    words = word_interrupted(found, now_s=time.time())
    told = job.result["results"] if job is not None and job.result is not None else []
    refused = [one["sentence"] for one in told if one["attempt"] is None] if words else []
    if not words and not busy:
        return None
    waiting = [run for run in found if not run.crashed and run.obstacle is None]
    return tag(
        "div",
        tag("strong", words or "Resuming the interrupted runs."),
        tag(
            "span",
            [tag("span", tag("a", run.name, class_="link", href=address("run", id=run.run)),
                 f" from step {run.resumes_at:,}", class_="badge") for run in waiting[:8]],
            f" and {count(len(waiting) - 8, 'more')}" if len(waiting) > 8 else None,
            class_="row",
        ),
        action_button(
            "Resume all" if len(waiting) > 1 else "Resume it", "resume-interrupted", {}, icon_name="resume", busy=busy,
            class_="button solid push", title="Each continues from its last good checkpoint.",
        ),
        [tag("div", sentence, class_="sub whole") for sentence in refused],
        class_="notice interrupted row",
        role="status",
        data_key="morning",
    )  # fmt: skip


def _select(runs: Sequence[RunSummary], query: Query, *, status: str) -> RunSelection:
    of_status = [
        run for run in runs if not status or run.status == status or (status == "running" and run.status.is_live)
    ]
    selection = select_runs(of_status, text=query.get("q", ""), sort=query.get("sort", ""),
                            archived="archived" in query)  # fmt: skip
    if query.get("sort"):
        return selection
    return RunSelection(runs=order_runs(selection.runs), hidden=selection.hidden, hint=selection.hint)


def _read_columns(query: Query) -> list[str]:
    return [name for name in dict.fromkeys(query.get("columns", "").split(",")) if name][:20]


def _read_rows(query: Query, there: int) -> int:
    rows = query.get("rows", "")
    if rows == "all":
        return there
    return int(rows) if rows.isdecimal() and len(rows) < 7 else _ROWS


def _build_search(text: str) -> Markup:
    return tag(
        "label", icon("search"), tag("span", "Search runs", class_="unseen"),
        tag("input", type="search", value=text, placeholder="Search, lr<0.01", data_query="q",
            data_key="search", autocomplete="off", spellcheck="false", maxlength="1000"),
        class_="search",
    )  # fmt: skip


def _build_search_help() -> Markup:
    rows = [tag("div", tag("dt", tag("code", example)), tag("dd", words)) for example, words in FILTER_HELP]
    return tag(
        "div",
        tag("button", "?", type="button", class_="icon-button", data_menu="search-help", aria_label="How to search",
            aria_expanded="false", title="How to search"),
        tag("div", tag("h2", "Search"), tag("dl", rows, class_="facts wide"), class_="menu tall pad", id="search-help",
            popover="auto", role="dialog", aria_label="How to search"),
    )  # fmt: skip


def _build_bell() -> Markup:
    return tag(
        "button", icon("bell"), type="button", class_="icon-button", data_notify=True, aria_pressed="false",
        aria_label="Notify me when a run ends", title="Notify me when a run ends",
    )  # fmt: skip


def _build_columns_menu(runs: Sequence[RunSummary], columns: Sequence[str]) -> Markup:
    """Build the menu of further columns: first what differs between the runs, then metrics."""
    differing = find_differing_config(runs)
    metrics = sorted({name for run in runs for name in run.metrics if not name.startswith("system/")})
    others = sorted({key for run in runs for key in flatten_config(run.config)} - set(differing))
    names = list(dict.fromkeys([*columns, *differing, *metrics, *others]))[:_CANDIDATES]
    items = [_build_column_item(name, columns) for name in names]
    return tag(
        "div",
        tag("button", icon("columns"), "Columns", type="button", class_="button", data_menu="menu-columns",
            aria_haspopup="menu", aria_expanded="false"),
        tag("div", items, class_="menu tall", id="menu-columns", role="menu", popover="auto", aria_label="Columns"),
    )  # fmt: skip


def _build_column_item(name: str, columns: Sequence[str]) -> Markup:
    on = name in columns
    after = [one for one in columns if one != name] if on else [*columns, name]
    return tag(
        "button", tag("span", "✓" if on else "", class_="check"), name, type="button", role="menuitemcheckbox",
        aria_checked="true" if on else "false", tabindex="-1", data_set=json.dumps({"columns": ",".join(after)}),
        data_key=name, class_="clip",
    )  # fmt: skip


def _build_no_match(chosen: RunSelection, query: Query, *, status: str) -> Markup:
    """Build what stands in place of the table when the search, the status or the archive hides every run."""
    if not (query.get("q") or status):
        show = _setter("Show archived runs", '{"archived": "1"}')
        return build_empty("All runs are archived", "They train, resume and export like any other run.", action=show)
    clear = _setter("Clear search and status", '{"q": null, "status": null}')
    words = chosen.hint or "Look for something else, or choose another status."
    return build_empty("No runs match", words, action=clear)


def _setter(words: str, change: str) -> Markup:
    return tag("button", words, type="button", class_="button", data_set=change)


def _build_hidden(hidden: int, query: Query) -> Markup | None:
    if "archived" in query:
        return tag("button", "Hide archived runs", type="button", class_="link plain", data_set='{"archived": null}')
    if not hidden:
        return None
    words = f"{count(hidden, 'archived run')} hidden"
    return tag("button", words, type="button", class_="link plain", data_set='{"archived": "1"}', title="Show them")


def _build_more(there: int, shown: int) -> Markup | None:
    if shown >= there:
        return None
    more = min(there, shown + 5 * _ROWS)
    return tag(
        "div",
        tag("span", f"{shown:,} of {count(there, 'run')} shown.", class_="sub"),
        tag("button", f"Show {more - shown:,} more", type="button", class_="button small",
            data_set=json.dumps({"rows": str(more)})),
        tag("button", "Show all", type="button", class_="button small", data_set='{"rows": "all"}'),
        class_="row",
    )  # fmt: skip


def _build_selection() -> Markup:
    """Build what can be done with the selected runs; the browser shows it while some are."""
    tag_question = Question("Tag the selected runs", field="add", label="Tags, with spaces between them", yes="Tag")
    return tag(
        "div",
        tag("strong", data_count=True, data_own=True),
        tag("button", "Compare", type="button", class_="button solid", data_with_selected=address("compare") + "?ids=",
            data_key_c=True),
        [] if current_settings().read_only else [
            tag("button", "Resume", type="button", class_="button", data_each="resume"),
            tag("button", "Stop", type="button", class_="button", data_each="stop"),
            tag("button", "Tag…", type="button", class_="button", data_each="tag", **tag_question.attributes()),
            tag("button", "Archive", type="button", class_="button", data_each="archive"),
            tag("button", "Delete…", type="button", class_="button", data_each="delete",
                data_part_of_selected="deletion",
                **Confirmation("Delete the selected runs?", "", yes="Delete").attributes()),
        ],
        class_="selection notice plain row",
        role="group",
        aria_label="Selected runs",
        data_selection=True,
        hidden=True,
    )  # fmt: skip


def _head(words: str, key: str, sort: str) -> Markup:
    if not key:
        return tag("th", words, scope="col")
    current = sort.removeprefix("-") == key
    first = f"-{key}" if key in _DESCENDING_FIRST else key
    second = key if first.startswith("-") else f"-{key}"
    after = first if not current else second if sort == first else None
    arrow = ("↓" if sort.startswith("-") else "↑") if current else ""
    return tag(
        "th",
        tag("button", words, tag("span", arrow, aria_hidden="true"), type="button", class_="sorter",
            data_set=json.dumps({"sort": after}), title=f"Sort by {words.lower()}"),
        scope="col",
        aria_sort=("descending" if sort.startswith("-") else "ascending") if current else None,
    )  # fmt: skip


def _totals(runs: Sequence[RunSummary]) -> str:
    numbers = {status: sum(run.status is status for run in runs) for status in RunStatus}
    parts = [f"{number} {status}" for status, number in numbers.items() if number]
    return f"{count(len(runs), 'run')}: {', '.join(parts)}"


def _title(runs: Sequence[RunSummary]) -> str:
    """Say in the title of the tab how things stand."""
    live = [run for run in runs if run.status.is_live]
    dead = sum(run.status in (RunStatus.CRASHED, RunStatus.INTERRUPTED) for run in runs if not run.archived)
    parts = []
    if len(live) == 1:
        share = describe_progress(live[0])[0]
        parts.append(f"● {round(100 * share)} % {live[0].name}" if share is not None else f"● {live[0].name}")
    elif live:
        parts.append(f"● {len(live)} running")
    if dead:
        parts.append(f"✕ {dead} crashed")
    return " · ".join([*parts, "Relight"]) if parts else "Runs · Relight"


def _state(runs: Sequence[RunSummary]) -> str:
    if any(run.status in (RunStatus.CRASHED, RunStatus.INTERRUPTED) for run in runs if not run.archived):
        return "crashed"
    return "running" if any(run.status.is_live for run in runs) else "idle"


def _build_first_step(engine: Engine) -> Markup:
    return build_empty(
        "No runs yet",
        "Start with a network that reads handwritten digits: it trains in less than a minute on any machine. "
        "You can kill it halfway and resume it.",
        action=tag("a", "Launch the first run", class_="button solid", href=address("launch")),
        footnote=tag("span", "Runs are stored in ", tag("span", str(engine.folder), class_="mono")),
    )


def _run_row(
    run: RunSummary, curve: tuple[str, Sequence[float]] | None, columns: Sequence[str], now_s: float
) -> Markup:
    share, words = describe_progress(run)
    reason = tag("div", run.reason, class_="sub clip", title=run.reason) if run.reason else None
    best = run.best
    return tag(
        "tr",
        tag("td", tag("input", type="checkbox", data_select=run.run, aria_label=f"Select {run.name}"), class_="select"),
        tag(
            "td",
            tag("span", "★ ", class_="star", title="Starred") if run.starred else None,
            tag("a", run.name, class_="open", href=address("run", id=run.run)),
            tag("div", join(*_identity(run), separator=" · "), class_="sub clip", title=run.note or None),
            tag("div", [tag("span", one, class_="badge") for one in run.tags], class_="row tags") if run.tags else None,
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
        [tag("td", _word(run, name, now_s), class_="extra clip", title=name) for name in columns],
        tag("td", build_age(run.updated_s or run.created_s), class_="when nowrap muted"),
        tag("td", tag("div", _row_buttons(run), class_="row nowrap"), class_="actions"),
        data_key=run.run,
    )


def _word(run: RunSummary, name: str, now_s: float) -> str:
    word = word_value(run, find_column(name, ()), now_s=now_s)
    return "–" if word == "-" else word


def _row_buttons(run: RunSummary) -> list[Markup]:
    buttons = []
    if run.status in _RESUMABLE:
        buttons.append(
            action_button("Resume", "resume", {"run": run.run, "attempt": run.attempt}, class_="button small",
                          data_key_r=True)
        )  # fmt: skip
    elif run.status.is_live:
        buttons.append(action_button("Stop", "stop", {"run": run.run}, class_="button small", data_key_s=True))
    return [*buttons, *menu(build_run_menu(run), key=f"run-{run.run}", label=run.name)]


def build_run_menu(run: RunSummary) -> list[Markup]:
    """Build the items that organize a run: star, rename, tag, note, archive, delete."""
    here: dict[str, Any] = {"run": run.run}
    delete = Confirmation("Delete this run?", "", yes="Delete", part=f"/parts/deletion?ids={run.run}")
    rename = Question("Rename the run", field="name", label="Name", value=run.name, yes="Rename")
    note = Question("Note", field="note", label="What you want to remember", value=run.note, yes="Save", lines=True)
    tags = Question("Tag the run", field="add", label="Tags, with spaces between them", yes="Tag")
    return [
        menu_link("Open", address("run", id=run.run)),
        menu_item("Remove the star" if run.starred else "Star", "star", here | {"on": not run.starred}),
        menu_item("Rename…", "rename", here, confirm=rename),
        menu_item("Tag…", "tag", here, confirm=tags),
        *(menu_item(f"Remove tag “{one}”", "tag", here | {"remove": [one]}) for one in run.tags[:5]),
        menu_item("Note…", "note", here, confirm=note),
        menu_item("Show in the list again" if run.archived else "Archive", "archive", here | {"on": not run.archived}),
        menu_item("Delete…", "delete", here, confirm=delete,
                  refusal="Stop the run first." if run.status.is_live else None),
    ]  # fmt: skip


def _identity(run: RunSummary) -> list[Markup | str]:
    parts: list[Markup | str] = [tag("span", run.run, class_="mono")] if run.run != run.name else []
    if run.task != run.name:
        parts.append(run.task)
    if run.attempt > 1:
        parts.append(f"attempt {run.attempt}")
    if run.archived:
        parts.append("archived")
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
