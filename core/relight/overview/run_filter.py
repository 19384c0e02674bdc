"""The search of the list of runs: a line of text such as `lr<0.01 status:crashed tag:vision "free text"`.

Terms are separated by spaces, and a run must match all of them. The same language serves the command line and the
dashboard; `FILTER_HELP` explains it on both.
"""

from __future__ import annotations

import datetime
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from relight.errors import UsageError
from relight.overview.run_columns import (
    ALIASES,
    COLUMNS,
    flatten_config,
    read_value,
    sort_runs,
    suggest_column,
)
from relight.overview.summary import RunSummary
from relight.runs.status import RunStatus

FILTER_HELP: tuple[tuple[str, str], ...] = (
    ("digits", "the word in the ID, name, task, tags, note, status or config"),
    ('"no dropout"', 'the words together; quotes also for values: name:"no dropout"'),
    ("status:crashed,interrupted", "one of these statuses; live and ended are several at once"),
    ("tag:vision task:digits", "by tag, task, name, note, parent, cause or reason"),
    ("starred archived", "runs with a star; archived runs"),
    ("lr<0.01 epochs>=5 amp:true", "by config; config.NAME where a metric or a column has the same name"),
    ("accuracy>0.9 train/loss<1", "by the latest value of a metric; loss:nan finds NaN"),
    ("best>0.9 progress<50% step>10k", "by the best value or how far it is; also attempt, epoch, rate"),
    ("updated<2d created>2026-11-01", "by age (s, min, h, d, w) or date; also started"),
    ("work>1h lost>60s eta<30min", "by a duration: trained for, at risk or lost, time left"),
    ("-tag:old lr!=0.1", "not: a dash before a term; != for a value that is there and differs"),
)
"""Examples, and what each finds."""

_KEY = re.compile(r"[^\s\"'<>=!:,]+")
_OPERATOR = re.compile(r"<=|>=|!=|[:=<>]")
_WORD = re.compile(r"[^\s\"',]+")
_FREE = re.compile(r"[^\s\"']+")
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)([kM%]?)")
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(s|m|min|h|d|w)?")
_UNIT_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0, None: 1.0}
_FACTORS = {"k": 1e3, "M": 1e6, "%": 0.01, "": 1.0}
_STATUSES = {
    **{str(status): {str(status)} for status in RunStatus},
    "live": {str(status) for status in RunStatus if status.is_live},
    "ended": {str(status) for status in RunStatus if not status.is_live},
}
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")

Test = Callable[[RunSummary], bool]


class FilterError(UsageError):
    """The search cannot be understood. `position` is the index of the character where that shows."""

    def __init__(self, message: str, *, position: int) -> None:
        super().__init__(message)
        self.position = position


@dataclass(frozen=True)
class _Term:
    position: int
    negated: bool
    key: str | None
    """None for free text."""
    operator: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class RunFilter:
    """A search that was understood."""

    text: str
    _tests: tuple[Test, ...]
    _keys: tuple[str, ...]
    """Names of config keys or metrics that the search compares."""
    wants_archived: bool
    """Whether the search itself speaks of archived runs."""

    def matches(self, run: RunSummary) -> bool:
        """Return whether the run matches every term."""
        return all(test(run) for test in self._tests)

    def explain_unknown(self, runs: Sequence[RunSummary]) -> str:
        """Say which name in the search none of the runs has, and which one may be meant; "" when all are known."""
        for key in self._keys if runs else ():
            if all(read_value(run, key) is None for run in runs):
                return f"No run has {key!r}.{suggest_column(key, runs)} To search for a text, put it in quotes."
        return ""


@dataclass(frozen=True)
class RunSelection:
    """The runs that a list shows."""

    runs: list[RunSummary]
    hidden: int
    """Archived runs that match and are left out."""
    hint: str
    """A sentence about a name in the search that no run has; "" for none."""


def select_runs(
    runs: Sequence[RunSummary], *, text: str = "", sort: str = "", archived: bool = False, now_s: float | None = None
) -> RunSelection:
    """Return the runs that match the search `text`, sorted as `sort_runs` does; without `sort`, in the given order.

    Archived runs are left out unless they are live, `archived` is set, or the search speaks of them. Raises
    `FilterError` when the search cannot be understood, and `UsageError` for an unknown column in `sort`.
    """
    search = parse_filter(text, now_s=now_s)
    ordered = sort_runs(runs, sort) if sort else runs
    matching = [run for run in ordered if search.matches(run)]
    if archived or search.wants_archived:
        shown = matching
    else:
        shown = [run for run in matching if not run.archived or run.status.is_live]
    hint = "" if shown else search.explain_unknown(runs)
    return RunSelection(shown, len(matching) - len(shown), hint)


def parse_filter(text: str, *, now_s: float | None = None) -> RunFilter:
    """Understand a search. Ages count from `now_s`, by default now. Raises `FilterError`."""
    now_s = time.time() if now_s is None else now_s
    terms = _split(text)
    tests = tuple(
        _negate(_compile(term, text, now_s)) if term.negated else _compile(term, text, now_s) for term in terms
    )
    keys = tuple(term.key for term in terms if term.key is not None and term.key not in COLUMNS)
    return RunFilter(text, tests, keys, any(term.key == "archived" for term in terms))


def _split(text: str) -> list[_Term]:
    terms: list[_Term] = []
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text):
            return terms
        term, at = _read_term(text, at)
        terms.append(term)


def _read_term(text: str, start: int) -> tuple[_Term, int]:
    """Read one term from `start` on; return it and the index behind it."""
    negated = text[start] == "-" and start + 1 < len(text) and not text[start + 1].isspace()
    at = start + negated
    if text[at] in "\"'":
        value, at = _read_quoted(text, at)
        return _Term(start, negated, None, ":", (value,)), at
    key = _KEY.match(text, at)
    operator = _OPERATOR.match(text, key.end()) if key is not None else None
    if key is None or operator is None:
        word = _FREE.match(text, at)
        if word is None or _OPERATOR.match(text, at) or text[at] == "!":
            _fail(text, at, f"{text[at]!r} has no name before it. Write it without spaces, such as lr<0.01.")
        flag = ALIASES.get(word[0], word[0])
        if flag in COLUMNS and COLUMNS[flag].kind == "flag":
            return _Term(start, negated, flag, "=", ("true",)), word.end()
        return _Term(start, negated, None, ":", (word[0],)), word.end()
    values: list[str] = []
    at = operator.end()
    while True:
        if at < len(text) and text[at] in "\"'":
            value, at = _read_quoted(text, at)
        elif word := _WORD.match(text, at):
            value, at = word[0], word.end()
        else:
            example = f"{key[0]}{operator[0]}{_give_example(key[0])}"
            _fail(text, at, f"{key[0]!r} needs a value after {operator[0]!r}, such as {example}.")
        values.append(value)
        if at == len(text) or text[at] != ",":
            break
        at += 1
    return _Term(start, negated, ALIASES.get(key[0], key[0]), operator[0], tuple(values)), at


def _read_quoted(text: str, start: int) -> tuple[str, int]:
    end = text.find(text[start], start + 1)
    if end < 0:
        _fail(text, start, f"the quote {text[start]} is not closed. Add another one behind the text.")
    return text[start + 1 : end], end + 1


def _compile(term: _Term, text: str, now_s: float) -> Test:
    if term.key is None:
        return _contains_text(term.values[0].casefold())
    column = COLUMNS.get(term.key)
    kind = column.kind if column is not None else None
    if term.key == "status":
        return _compile_status(term, text)
    if kind == "time":
        return _any_of(term, [_compile_time(term, value, text, now_s) for value in term.values])
    if kind == "duration":
        return _any_of(term, [_compare(term, _require_duration(term, value, text)) for value in term.values])
    if kind == "flag" and any(value.casefold() not in (*_TRUE, *_FALSE) for value in term.values):
        _fail(text, term.position, f"{term.key!r} is true or false. Write {term.key}:true.")
    if term.operator in (":", "=", "!="):
        return _any_of(term, [_equals(term.key, term.operator, value) for value in term.values])
    if kind in ("text", "tags", "flag"):
        _fail(
            text, term.position,
            f"{term.key!r} cannot be compared with {term.operator!r}: write {term.key}:{_give_example(term.key)}.",
        )  # fmt: skip
    return _any_of(term, [_compare(term, _require_number(term, value, text)) for value in term.values])


def _compile_status(term: _Term, text: str) -> Test:
    if term.operator not in (":", "=", "!="):
        _fail(text, term.position, "a status has no order. Write status:crashed.")
    wanted: set[str] = set()
    for value in term.values:
        if value.casefold() not in _STATUSES:
            _fail(text, term.position, f"there is no status {value!r}. Use one of {', '.join(_STATUSES)}.")
        wanted |= _STATUSES[value.casefold()]
    return lambda run: (run.status in wanted) is not (term.operator == "!=")


def _compile_time(term: _Term, value: str, text: str, now_s: float) -> Test:
    """Compare a time with a date, or its age with a duration."""
    assert term.key is not None
    duration = _DURATION.fullmatch(value)
    if duration is not None and duration[2] is not None:
        if term.operator in (":", "=", "!="):
            _fail(text, term.position, f"an age is compared with < or >: write {term.key}<{value}.")
        age_s = float(duration[1]) * _UNIT_S[duration[2]]
        return _compare(term, age_s, lambda time_s: now_s - time_s)
    try:
        date = datetime.datetime.fromisoformat(value)
    except ValueError:
        _fail(text, term.position, f"{value!r} is not an age or a date. Write {term.key}<2d or {term.key}>2026-11-01.")
    start_s = date.timestamp()
    if term.operator in (":", "=", "!="):  # on that day
        end_s = start_s + 86_400
        return _read_number(term.key, lambda time_s: (start_s <= time_s < end_s) is not (term.operator == "!="))
    return _compare(term, start_s)


def _compare(term: _Term, wanted: float, convert: Callable[[float], float] = float) -> Test:
    assert term.key is not None
    compare: dict[str, Callable[[float], bool]] = {
        "<": lambda value: convert(value) < wanted,
        "<=": lambda value: convert(value) <= wanted,
        ">": lambda value: convert(value) > wanted,
        ">=": lambda value: convert(value) >= wanted,
        ":": lambda value: convert(value) == wanted,
        "=": lambda value: convert(value) == wanted,
        "!=": lambda value: convert(value) != wanted,
    }
    return _read_number(term.key, compare[term.operator])


def _read_number(key: str, accept: Callable[[float], bool]) -> Test:
    def test(run: RunSummary) -> bool:
        value = read_value(run, key)
        return isinstance(value, int | float) and not isinstance(value, bool) and accept(value)

    return test


def _equals(key: str, operator: str, text: str) -> Test:
    """Compare with a text as people would: numbers as numbers, yes as true, tags whole, other texts in part for ":"."""
    wanted = text.casefold()
    number = _parse_number(text)

    def is_equal(value: Any) -> bool:
        if isinstance(value, bool):
            return wanted in (_TRUE if value else _FALSE)
        if isinstance(value, int | float):
            return (number is not None and value == number) or (math.isnan(value) and wanted == "nan")
        if isinstance(value, tuple):
            return any(tag.casefold() == wanted for tag in value)
        found = str(value).casefold()
        return found == wanted or (operator == ":" and wanted in found)

    def test(run: RunSummary) -> bool:
        value = read_value(run, key)
        if value is None:
            return operator != "!=" and wanted == "none"
        return is_equal(value) is not (operator == "!=")

    return test


def _contains_text(wanted: str) -> Test:
    def test(run: RunSummary) -> bool:
        fields = (run.run, run.name, run.task, run.note, str(run.status), *run.tags)
        if any(wanted in field.casefold() for field in fields):
            return True
        return any(wanted in f"{key}={value}".casefold() for key, value in flatten_config(run.config).items())

    return test


def _any_of(term: _Term, tests: Sequence[Test]) -> Test:
    """Match if one value does; for "!=", if all do."""
    if len(tests) == 1:
        return tests[0]
    if term.operator == "!=":
        return lambda run: all(test(run) for test in tests)
    return lambda run: any(test(run) for test in tests)


def _negate(test: Test) -> Test:
    return lambda run: not test(run)


def _parse_number(text: str) -> float | None:
    match = _NUMBER.fullmatch(text)
    if match is None:
        return float(text) if text.casefold() in ("inf", "-inf") else None
    return float(match[1]) * _FACTORS[match[2]]


def _require_number(term: _Term, value: str, text: str) -> float:
    number = _parse_number(value)
    if number is None:
        _fail(text, term.position, f"{value!r} is not a number. Write {term.key}{term.operator}0.01.")
    return number


def _require_duration(term: _Term, value: str, text: str) -> float:
    match = _DURATION.fullmatch(value)
    if match is None:
        _fail(text, term.position, f"{value!r} is not a duration. Write {term.key}>90s, 30min, 2h or 1d.")
    return float(match[1]) * _UNIT_S[match[2]]


def _give_example(key: str) -> str:
    column = COLUMNS.get(ALIASES.get(key, key))
    if key == "status":
        return "crashed"
    kinds = {"time": "2d", "duration": "1h", "flag": "true", "tags": "vision", "text": "digits", "fraction": "50%"}
    return kinds.get(column.kind, "0.01") if column is not None else "0.01"


def _fail(text: str, position: int, problem: str) -> NoReturn:
    raise FilterError(
        f"The search {_quote(text)} cannot be understood at character {position + 1}: {problem}", position=position
    )


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")
