"""The fields of a task's config as plain records for the launch form and `relight tasks`, read from a JSON schema."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec

from relight.tasks.config import TaskConfig

FieldType = Literal["int", "float", "str", "bool", "choice", "path"]

_TYPES: dict[str, FieldType] = {"integer": "int", "number": "float", "string": "str", "boolean": "bool"}


class ConfigField(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a config: its type, default, help and bounds.

    `minimum` and `maximum` are null where there is no bound; `exclusive_minimum` and `exclusive_maximum` say that the
    bound itself is not allowed. `choices` is empty unless `type` is "choice". `required` keys have no default.
    `nullable` keys also accept null, which people type as "none". Lists and mappings have the type "str" and are
    `structured`: people type them as JSON, and their default is JSON.
    """

    name: str
    type: FieldType
    default: Any = None
    help: str = ""
    group: str = "Task"
    minimum: float | None = None
    maximum: float | None = None
    exclusive_minimum: bool = False
    exclusive_maximum: bool = False
    choices: tuple[Any, ...] = ()
    pattern: str | None = None
    required: bool = False
    nullable: bool = False
    structured: bool = False


def describe_config(config_class: type[TaskConfig]) -> list[ConfigField]:
    """List the fields of `config_class`: first the task's own, then those that every task has."""
    return describe_schema(config_class.model_json_schema())


def describe_schema(schema: dict[str, Any]) -> list[ConfigField]:
    """List the fields of a config from the JSON schema that `TaskConfig.model_json_schema()` returns.

    The schema may come from another process, so the dashboard can draw a task's form without importing the task.
    """
    required = set(schema.get("required", ()))
    fields = [
        _describe_property(name, _resolve(properties, schema), required=name in required)
        for name, properties in schema.get("properties", {}).items()
    ]
    return sorted(
        fields, key=lambda field: field.name in TaskConfig.model_fields
    )  # stable: keeps the order of definition


def describe_bounds(field: ConfigField) -> str:
    """Say which values `field` accepts: "greater than 0 and at most 100"; empty when there is no bound."""
    if field.choices:
        return "one of " + ", ".join(str(choice) for choice in field.choices)
    parts = []
    if field.minimum is not None:
        parts.append(f"{'greater than' if field.exclusive_minimum else 'at least'} {field.minimum:.15g}")
    if field.maximum is not None:
        parts.append(f"{'less than' if field.exclusive_maximum else 'at most'} {field.maximum:.15g}")
    return " and ".join(parts)


def _resolve(properties: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference to `$defs`, and unwrap the part of an optional type that is not null."""
    merged = dict(properties)
    for part in [properties, *properties.get("allOf", ())]:
        if "$ref" in part:
            merged = {**schema.get("$defs", {}).get(part["$ref"].rsplit("/", 1)[-1], {}), **merged}
    if "type" not in merged and "enum" not in merged:
        options = [option for option in merged.get("anyOf", ()) if option.get("type") != "null"]
        if options:
            merged = {**_resolve(options[0], schema), **merged}
    return merged


def _describe_property(name: str, properties: dict[str, Any], *, required: bool) -> ConfigField:
    choices = tuple(properties.get("enum", ()))
    if "const" in properties:
        choices = (properties["const"],)
    kind: FieldType = _TYPES.get(properties.get("type", ""), "str")
    if choices:
        kind = "choice"
    elif properties.get("format") in ("path", "file-path", "directory-path"):
        kind = "path"
    structured = kind == "str" and properties.get("type") in ("array", "object")
    default = properties.get("default")
    exclusive_minimum, exclusive_maximum = properties.get("exclusiveMinimum"), properties.get("exclusiveMaximum")
    return ConfigField(
        name=name,
        type=kind,
        default=json.dumps(default) if structured and default is not None else default,
        help=properties.get("description", ""),
        group=properties.get("group", "Task"),
        minimum=properties.get("minimum") if exclusive_minimum is None else exclusive_minimum,
        maximum=properties.get("maximum") if exclusive_maximum is None else exclusive_maximum,
        exclusive_minimum=exclusive_minimum is not None,
        exclusive_maximum=exclusive_maximum is not None,
        choices=choices,
        pattern=properties.get("pattern"),
        required=required,
        nullable=any(part.get("type") == "null" for part in properties.get("anyOf", ())),
        structured=structured,
    )
