"""The supervisor keeps the copying process alive, and never waits for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.mirror.address import parse_mirror
from relight.mirror.report import read_mirror_report, set_mirror
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record_or_none
from relight.runs.records import MirrorState
from supervision.conftest import Lab, kill, lives, wait_for

pytestmark = pytest.mark.processes


def _pid(layout: RunLayout) -> int | None:
    state = read_record_or_none(layout.mirror_state, MirrorState)
    return state.process.pid if state is not None and state.process is not None else None


def test_a_copying_process_that_dies_is_started_again_and_ends_with_the_run(lab: Lab, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    layout = lab.launch("train", "10000", mirror=parse_mirror(str(copies))).layout
    first = wait_for(lambda: _pid(layout))
    kill(first)
    second = wait_for(lambda: (pid := _pid(layout)) != first and pid)
    wait_for((copies / layout.run_id / "attempts" / "0001" / "start.json").exists)
    kill(lab.trainer(layout))
    lab.wait_for_exit(layout)
    wait_for(lambda: not lives(second))
    wait_for((copies / layout.run_id / "attempts" / "0001" / "exit.json").exists)
    report = read_mirror_report(layout)
    assert report is not None
    assert (report.copying, report.failure) == (False, None)


def test_a_mirror_that_hangs_delays_neither_the_training_nor_its_end(lab: Lab, tmp_path: Path) -> None:
    layout = lab.launch("train", "12").layout
    set_mirror(layout, parse_mirror(str(tmp_path / "not mounted")))
    assert lab.wait_for_exit(layout).outcome == "finished"
