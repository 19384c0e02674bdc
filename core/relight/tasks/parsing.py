"""Turning values typed in a terminal or a form into a valid config, or into messages that say why not."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from relight.errors import ConfigError
from relight.tasks.config import TaskConfig
from relight.tasks.fields import ConfigField, describe_bounds, describe_config

Config = TypeVar("Config", bound=TaskConfig)

_WANTED = {
    "choice": "one of its choices",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "path": "a path",
}
_BOUND_ERRORS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_TYPE_ERRORS = ("int", "float", "bool", "string_type", "path_type")
_SHOWN_AT_MOST = 80


def parse_config(config_class: type[Config], values: Mapping[str, Any] | Iterable[str] = ()) -> Config:
    """Build a config from `values`: a mapping, or "KEY=VALUE" strings, where the last value of a key wins.

    Raises `ConfigError` with one sentence for each unknown key (with the nearest known one), each value out of bounds
    (with the bound) and each value of the wrong type.
    """
    given = dict(values) if isinstance(values, Mapping) else split_assignments(values)
    fields = {field.name: field for field in describe_config(config_class)}
    given = {key: _read_text(value, fields.get(key)) for key, value in given.items()}
    try:
        return config_class.model_validate(given)
    except ValidationError as error:
        sentences = [_explain(problem, fields) for problem in error.errors(include_url=False)]
        raise ConfigError(" ".join(dict.fromkeys(sentences))) from None


def split_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Split "KEY=VALUE" strings at the first "=", so that a value may contain more of them."""
    values = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"'{assignment}' does not set anything: write KEY=VALUE, such as epochs=5.")
        values[key.strip()] = value.strip()
    return values


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to `name`, or None when none is close."""
    by_key = {candidate.lower().replace("-", "_"): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower().replace("-", "_"), by_key, n=1, cutoff=0.6)
    return by_key[matches[0]] if matches else None


def _read_text(value: Any, field: ConfigField | None) -> Any:
    """Convert text where pydantic would not: to null, to a choice that is not text, to a list or mapping."""
    if not isinstance(value, str) or field is None:
        return value
    if field.nullable and value.lower() in ("none", "null"):
        return None
    if field.choices:
        return next((choice for choice in field.choices if str(choice) == value), value)
    if field.structured:
        try:
            return json.loads(value)
        except ValueError:
            raise ConfigError(
                f"{field.name}={_shorten(value)} must be JSON, such as {field.default or '[1, 2]'}."
            ) from None
    return value


def _explain(problem: Any, fields: Mapping[str, ConfigField]) -> str:
    key = str(problem["loc"][0]) if problem["loc"] else ""
    kind, shown = problem["type"], f"{key}={_shorten(problem.get('input'))}"
    field = fields.get(key)
    if kind == "extra_forbidden":
        near = nearest_name(key, fields)
        return f"Unknown key '{key}': " + (f"did you mean '{near}'?" if near else f"the keys are {', '.join(fields)}.")
    if field is None:  # a validator of the task that checks several fields together
        return f"{_own_words(problem)}."
    if kind == "missing":
        return f"'{key}' must be set: {field.help or 'it has no default'}".rstrip(".") + "."
    if field.choices:
        near = nearest_name(str(problem.get("input")), map(str, field.choices))
        return f"{shown} is not valid: it must be {describe_bounds(field)}." + (
            f" Did you mean '{near}'?" if near else ""
        )
    if kind in _BOUND_ERRORS and len(problem["loc"]) == 1:
        return f"{shown} is out of bounds: it must be {describe_bounds(field)}."
    if kind == "string_pattern_mismatch":
        return f"{shown} is not valid: {field.help or f'it must match {field.pattern}'}".rstrip(".") + "."
    if kind == "finite_number":
        return f"{shown} must be a finite number."
    if kind.startswith(_TYPE_ERRORS) and not field.structured:
        return f"{shown} must be {_WANTED[field.type]}{' or none' if field.nullable else ''}."
    return f"{shown}: {_own_words(problem)}."


def _shorten(value: Any) -> str:
    shown = str(value).lower() if isinstance(value, bool) or value is None else str(value)
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown)
    return shown if len(shown) <= _SHOWN_AT_MOST else shown[:_SHOWN_AT_MOST] + "…"


def _own_words(problem: Any) -> str:
    message = str(problem["msg"])
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ").rstrip(".")
