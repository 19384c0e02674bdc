"""The digest at the end of a small JSON file: any change of what is said is noticed, and one may be taken out."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.runs.json_digest import add_digest, has_wrong_digest

TEXT = msgspec.json.format(b'{"version":1,"name":"a","nested":{"digest":"0"}}', indent=2)


def test_the_file_has_exactly_the_documented_bytes() -> None:
    assert add_digest(b'{\n  "version": 1,\n  "step": 46\n}\n') == (
        b'{\n  "version": 1,\n  "step": 46,\n  "digest": "9d5e7d98d5d0643d0426c547c0d7c5f7"\n}\n'
    )


def test_what_is_signed_is_still_json_and_right() -> None:
    signed = add_digest(TEXT)
    assert {**json.loads(TEXT), "digest": json.loads(signed)["digest"]} == json.loads(signed)
    assert not has_wrong_digest(signed)
    assert not has_wrong_digest(TEXT)
    assert add_digest(TEXT + b"\n") == signed


@given(st.integers(0, len(add_digest(TEXT)) * 8 - 1))
def test_every_flipped_bit_in_what_is_said_is_noticed(bit: int) -> None:
    signed = add_digest(TEXT)
    data = bytearray(signed)
    data[bit // 8] ^= 1 << bit % 8
    if bit // 8 < signed.rindex(b",\n"):
        assert has_wrong_digest(bytes(data))


@pytest.mark.parametrize("end", [b"", b'", "more": 1\n}\n', b"}"])
def test_a_digest_that_is_cut_or_not_the_last_key_is_wrong(end: bytes) -> None:
    assert has_wrong_digest(add_digest(TEXT)[:-4] + end)
