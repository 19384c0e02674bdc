"""docs/tasks.md lists every config key with its default and its help."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.tasks.built_in import BUILTIN_TASKS
from relight.tasks.config import TaskConfig
from relight.tasks.fields import ConfigField, describe_config

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tasks.md").read_text()


def show_default(field: ConfigField) -> str:
    if field.default is None:
        return ""
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


@pytest.mark.parametrize("field", describe_config(TaskConfig), ids=lambda field: field.name)
def test_every_common_key_is_in_the_table(field: ConfigField) -> None:
    default = f"`{show_default(field)}`" if field.default not in ("", None) else ""
    assert f"| `{field.name}` | {default} | {field.help}" in PAGE


@pytest.mark.parametrize("name", BUILTIN_TASKS)
def test_every_key_of_a_built_in_task_is_in_its_section(name: str) -> None:
    section = PAGE.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    common = {field.name: field for field in describe_config(TaskConfig)}
    for field in describe_config(BUILTIN_TASKS[name].config_class):
        if field.name not in common:
            default = f"`{show_default(field)}`" if field.default != "" else ""
            assert f"| `{field.name}` | {default} | {field.help}" in section
        elif field.default != common[field.name].default:
            assert f"`{field.name}={show_default(field)}`" in section
