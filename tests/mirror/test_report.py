"""What people read about a copy: what is there, what waits, and why."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from relight.errors import DamagedFile
from relight.mirror.address import parse_mirror
from relight.mirror.report import MirrorReport, read_mirror_report, set_mirror, word_mirror
from relight.overview.summary import summarize_run
from relight.runs.process_identity import current_process
from relight.runs.record_file import write_record
from relight.runs.records import MirrorState
from tests.mirror.conftest import Trained

REPORT = MirrorReport(
    url="s3://b/runs/r", copied_step=1200, copied_s=1000.0, checkpoints=3, waiting_checkpoints=0, waiting_bytes=0,
    failure=None, failing_since_s=None, refused=False, copying=True,
)  # fmt: skip
SINCE = time.mktime((2026, 11, 30, 14, 3, 0, 0, 0, -1))
CASES: list[tuple[dict[str, Any], str]] = [
    ({}, "Copied to s3://b/runs/r up to step 1,200, 14 s ago."),
    ({"copied_step": None, "copied_s": None}, "Nothing has been copied to s3://b/runs/r yet."),
    (
        {"waiting_checkpoints": 1, "waiting_bytes": 1_500_000_000},
        "Copied to s3://b/runs/r up to step 1,200, 14 s ago. 1 checkpoint (1.5 GB) on the way.",
    ),
    (
        {"waiting_checkpoints": 2, "waiting_bytes": 3_100_000_000, "failure": "Connection refused.",
         "failing_since_s": SINCE},
        "Copied to s3://b/runs/r up to step 1,200, 14 s ago. 2 checkpoints (3.1 GB) wait: Connection refused since "
        "30 Nov, 14:03.",
    ),
    (
        {"waiting_checkpoints": 1, "copying": False},
        "Copied to s3://b/runs/r up to step 1,200, 14 s ago. 1 checkpoint is not copied, and no process copies now.",
    ),
    (
        {"waiting_checkpoints": 2, "copying": False, "failure": "Connection refused.", "failing_since_s": SINCE},
        "Copied to s3://b/runs/r up to step 1,200, 14 s ago. 2 checkpoints are not copied: Connection refused since "
        "30 Nov, 14:03.",
    ),
    (
        {"refused": True, "failure": "It is another run.", "waiting_checkpoints": 2},
        "Copied to s3://b/runs/r up to step 1,200, 14 s ago. It is another run.",
    ),
    (
        {"failure": "The checkpoint at step 7 was not copied: it is damaged."},
        "Copied to s3://b/runs/r up to step 1,200, 14 s ago. The checkpoint at step 7 was not copied: it is damaged.",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "sentence"), CASES)
def test_the_state_is_told_in_a_sentence_or_two(
    changes: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "localtime", lambda at=SINCE + 90_000.0, real=time.localtime: real(at))
    assert word_mirror(msgspec.structs.replace(REPORT, **changes), now_s=1014.0) == sentence


def test_a_run_without_a_mirror_has_no_report(trained: Trained) -> None:
    assert read_mirror_report(trained.layout) is None
    assert summarize_run(trained.layout).mirror is None


def test_a_killed_process_does_not_hide_what_waits(trained: Trained) -> None:
    set_mirror(trained.layout, parse_mirror("s3://bucket/runs"))
    info = trained.save(1)
    write = MirrorState(url="s3://bucket/runs", time_s=1.0, process=current_process(), copied_sequence=info.sequence)
    write_record(trained.layout.mirror_state, write)
    report = summarize_run(trained.layout).mirror
    assert report is not None
    assert (report.copying, report.waiting_checkpoints) == (True, 0)
    trained.save(2)
    gone = msgspec.structs.replace(current_process(), start_ticks=1.0)
    write_record(trained.layout.mirror_state, msgspec.structs.replace(write, process=gone))
    report = summarize_run(trained.layout).mirror
    assert report is not None
    assert (report.copying, report.waiting_checkpoints) == (False, 1)


def test_the_state_of_another_place_does_not_count(trained: Trained) -> None:
    write_record(trained.layout.mirror_state, MirrorState(url="/old", time_s=1.0, copied_sequence=9, copied_step=9))
    set_mirror(trained.layout, parse_mirror("s3://bucket/runs"))
    report = read_mirror_report(trained.layout)
    assert report is not None
    assert report.copied_step is None


def test_a_damaged_record_is_a_note_and_hides_nothing(trained: Trained) -> None:
    trained.layout.mirror.write_text("{")
    with pytest.raises(DamagedFile):
        read_mirror_report(trained.layout)
    summary = summarize_run(trained.layout)
    assert summary.mirror is None
    assert "mirror.json" in summary.notes[-1]
