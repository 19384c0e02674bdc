"""Fuzzing: reading any store gives a value or one named error. `RELIGHT_FUZZ` sets the number of inputs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relight.checkpoints.digest import state_digest
from relight.checkpoints.manifest import decode_head, decode_manifest
from relight.checkpoints.recovery import find_newest_good, verify_store
from relight.checkpoints.store import CheckpointStore
from relight.checkpoints.typed_json import canonical_json, decode_state, encode_state
from relight.errors import DamagedFile
from tests.checkpoints.snapshots import make_snapshot

COUNT = int(os.environ.get("RELIGHT_FUZZ", "300"))
fuzz = settings(max_examples=COUNT, deadline=None, suppress_health_check=list(HealthCheck))

_tags = st.sampled_from(
    ["$tuple", "$set", "$frozenset", "$dict", "$ordered_dict", "$counter", "$default_dict", "$deque", "$int", "$float",
     "$complex", "$bytes", "$bytearray", "$text", "$tensor", "$enum", "$numpy", "$numpy_scalar", "$other", "$"]
)  # fmt: skip
_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["list", "none", "inf", "nan", "<f4", "|O", "<M8[s]", "AAAA", "os:system", "enum:Enum", "0x1f"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(_tags, inner, min_size=1, max_size=1)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@fuzz
@given(_json)
def test_any_json_is_typed_json_or_gives_one_named_error(tree: Any) -> None:
    data = json.dumps(tree).encode()
    try:
        value = decode_state(data)
        canonical_json(data)
    except DamagedFile:
        return
    try:
        again = encode_state(value)
    except Exception as error:
        raise AssertionError(f"{value!r} was read but cannot be written") from error
    assert encode_state(decode_state(again)) == again


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "checkpoints"
    CheckpointStore(folder).commit(*make_snapshot(1, frozen=20, token="00000000"))
    return folder


def _sign(content: dict[str, Any]) -> bytes:
    content.pop("digest", None)
    body = json.dumps(content, separators=(",", ":")).encode()[:-1] + b",\n"
    return body + b'"digest":"' + xxhash.xxh3_128_hexdigest(body).encode() + b'"}\n'


def _change(value: Any, path: list[int], new: Any) -> Any:
    """Return `value` with the item at `path` replaced by `new`."""
    if not path or not isinstance(value, (dict, list)) or not value:
        return new
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[path[0] % len(keys)]
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = _change(value[key], path[1:], new)
    return copy


@fuzz
@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), _json | st.integers(-(10**30), 10**30))
def test_a_manifest_with_any_content_and_a_valid_digest_is_read_or_gives_one_named_error(
    folder: Path, path: list[int], new: Any
) -> None:
    name = "00000001-s1-00000000.json"
    manifest = folder / "manifests" / name
    pristine = manifest.read_bytes()
    data = _sign(_change(json.loads(pristine), path, new))
    for read in (decode_head, decode_manifest):
        try:
            read(data, file_name=name)
        except DamagedFile:
            pass
    try:
        manifest.write_bytes(data)
        store = CheckpointStore(folder)
        verify_store(store)
        for info in store.list().checkpoints:
            try:
                with store.open(info) as reader:
                    assert reader.environment is not None
                    _ = reader.state
                    for tensor in reader.tensor_names:
                        reader.read(tensor)
                state_digest(reader.manifest)
            except DamagedFile:
                pass
        find_newest_good(store, quarantine=False)
    finally:
        manifest.write_bytes(pristine)


@fuzz
@given(st.binary(max_size=200), st.integers(0, 2000), st.integers(0, 200))
def test_a_manifest_with_any_bytes_in_it_gives_one_named_error(folder: Path, junk: bytes, place: int, cut: int) -> None:
    name = "00000001-s1-00000000.json"
    pristine = (folder / "manifests" / name).read_bytes()
    data = pristine[:place] + junk + pristine[place + cut :]
    if data != pristine:
        with pytest.raises(DamagedFile):
            decode_manifest(data, file_name=name)
