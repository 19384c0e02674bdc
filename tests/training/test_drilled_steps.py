"""A trainer obeys a drill's order in the drill's own folder, for its own attempt, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from relight.runs.layout import RunLayout
from relight.runs.record_file import write_record
from relight.runs.records import DrillOrder
from relight.training.drilled_steps import DrilledSteps, read_drill_order


@pytest.mark.parametrize(
    ("folder", "attempt", "obeyed"), [(".drill-a1", 2, True), (".drill-a1", 1, False), ("runs", 2, False)]
)
def test_only_the_ordered_attempt_of_a_drill_obeys(tmp_path: Path, folder: str, attempt: int, obeyed: bool) -> None:
    layout = RunLayout(tmp_path / folder / "killed-abcd")
    layout.folder.mkdir(parents=True)
    assert read_drill_order(layout, attempt) is None
    order = DrillOrder(attempt=2, checkpoint_step=3, kill_step=4)
    write_record(layout.drill, order)
    assert read_drill_order(layout, attempt) == (order if obeyed else None)


@pytest.mark.parametrize("text", ["", "{", '{"version": 99}'])
def test_a_damaged_order_is_none(tmp_path: Path, text: str) -> None:
    layout = RunLayout(tmp_path / ".drill-a1" / "killed-abcd")
    layout.folder.mkdir(parents=True)
    layout.drill.write_text(text)
    assert read_drill_order(layout, 1) is None


def test_a_training_that_takes_long_ends_at_a_step_and_not_in_what_follows_it() -> None:
    cutter: Any = None
    steps = DrilledSteps(DrillOrder(end_step=100, end_after_s=1e-9), cutter)
    for step in range(1, 6):
        steps.pass_edge(step)
    assert steps.find_end(5) is None, "in its first steps no training is long"
    assert steps.find_end(6) is None, "a validation is not where another attempt would end"
    steps.pass_edge(6)
    stop = steps.find_end(6)
    assert stop is not None and stop.save
