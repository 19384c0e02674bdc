"""From what a person typed, in a terminal or in the form, to a valid config, or to one sentence that says why not."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from relight.errors import ConfigError
from relight.tasks.config import TaskConfig
from relight.tasks.fields import ConfigField, describe_bounds, describe_config

Config = TypeVar("Config", bound=TaskConfig)

_WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "path": "a path"}
_BOUND_ERRORS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "literal_error", "enum"}


def parse_config(config_class: type[Config], values: Mapping[str, Any] | Iterable[str] = ()) -> Config:
    """Build a config from `values`: a mapping, or "KEY=VALUE" strings, of which the last for a key counts.

    Raises `ConfigError` with one sentence that names every unknown key (with the nearest known one), every value out of
    bounds (with the bound) and every value of the wrong type.
    """
    given = dict(values) if isinstance(values, Mapping) else split_assignments(values)
    try:
        config = config_class.model_validate(given)
    except ValidationError as error:
        fields = {field.name: field for field in describe_config(config_class)}
        problems = [_explain(problem, fields) for problem in error.errors(include_url=False)]
        raise ConfigError("; ".join(problems) + ".") from None
    # JSON has no inf or NaN: such a value could not be written down and resumed from.
    infinite = [name for name, value in config if isinstance(value, float) and not math.isfinite(value)]
    if infinite:
        raise ConfigError(
            "; ".join(f"{name}={getattr(config, name)} is not a finite number" for name in infinite) + "."
        )
    return config


def split_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Split "KEY=VALUE" strings; only the first "=" counts, so a value may contain more."""
    values = {}
    for assignment in assignments:
        key, separator, value = assignment.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"'{assignment}' does not set anything: write KEY=VALUE, such as epochs=5.")
        values[key.strip()] = value.strip()
    return values


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` was probably meant to be, if any is near."""
    by_key = {candidate.lower().replace("-", "_"): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower().replace("-", "_"), by_key, n=1, cutoff=0.6)
    return by_key[matches[0]] if matches else None


def _explain(problem: Any, fields: Mapping[str, ConfigField]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    kind, value = problem["type"], problem.get("input")
    field = fields.get(key)
    if kind == "extra_forbidden":
        near = nearest_name(key, fields)
        return f"Unknown key '{key}': " + (f"did you mean '{near}'?" if near else f"the keys are {', '.join(fields)}")
    if kind == "missing":
        return f"'{key}' must be set"
    if field is None:  # a rule of the task's own over several fields
        return _own_words(problem)
    if kind in _BOUND_ERRORS:
        return f"{key}={value} is out of bounds: it must be {describe_bounds(field)}"
    if kind == "string_pattern_mismatch":
        return f"{key}={value} is not valid: {field.help or 'it must match ' + str(field.pattern)}".rstrip(".")
    if kind.startswith(("int", "float", "bool", "string", "finite")) and field.type in _WANTED:
        return f"{key}={value} must be {_WANTED[field.type]}"
    return f"{key}={value}: {_own_words(problem)}"


def _own_words(problem: Any) -> str:
    message = str(problem["msg"])
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ").rstrip(".")
