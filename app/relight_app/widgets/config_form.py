"""A task's config as a form: one widget for each option, in groups, with changed values marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from relight.tasks.fields import ConfigField
from relight.tasks.reference import TaskDescription
from relight_app.browser_session import widget_values
from relight_app.formats import describe_option
from relight_app.launch_form import GROUPS, explain_field, first_value, group_fields, label_field, step_of

_OPEN_GROUPS = GROUPS[:2]
"""The groups of the task and its optimization; the others are folded."""


def show_config_form(
    task: TaskDescription, given: Mapping[str, Any], *, key: str = "config", mark: bool = False
) -> dict[str, Any]:
    """Draw every option of `task` and return the values. They start with the `given` ones, else with the defaults.

    With `mark`, each value that differs from its first value shows that one below.
    """
    values: dict[str, Any] = {}
    for group, fields in group_fields(task.fields).items():
        if group in _OPEN_GROUPS:
            with st.container(border=True, key=f"group-{group}"):
                st.header(group, anchor=False)
                values |= _show_group(task, fields, given, key=key, mark=mark)
        else:
            with st.expander(group):
                values |= _show_group(task, fields, given, key=key, mark=mark)
    return values


def read_config_form(task: TaskDescription, *, key: str = "config") -> dict[str, Any]:
    """Read what the form holds now: a press can bring values that the page has not been drawn with yet."""
    held = widget_values()
    return {field.name: held[field_key(field, task.name, key=key)] for field in task.fields}


def field_key(field: ConfigField, task: str, *, key: str = "config") -> str:
    """Return the key of the field's widget."""
    return f"{key}-{task}-{field.name}"


def _show_group(
    task: TaskDescription, fields: Sequence[ConfigField], given: Mapping[str, Any], *, key: str, mark: bool
) -> dict[str, Any]:
    values = {}
    with st.grid(4, min_column_width=140, gap="medium" if mark else "small"):
        for field in fields:
            first = first_value(field, given=given)
            if not mark:
                values[field.name] = _show_field(field, first, field_key(field, task.name, key=key))
                continue
            name = field_key(field, task.name, key=key)
            with st.container(gap=None, key=f"mark-{name}"):
                values[field.name] = _show_field(field, first, name)
                if values[field.name] != first and (values[field.name] or first):
                    st.caption(f"**changed**, was {describe_option(first)}")  # page.css gives it no height
    return values


def _show_field(field: ConfigField, value: Any, key: str) -> Any:
    """Draw one widget. It takes any number: the engine checks the bounds, with the command line's messages."""
    label, help_text = label_field(field), explain_field(field)
    if field.type == "choice":
        index = field.choices.index(value) if value in field.choices else 0
        return st.selectbox(label, field.choices, index=index, key=key, help=help_text)
    if field.type == "bool":
        return st.selectbox(
            label, (True, False), index=0 if value else 1, key=key, help=help_text,
            format_func=lambda on: "Yes" if on else "No",
        )  # fmt: skip
    if field.type in ("int", "float"):
        return st.number_input(
            label, value=value, step=step_of(field), format="%d" if field.type == "int" else "%g", key=key,
            help=help_text,
        )  # fmt: skip
    return st.text_input(label, value=value or "", key=key, help=help_text, placeholder=str(field.default or ""))
