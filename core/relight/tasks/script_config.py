"""The config that a script passes to `relight.init`: as JSON for the record, and with the values set by a launch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, MutableMapping
from enum import Enum
from pathlib import Path
from typing import Any

from relight.errors import ConfigError, UsageError
from relight.tasks.parsing import nearest_name

SETTINGS = (
    "seed", "max_steps", "max_loss_s", "max_overhead", "checkpoint_every_s", "checkpoint_every_steps", "keep_latest",
    "keep_best", "keep_best_by", "keep_every_steps", "keep_every_hours",
)  # fmt: skip
"""Options of `relight.init` that a launch can also set."""
PREFIX = "relight."
"""Prefix of a key that means the option of `relight.init`, not a key of the script's own config."""

_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_WANTED: tuple[tuple[Any, str], ...] = (
    (bool, "true or false"), (int, "a whole number"), (float, "a number"), ((list, tuple, dict), "JSON"),
    (object, "a value of the same type"),
)  # fmt: skip


def apply_overrides(config: MutableMapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Put the values that the launch sets into `config`, in place, and return those meant for `relight.init` itself.

    Text is converted to the type of the current value. Raises `ConfigError` for a key that neither of them has.
    """
    settings: dict[str, Any] = {}
    for key, value in overrides.items():
        name = key.removeprefix(PREFIX)
        if key in config:
            config[key] = read_as(key, value, like=config[key])
        elif name in SETTINGS:
            settings[name] = value
        else:
            near = nearest_name(key, [*config, *SETTINGS])
            hint = f"did you mean '{near}'?" if near else f"it has {', '.join(config) or 'no key at all'}."
            raise ConfigError(f"The script's config has no '{key}': {hint}")
    return settings


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config as JSON values; anything else becomes text."""
    return {str(key): _plain(value) for key, value in config.items()}


def read_as(key: str, value: Any, *, like: Any) -> Any:
    """Convert text to the type of `like`; if that is None, read it as JSON, else keep it as text.

    A value that is not text is returned unchanged. Raises `ConfigError` when the text cannot be converted.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    try:
        if isinstance(like, bool):
            return _BOOLEANS[text.lower()]
        if isinstance(like, int):
            return int(text)
        if isinstance(like, float):
            return float(text)
        if isinstance(like, Path):
            return type(like)(value)
        if isinstance(like, (list, tuple, dict)):
            return type(like)(json.loads(text))
        if like is None:
            return _read_json(value)
    except (ValueError, KeyError, TypeError):
        wanted = next(words for kinds, words in _WANTED if isinstance(like, kinds))
        raise ConfigError(f"{key}={value} must be {wanted}; the script's own value is {like!r}.") from None
    if isinstance(like, str):
        return value
    raise ConfigError(f"{key} cannot be set at launch: the script's own value is a {type(like).__name__}.")


def _read_json(text: str) -> Any:
    if text.lower() in ("none", "null"):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _plain(value: Any) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(inner) for inner in value)
    return getattr(value, "__name__", None) or str(value)


def as_mapping(config: Any) -> MutableMapping[str, Any]:
    """Return the config as a mapping that can be changed: a dictionary itself, or the attributes of a namespace."""
    if config is None:
        return {}
    if isinstance(config, MutableMapping):
        return config
    if isinstance(config, Mapping):
        return dict(config)
    if hasattr(config, "__dict__"):
        attributes: dict[str, Any] = vars(config)
        return attributes
    raise UsageError(f"relight.init(config=…) takes a dictionary, such as vars(args), not a {type(config).__name__}.")
