"""Records survive the round trip, and every kind of damage is one named error."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relight.errors import ConfigError, DamagedFile
from relight.runs.record_file import decode_record, encode_record, read_record, read_record_if_there, write_record
from relight.runs.records import AttemptExit, RunRecord, StopRequest, TaskReference

RECORD = RunRecord(
    run="digits-k3f9",
    name="digits",
    created_s=1.5,
    task=TaskReference(kind="file", name="spiral.py:Spiral", path="/x y/ü.py", arguments=("--a", "b")),
    config={"lr": 0.1, "sizes": [1, 2], "name": "ü'; echo x"},
)


def test_a_record_survives_the_round_trip(tmp_path: Path) -> None:
    write_record(tmp_path / "run.json", RECORD)
    assert read_record(tmp_path / "run.json", RunRecord) == RECORD


def test_a_config_may_hold_any_number_of_lists_but_not_nested_without_end(tmp_path: Path) -> None:
    config = {"sizes": [[1, "[[{\\"]] * 500, "deep": json.loads("[" * 150 + "]" * 150)}
    record = msgspec.structs.replace(RECORD, config=config)
    write_record(tmp_path / "run.json", record)
    assert read_record(tmp_path / "run.json", RunRecord) == record
    for depth in (250, 5_000):
        deeper: list[object] = []
        for _ in range(depth):
            deeper = [deeper]
        with pytest.raises(ConfigError, match="nested at most 200 levels"):
            encode_record(msgspec.structs.replace(RECORD, config={"deep": deeper}))


def test_a_record_is_json_that_people_can_read(tmp_path: Path) -> None:
    write_record(tmp_path / "run.json", RECORD)
    text = (tmp_path / "run.json").read_text()
    assert text.endswith("}\n")
    assert '\n  "format": "relight-run",\n' in text
    assert json.loads(text)["version"] == 1


def test_a_missing_record_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "run.json", RunRecord)
    assert read_record_if_there(tmp_path / "run.json", RunRecord) is None
    (tmp_path / "file").write_text("")
    assert read_record_if_there(tmp_path / "file" / "run.json", RunRecord) is None


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "it is empty"),
        (b"\0" * 512, "it is empty"),
        (encode_record(RECORD)[:40], "truncated"),
        (b"\x80\xff\x00garbage", "malformed"),
        (b'"\xff\xfe"', "damaged"),
        (b"null", "null"),
        (b"[]", "array"),
        (b"{}", "required"),
        (b'{"version": 1, "format": "something-else"}', "something-else"),
        (b"[" * 100_000, "damaged"),
        (b'{"config": ' * 100_000, "nested"),
        (b'{"config": {"a": ' + b"[" * 201 + b"]" * 201 + b"}}", "nested"),
        (encode_record(RECORD) + b"{}", "damaged"),
    ],
)
def test_damage_names_the_file_what_is_wrong_and_what_to_do(tmp_path: Path, data: bytes, what: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(data)
    with pytest.raises(DamagedFile, match=what) as caught:
        read_record(path, RunRecord)
    assert str(path) in str(caught.value)
    assert "move the file away" in str(caught.value)


def test_a_folder_in_place_of_a_record_is_damage(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(DamagedFile, match=r"run\.json.*directory"):
        read_record(tmp_path / "run.json", RunRecord)


@pytest.mark.parametrize("extra", [{}, {"attempt": "no number any more"}])
def test_a_later_version_asks_for_an_update_even_when_its_fields_changed(tmp_path: Path, extra: dict[str, str]) -> None:
    path = tmp_path / "stop.json"
    path.write_text(json.dumps({"version": 2, "attempt": 1, "time_s": 0.0} | extra))
    with pytest.raises(DamagedFile, match=r"later version.*Update Relight"):
        read_record(path, StopRequest)


def test_unknown_keys_of_this_version_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "stop.json"
    path.write_text('{"version": 1, "attempt": 3, "time_s": 0.0, "color": "blue"}')
    assert read_record(path, StopRequest).attempt == 3


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(data=st.binary(max_size=300))
def test_no_bytes_make_anything_but_a_record_or_a_damaged_file(data: bytes) -> None:
    try:
        decode_record(data, AttemptExit, path=Path("exit.json"))
    except DamagedFile:
        pass


@given(cut=st.integers(min_value=0, max_value=len(encode_record(RECORD)) - 3))
def test_every_truncation_is_noticed(cut: int) -> None:
    with pytest.raises(DamagedFile):
        decode_record(encode_record(RECORD)[:cut], RunRecord, path=Path("run.json"))
