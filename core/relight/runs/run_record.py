"""The record of a run: `run.json`, and what a script adds once it runs (config, meaning of `best`, branch changes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from relight.errors import DamagedFile
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, read_record_if_there
from relight.runs.records import Parent, RunRecord, ScriptRecord

Changes = dict[str, tuple[Any, Any]]


def read_run_record(layout: RunLayout) -> RunRecord:
    """The run's `run.json`, with what a script said of itself since; `DamagedFile` when it is damaged or missing."""
    try:
        return add_script_facts(layout, read_record(layout.record, RunRecord))
    except FileNotFoundError as error:
        raise DamagedFile(
            f"{str(layout.record)!r} is missing, so nobody knows what run {layout.run_id!r} trains. "
            "Put a copy of it back, or move the folder away."
        ) from error


def read_script_record(layout: RunLayout) -> ScriptRecord | None:
    """The newest attempt's record of its script; None when there is none that can be read."""
    for number in reversed(layout.list_attempts()):
        try:
            found = read_record_if_there(layout.attempt(number).script, ScriptRecord)
        except DamagedFile:
            continue
        if found is not None:
            return found
    return None


def add_script_facts(layout: RunLayout, record: RunRecord) -> RunRecord:
    """`record` with what its script has said since: `run.json` was written before. Others come back as they are."""
    if record.task.kind != "script":
        return record
    said = read_script_record(layout)
    if said is None:
        return record
    parent = record.parent
    if parent is not None and parent.config is not None:
        parent = msgspec.structs.replace(parent, changes=add_changes(parent, said.config))
    return msgspec.structs.replace(
        record,
        config=said.config,
        best_metric=said.best_metric,
        higher_is_better=said.higher_is_better,
        parent=parent,
    )


def add_changes(parent: Parent, config: Mapping[str, Any]) -> Changes:
    """What a branch changed, by key: what was written down at the branch, and every difference of the two configs."""
    before = parent.config or {}
    found = compare_configs(before, config)
    return {**{key: pair for key, pair in parent.changes.items() if key not in config}, **found}


def compare_configs(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """The keys whose values differ, with both values."""
    keys = sorted({*before, *after})
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}
