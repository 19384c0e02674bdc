"""The table of a run's attempts: why each began, what it did, how it ended, and what lies in its folder. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from relight_app.attempts import AttemptView
from relight_app.formats import describe_duration, describe_moment
from relight_app.markup import Markup, tag, wide_table
from relight_app.server.urls import log_url
from relight_app.tables import build_pill, show_option

Environments = Mapping[int, Mapping[str, Any] | None]


def build_attempts(
    attempts: Sequence[AttemptView], *, now_s: float, run: str | None = None, environments: Environments | None = None
) -> Markup:
    """The table of attempts, the newest first: why each began, what it did, how it ended.

    `run` adds a link to each attempt's whole log, `environments` (by number) what each ran on.
    """
    known = environments or {}
    heads = ("Attempt", "Began", "Steps", "Lasted", "End")
    rows = [
        _attempt_row(attempt, now_s, run=run, environment=known.get(attempt.number)) for attempt in reversed(attempts)
    ]
    return wide_table(heads, rows, label="Attempts", class_="dense attempts")


def _attempt_row(
    attempt: AttemptView, now_s: float, *, run: str | None, environment: Mapping[str, Any] | None
) -> Markup:
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
            _attempt_details(attempt, run=run, environment=environment),
        ),
        data_key=attempt.number,
    )


def _attempt_details(attempt: AttemptView, *, run: str | None, environment: Mapping[str, Any] | None) -> Markup:
    """What lies in the attempt's folder: its log, its exit record, its environment."""
    facts = [tag("div", tag("dt", name), tag("dd", show_option(value))) for name, value in _flatten(environment or {})]
    log = (
        tag("a", "Whole log", class_="link", href=log_url(run, attempt=attempt.number), target="_blank")
        if run
        else None
    )
    return tag(
        "details",
        tag("summary", "Log, exit record and environment"),
        tag(
            "div",
            tag("p", log, class_="sub") if log else None,
            tag("p", _say_exit(attempt), class_="sub"),
            tag("pre", attempt.traceback.strip("\n"), class_="text", tabindex="0") if attempt.traceback else None,
            tag("dl", facts, class_="facts") if facts else tag("p", "Its environment is not known.", class_="sub"),
            class_="stack",
        ),
    )


def _say_exit(attempt: AttemptView) -> str:
    """The exit record in a sentence."""
    if attempt.ended_s is None:
        return "It lives, so there is no exit record yet."
    if not attempt.has_exit_record:
        return "There is no exit record: whoever should have written it was killed, or had no power."
    how = f"signal {attempt.signal}" if attempt.signal else f"exit code {show_option(attempt.exit_code)}"
    return f"Exit record: {attempt.outcome} at {describe_moment(attempt.ended_s)}, {how}."


def _flatten(environment: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of an environment with its dotted name, but for what is said elsewhere."""
    for key, value in environment.items():
        if prefix + key in ("version", "changes"):
            continue
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", value
