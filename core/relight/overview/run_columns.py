"""The named values of a run that lists show, sort by and search: its fields, its config and its metrics."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from relight.errors import UsageError
from relight.overview.summary import RunSummary
from relight.wording import describe_age, describe_duration, describe_value

CONFIG = "config."
"""Prefix of a config key where a column or a metric has the same name."""

Kind = Literal["text", "number", "fraction", "time", "duration", "flag", "tags"]


@dataclass(frozen=True)
class Column:
    """A value that every run has, or may have. Times are seconds since 1970, durations seconds, fractions 0 to 1."""

    title: str
    kind: Kind
    read: Callable[[RunSummary], Any]


COLUMNS: dict[str, Column] = {
    "run": Column("Run", "text", lambda run: run.run),
    "name": Column("Name", "text", lambda run: run.name),
    "status": Column("Status", "text", lambda run: str(run.status)),
    "cause": Column("Cause", "text", lambda run: run.cause),
    "reason": Column("Reason", "text", lambda run: run.reason),
    "task": Column("Task", "text", lambda run: run.task),
    "parent": Column("Parent", "text", lambda run: run.parent.run if run.parent is not None else None),
    "tags": Column("Tags", "tags", lambda run: run.tags),
    "note": Column("Note", "text", lambda run: run.note),
    "starred": Column("Starred", "flag", lambda run: run.starred),
    "archived": Column("Archived", "flag", lambda run: run.archived),
    "best": Column("Best", "number", lambda run: run.best.value if run.best is not None else None),
    "best_step": Column("Best step", "number", lambda run: run.best.step if run.best is not None else None),
    "progress": Column("Progress", "fraction", lambda run: run.step / run.steps_total if run.steps_total else None),
    "step": Column("Step", "number", lambda run: run.step),
    "steps": Column("Steps", "number", lambda run: run.steps_total),
    "epoch": Column("Epoch", "number", lambda run: run.epoch),
    "attempt": Column("Attempt", "number", lambda run: run.attempt),
    "rate": Column("Steps/s", "number", lambda run: run.steps_per_s),
    "eta": Column("Time left", "duration", lambda run: run.eta_s),
    "work": Column("Trained for", "duration", lambda run: run.work_s),
    "risk": Column("At risk", "duration", lambda run: run.work_at_risk_s if run.work_at_risk_steps else None),
    "created": Column("Created", "time", lambda run: run.created_s),
    "started": Column("Started", "time", lambda run: run.started_s),
    "updated": Column("Updated", "time", lambda run: run.updated_s),
}

ALIASES = {"id": "run", "tag": "tags", "star": "starred", "lost": "risk"}
_DIGITS = re.compile(r"(\d+)")


def read_value(run: RunSummary, key: str) -> Any:
    """Return the value of a column, of a config key ("lr", "config.lr") or of a metric ("validation/loss", "loss").

    None when the run does not have it. A name that is several of these means the first. A metric without its stream
    is that of the run's best metric if it has that name, else of `validation`, else of the first stream. The value of
    a metric is the latest one.
    """
    column = COLUMNS.get(key)
    if column is not None:
        return column.read(run)
    if key in run.metrics:
        return run.metrics[key]
    value = _read_config(run.config, key.removeprefix(CONFIG))
    return value if value is not None or key.startswith(CONFIG) else _read_metric(run, key)


def word_value(run: RunSummary, key: str, *, now_s: float) -> str:
    """Say a value in a table's cell; "-" when the run does not have it."""
    value = read_value(run, key)
    kind = COLUMNS[key].kind if key in COLUMNS else None
    if value is None or value in ("", ()):
        return "-"
    if kind == "time":
        return describe_age(value, now_s=now_s)
    if kind == "duration":
        return describe_duration(value)
    if kind == "fraction":
        return f"{math.floor(100 * value)}%"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return describe_value(value)
    if isinstance(value, tuple | list | dict):
        return ", ".join(value) if kind == "tags" else msgspec.json.encode(value).decode()
    return " ".join(str(value).split())


def sort_runs(runs: Iterable[RunSummary], keys: str) -> list[RunSummary]:
    """Sort by columns, separated by commas; "-key" is descending. Runs without a value come last, either way.

    Texts are in natural order ("run-9" before "run-10"). Equal runs keep their order. Raises `UsageError` for a key
    that no run has.
    """
    ordered = list(runs)
    wanted = [key.strip() for key in keys.split(",") if key.strip()]
    names = [find_column(key.removeprefix("-"), ordered) for key in wanted]
    for key, name in zip(reversed(wanted), reversed(names), strict=True):
        valued = [(read_value(run, name), run) for run in ordered]
        there = [(_rank(value), run) for value, run in valued if not _is_missing(value)]
        there.sort(key=lambda pair: pair[0], reverse=key.startswith("-"))
        ordered = [run for _, run in there] + [run for value, run in valued if _is_missing(value)]
    return ordered


def find_column(name: str, runs: Sequence[RunSummary]) -> str:
    """Return the key that `name` means. Raises `UsageError` with the nearest name when none of the runs has it."""
    name = ALIASES.get(name, name)
    if name in COLUMNS or not runs or any(read_value(run, name) is not None for run in runs):
        return name
    raise UsageError(f"No run has {name!r}.{suggest_column(name, runs)}")


def suggest_column(name: str, runs: Iterable[RunSummary]) -> str:
    """Return " Did you mean 'x'?" for a name that no run has; "" when none is similar."""
    known = {*COLUMNS, *ALIASES}
    for run in runs:
        known |= {*flatten_config(run.config), *run.metrics, *(metric.rpartition("/")[2] for metric in run.metrics)}
    near = difflib.get_close_matches(name.removeprefix(CONFIG)[:100], known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def find_differing_config(runs: Sequence[RunSummary]) -> list[str]:
    """Return the config keys whose values differ between the runs: what a list or a comparison shows first.

    First the keys of which several runs have different values, those that most runs have in front; then the keys that
    only some runs have.
    """
    values: dict[str, list[bytes]] = {}
    for run in runs:
        for key, value in flatten_config(run.config).items():
            values.setdefault(key, []).append(msgspec.json.encode(value))
    differing = [key for key, found in values.items() if len(set(found)) > 1]
    partial = [key for key, found in values.items() if len(set(found)) == 1 and len(found) < len(runs)]
    differing.sort(key=lambda key: (-len(values[key]), _rank(key)))
    return differing + sorted(partial, key=lambda key: (-len(values[key]), _rank(key)))


def flatten_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with dotted keys instead of nested objects: {"model.depth": 4}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update({f"{key}.{inner}": item for inner, item in flatten_config(value).items()})
        else:
            flat[key] = value
    return flat


def _read_config(config: Mapping[str, Any], key: str) -> Any:
    if key in config:
        return config[key]
    first, dot, rest = key.partition(".")
    inner = config.get(first) if dot else None
    return _read_config(inner, rest) if isinstance(inner, Mapping) else None


def _read_metric(run: RunSummary, name: str) -> float | None:
    best = run.best.metric if run.best is not None else ""
    for full in (best, f"validation/{name}"):
        if full in run.metrics and full.partition("/")[2] == name:
            return run.metrics[full]
    return next((value for full, value in run.metrics.items() if full.partition("/")[2] == name), None)


def _is_missing(value: Any) -> bool:
    return value is None or value in ("", ()) or (isinstance(value, float) and math.isnan(value))


def _rank(value: Any) -> tuple[Any, ...]:
    """Return a key by which any two values can be compared: numbers first, then texts in natural order."""
    if isinstance(value, bool | int | float):
        return (0, value)
    text = value if isinstance(value, str) else ", ".join(value) if isinstance(value, tuple) else str(value)
    parts = _DIGITS.split(text.casefold())
    # Digits are compared by their number and then as text: int() refuses more than 4,300 of them.
    numbers = [(len(part.lstrip("0")), part.lstrip("0")) for part in parts[1::2]]
    return (1, [(text, *number) for text, number in zip(parts[::2], [*numbers, (0, "")], strict=True)])
