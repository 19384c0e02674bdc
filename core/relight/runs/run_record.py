"""What a run trains: `run.json`, and what a script says about itself once it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from relight.errors import DamagedFile
from relight.runs.about import KnownAbout, read_about
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, read_record_or_none
from relight.runs.records import Parent, RunRecord, ScriptRecord

Changes = dict[str, tuple[Any, Any]]
"""(before, after) by config key."""


@dataclass(frozen=True)
class RunDefinition:
    """What a run trains. A script's config is known only once it runs, so it is not in `launched`.

    `record` is complete: `launched` with the name that a person has given it since and, for a script, with what the
    script has said.
    """

    launched: RunRecord
    """`run.json` as the launch wrote it."""
    script: ScriptRecord | None
    """What the newest attempt's script said; None for other tasks, and before a script has said anything."""
    record: RunRecord
    known_about: KnownAbout
    """What a person has written about the run; `record` has its name."""


def read_definition(layout: RunLayout) -> RunDefinition:
    """Read what the run trains; `DamagedFile` when `run.json` is damaged or missing."""
    try:
        launched = read_record(layout.record, RunRecord)
    except FileNotFoundError as error:
        raise DamagedFile(
            f"{str(layout.record)!r} is missing, so it is unknown what run {layout.run_id!r} trains. "
            "Put a copy of it back, or move the folder away."
        ) from error
    script = read_script_record(layout) if launched.task.kind == "script" else None
    record = launched if script is None else _add_script_facts(launched, script)
    known = read_about(layout)
    if known.about.name:
        record = msgspec.structs.replace(record, name=known.about.name)
    return RunDefinition(launched, script, record, known)


def read_run_record(layout: RunLayout) -> RunRecord:
    """Return the complete record of the run; `DamagedFile` when `run.json` is damaged or missing."""
    return read_definition(layout).record


def read_script_record(layout: RunLayout) -> ScriptRecord | None:
    """Return the newest script record that can be read; None when there is none."""
    for number in reversed(layout.list_attempts()):
        found = read_record_or_none(layout.attempt(number).script, ScriptRecord)
        if found is not None:
            return found
    return None


def _add_script_facts(launched: RunRecord, script: ScriptRecord) -> RunRecord:
    parent = launched.parent
    if parent is not None and parent.config is not None:
        parent = msgspec.structs.replace(parent, changes=_add_changes(parent, script.config))
    return msgspec.structs.replace(
        launched,
        config=script.config,
        best_metric=script.best_metric,
        higher_is_better=script.higher_is_better,
        direction_guessed=script.direction_guessed,
        parent=parent,
    )


def _add_changes(parent: Parent, config: Mapping[str, Any]) -> Changes:
    """Return what a branch changed: what the branch itself recorded, and every difference between the two configs."""
    found = compare_configs(parent.config or {}, config)
    return {**{key: pair for key, pair in parent.changes.items() if key not in config}, **found}


def compare_configs(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """Return the keys whose values differ, with both values."""
    keys = sorted({*before, *after})
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}
