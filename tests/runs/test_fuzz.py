"""Fuzz: whatever a run's small files hold, a run is shown, or its one named error. `RELIGHT_FUZZ` sets how many."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relight.errors import DamagedFile
from relight.overview.summary import summarize_run
from relight.runs.layout import RunLayout
from relight.runs.progress import read_progress
from relight.runs.record_file import decode_record, encode_record, read_record
from relight.runs.records import (
    AttemptExit,
    AttemptProcesses,
    AttemptStart,
    ProcessIdentity,
    Record,
    RunRecord,
    SavingState,
    StopRequest,
    TrainerOutcome,
)
from tests.runs.run_builder import RunBuilder, dead_process

COUNT = int(os.environ.get("RELIGHT_FUZZ", "200"))
fuzz = settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck))
KINDS: tuple[type[Record], ...] = (
    AttemptExit, AttemptProcesses, AttemptStart, ProcessIdentity, RunRecord, SavingState, StopRequest, TrainerOutcome,
)  # fmt: skip
_FILES = ("record", "stop_request", "start", "processes", "writer", "saving", "outcome", "exit", "progress")
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    """A run that has every kind of small file."""
    folder = tmp_path_factory.mktemp("fuzz")
    run = RunBuilder.create(folder).finished().outcome("finished", step=100)
    (run.files.writer).write_bytes(encode_record(dead_process()))
    run.layout.stop_request.write_bytes(encode_record(StopRequest(attempt=1, time_s=5.0)))
    return run.layout


def _path(layout: RunLayout, which: str) -> Path:
    return Path(getattr(layout if which in ("record", "stop_request") else layout.attempt(1), which))


@fuzz
@given(
    which=st.sampled_from(_FILES),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6)), max_size=3),
    cut=st.floats(0, 2),
)
def test_a_run_with_any_damage_to_a_small_file_is_shown_or_has_one_named_error(
    layout: RunLayout, which: str, changes: list[tuple[float, bytes]], cut: float
) -> None:
    path = _path(layout, which)
    data = bytearray(path.read_bytes())
    for where, what in changes:
        place = int(where * len(data))
        data[place : place + len(what)] = what
    _show(layout, path, bytes(data[: int(cut * len(data))] if cut < 1 else data))


@fuzz
@given(which=st.sampled_from(_FILES[:-1]), place=st.lists(st.integers(0, 20), min_size=1, max_size=3), new=_JSON)
def test_a_run_with_any_json_in_a_record_is_shown_or_has_one_named_error(
    layout: RunLayout, which: str, place: list[int], new: Any
) -> None:
    path = _path(layout, which)
    _show(layout, path, msgspec.json.encode(_change(msgspec.json.decode(path.read_bytes()), place, new)))


@fuzz
@given(kind=st.sampled_from(KINDS), fields=st.dictionaries(st.sampled_from(["version", "attempt", "run"]), _JSON))
def test_any_json_is_a_record_that_can_be_written_again_or_one_named_error(
    kind: type[Record], fields: dict[str, Any]
) -> None:
    try:
        record = decode_record(msgspec.json.encode(fields), kind, path=Path("x.json"))
    except DamagedFile as error:
        assert "\n" not in str(error)
        return
    assert decode_record(encode_record(record), kind, path=Path("x.json")) == record


def _change(value: Any, place: list[int], new: Any) -> Any:
    if not place or not isinstance(value, dict | list) or not value:
        return new
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[place[0] % len(keys)]
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = _change(value[key], place[1:], new)
    return copy


def _show(layout: RunLayout, path: Path, data: bytes) -> None:
    pristine = path.read_bytes()
    try:
        path.write_bytes(data)
        read_progress(layout.attempt(1).progress)
        try:
            read_record(layout.record, RunRecord)
        except DamagedFile as error:
            assert "\n" not in str(error)
            with pytest.raises(DamagedFile):
                summarize_run(layout)
        else:
            msgspec.json.encode(summarize_run(layout))
    finally:
        path.write_bytes(pristine)
