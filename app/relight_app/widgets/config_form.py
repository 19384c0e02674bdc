"""A task's config as a form: one widget for each option, in groups; what was changed is marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from relight.tasks.fields import ConfigField
from relight.tasks.reference import TaskDescription
from relight_app.browser_session import widget_values
from relight_app.launch_form import explain_field, first_value, group_fields, label_field, show_value, step_of

_OPEN_GROUPS = ("Task", "Optimisation")


def show_config_form(
    task: TaskDescription, given: Mapping[str, Any], *, key: str = "config", mark: bool = False
) -> dict[str, Any]:
    """Draw every option of `task`, beginning with what is `given`, and return the values.

    `mark` says below each value that is no longer the given one what that was.
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
    """What the form holds now: with a press may have come values that the page was not drawn with yet."""
    held = widget_values()
    return {field.name: held[field_key(field, task.name, key=key)] for field in task.fields}


def field_key(field: ConfigField, task: str, *, key: str = "config") -> str:
    """The widget's key."""
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
                    st.caption(f"**changed**, was {show_value(first)}")  # page.css gives it no height
    return values


def _show_field(field: ConfigField, value: Any, key: str) -> Any:
    """One widget. It takes any number: what is out of bounds is told by the engine, in the command line's words."""
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
