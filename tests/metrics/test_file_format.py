"""The bytes of a metric file, exactly; every other byte string is refused by a reason."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.metrics.file_format import (
    MetricFormatError,
    MetricHeader,
    decode_header,
    encode_header,
    metric_file_name,
    parse_file_name,
    split_name,
)
from relight.metrics.writer import MetricWriter

NAMES = st.text(min_size=1, max_size=40)


def test_a_file_is_exactly_these_bytes(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path, stream="train", attempt=3)
    writer.log(7, {"loss": 0.5, "lr": 1e-3}, time_s=1000.25)
    writer.log(8, {"loss": float("nan"), "lr": float("-inf")}, time_s=1000.5)
    writer.close()
    header = (
        b'{"format":"relight-metrics","version":1,"stream":"train","attempt":3,'
        b'"columns":["loss","lr"],"record_bytes":32}'
    )
    expected = header + b" " * (128 - len(header) - 1) + b"\n"
    expected += struct.pack("<qddd", 7, 1000.25, 0.5, 1e-3)
    expected += struct.pack("<qddd", 8, 1000.5, float("nan"), float("-inf"))
    assert (tmp_path / "0003-train.rlm").read_bytes() == expected


@given(stream=NAMES, attempt=st.integers(1, 10**6), columns=st.lists(NAMES, min_size=1, max_size=20, unique=True))
def test_every_header_survives_the_round_trip_on_whole_64_byte_lines(
    stream: str, attempt: int, columns: list[str]
) -> None:
    header = MetricHeader(stream, attempt, tuple(columns))
    data = encode_header(header)
    assert decode_header(data + b"records follow \n") == (header, len(data))
    assert len(data) % 64 == 0
    assert data.count(b"\n") == 1
    assert json.loads(data)["record_bytes"] == 16 + 8 * len(columns)


@given(data=st.binary(max_size=400))
def test_no_bytes_give_anything_but_a_header_or_a_reason(data: bytes) -> None:
    with pytest.raises(MetricFormatError):
        decode_header(data)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "other"}, "its format is 'other'"),
        ({"version": 2}, "later version"),
        ({"record_bytes": 24}, "do not match"),
        ({"columns": "loss"}, "header is not valid"),
        ({"attempt": None}, "header is not valid"),
        ({"attempt": 2**63}, "is not the number of an attempt"),
    ],
)
def test_a_header_that_is_none_of_ours_is_refused_by_a_reason(change: dict[str, object], reason: str) -> None:
    fields = json.loads(encode_header(MetricHeader("train", 1, ("loss", "lr")))) | change
    line = json.dumps(fields).encode()
    with pytest.raises(MetricFormatError, match=reason):
        decode_header(line + b" " * (-(len(line) + 1) % 64) + b"\n")


def test_a_header_off_the_64_byte_grid_is_refused() -> None:
    with pytest.raises(MetricFormatError, match="do not match"):
        decode_header(encode_header(MetricHeader("train", 1, ("loss",))).replace(b" \n", b"\n"))


@given(stream=NAMES, attempt=st.integers(1, 99_999), part=st.integers(1, 99))
def test_every_stream_gets_a_plain_file_name_that_sorts_by_attempt(stream: str, attempt: int, part: int) -> None:
    name = metric_file_name(stream, attempt=attempt, part=part)
    assert len(name) <= 100
    assert name.isascii()
    assert "/" not in name
    known = parse_file_name(name)
    assert known is not None
    assert (known.attempt, known.part) == (attempt, part)


@given(first=NAMES, second=NAMES)
def test_two_streams_never_share_a_file_name(first: str, second: str) -> None:
    same = metric_file_name(first, attempt=1) == metric_file_name(second, attempt=1)
    assert same == (first == second)


def test_usual_names_look_as_one_would_expect() -> None:
    assert metric_file_name("train", attempt=1) == "0001-train.rlm"
    assert metric_file_name("validation", attempt=12, part=2) == "0012-validation.2.rlm"
    assert metric_file_name("a b/c.2", attempt=1) == "0001-a%20b%2Fc%2E2.rlm"


@pytest.mark.parametrize(
    "name", ["train.rlm", "0001-train.rlm.tmp", ".0001-train.rlm", "0001-.rlm", "1-train.rlm", "x"]
)
def test_foreign_names_are_no_metric_files(name: str) -> None:
    assert parse_file_name(name) is None


def test_a_full_name_splits_at_its_first_slash() -> None:
    assert split_name("train/loss") == ("train", "loss")
    assert split_name("train/loss/head") == ("train", "loss/head")
    assert split_name("loss") == ("", "loss")
