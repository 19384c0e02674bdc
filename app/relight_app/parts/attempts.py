"""The table of a run's attempts: why each began, what it did, how it ended, and the content of its folder. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from relight.overview.attempts import AttemptSummary
from relight.wording import describe_duration
from relight_app.formats import describe_option
from relight_app.markup import Markup, join, tag, wide_table
from relight_app.parts.moments import build_moment
from relight_app.parts.run_list import build_pill
from relight_app.urls import log_url


def build_attempts(
    attempts: Sequence[AttemptSummary],
    *,
    now_s: float,
    run: str,
    environments: Mapping[int, Mapping[str, Any] | None],
) -> Markup:
    """Build the table of attempts, newest first. `environments` has what each ran on, by its number."""
    heads = ("Attempt", "Began", "Steps", "Duration", "End")
    rows = [
        _attempt_row(attempt, now_s, run=run, environment=environments.get(attempt.number))
        for attempt in reversed(attempts)
    ]
    return wide_table(heads, rows, label="Attempts", class_="dense attempts")


def _attempt_row(attempt: AttemptSummary, now_s: float, *, run: str, environment: Mapping[str, Any] | None) -> Markup:
    return tag(
        "tr",
        tag("td", str(attempt.number)),
        tag("td", build_moment(attempt.began_s), tag("div", attempt.beginning, class_="sub"), class_="nowrap"),
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


def _attempt_details(attempt: AttemptSummary, *, run: str, environment: Mapping[str, Any] | None) -> Markup:
    facts = [
        tag("div", tag("dt", name), tag("dd", describe_option(value))) for name, value in _flatten(environment or {})
    ]
    traceback = attempt.exit.traceback if attempt.exit is not None else None
    return tag(
        "details",
        tag("summary", "Log, exit record and environment"),
        tag(
            "div",
            tag(
                "p",
                tag("a", "Full log", class_="link", href=log_url(run, attempt=attempt.number), target="_blank"),
                class_="sub",
            ),
            tag("p", _describe_exit(attempt), class_="sub"),
            tag("pre", traceback.strip("\n"), class_="text", tabindex="0") if traceback else None,
            tag("dl", facts, class_="facts") if facts else tag("p", "The environment was not recorded.", class_="sub"),
            class_="stack",
        ),
    )


def _describe_exit(attempt: AttemptSummary) -> str | Markup:
    record = attempt.exit
    if attempt.ended_s is None:
        return "Still running: there is no exit record yet."
    if record is None:
        return "No exit record: the supervisor was killed, or the machine lost power, before it could write one."
    code = "unknown" if record.exit_code is None else record.exit_code
    how = f"signal {record.signal}" if record.signal else f"exit code {code}"
    return join(f"Exit record: {attempt.outcome} at ", build_moment(attempt.ended_s), f", {how}.")


def _flatten(environment: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of an environment with its dotted name, except those that the row itself shows."""
    for key, value in environment.items():
        if prefix + key in ("version", "changes"):
            continue
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{key}", value
