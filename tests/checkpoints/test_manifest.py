"""The manifest has exact bytes, and no change of a byte goes unnoticed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from relight.checkpoints.manifest import (
    VERSION,
    LaterVersion,
    Manifest,
    PackEntry,
    TensorEntry,
    decode_head,
    decode_manifest,
    encode_manifest,
    encode_metrics,
)
from relight.checkpoints.typed_json import encode_state
from relight.errors import DamagedCheckpoint

NAME = "00000012-s400-1a2b3c4d.json"
GOLDEN = Path(__file__).parent / "data" / "format-1" / "manifest.json"


def make_manifest() -> Manifest:
    return Manifest(
        name="00000012-s400-1a2b3c4d",
        sequence=12,
        step=400,
        epoch=3,
        attempt=2,
        reason="periodic",
        time_s=1700000000.5,
        parent="00000011-s300-00000000",
        metrics=encode_metrics({"train/loss": 0.25, "validation/accuracy": float("nan")}),
        score=None,
        tensor_bytes=10,
        packs=(
            PackEntry("00000012-s400-1a2b3c4d.safetensors", 4104, 4096, "0" * 32),
            PackEntry("00000001-s100-ffffffff.safetensors", 8194, 8192, "1" * 32),
        ),
        environment=msgspec.Raw(b'{"torch":"2.13.0"}'),
        tensors=(
            TensorEntry("model.w", "F32", (2, 1), 0, 4096, 8, "2" * 32),
            TensorEntry("model.b", "U8", (2,), 1, 8192, 2, "3" * 32),
            TensorEntry("model.none", "F32", (0, 5), -1, 0, 0, "4" * 32),
        ),
        state=msgspec.Raw(encode_state({"step": 400, "milestones": {30: 1}})),
    )


def test_the_bytes_of_a_manifest_are_those_of_the_frozen_format() -> None:
    assert encode_manifest(make_manifest()) == GOLDEN.read_bytes()


def test_a_manifest_comes_back_as_it_went_in() -> None:
    data = encode_manifest(make_manifest())
    manifest = decode_manifest(data, file_name=NAME)
    assert encode_manifest(manifest) == data
    head = decode_head(data, file_name=NAME)
    assert (head.sequence, head.step, head.packs) == (12, 400, manifest.packs)
    assert head.read_metrics()["train/loss"] == 0.25


def test_any_json_tool_reads_a_manifest_and_its_digest_comes_last() -> None:
    import json

    data = encode_manifest(make_manifest())
    assert list(json.loads(data))[-1] == "digest"


def test_every_changed_bit_of_a_manifest_is_found() -> None:
    data = encode_manifest(make_manifest())
    for place in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            for read in (decode_manifest, decode_head):
                with pytest.raises(DamagedCheckpoint):
                    read(bytes(changed), file_name=NAME)


def test_every_truncated_manifest_is_found() -> None:
    data = encode_manifest(make_manifest())
    for length in range(len(data)):
        with pytest.raises(DamagedCheckpoint):
            decode_manifest(data[:length], file_name=NAME)
    with pytest.raises(DamagedCheckpoint):
        decode_manifest(data + b"\n", file_name=NAME)


def test_a_manifest_under_another_name_is_not_a_checkpoint() -> None:
    data = encode_manifest(make_manifest())
    for name in ("00000013-s400-1a2b3c4d.json", "00000012-s401-1a2b3c4d.json", "00000012-s400-1a2b3c4e.json"):
        with pytest.raises(DamagedCheckpoint, match="renamed or copied"):
            decode_manifest(data, file_name=name)


def test_a_later_version_is_not_called_damaged() -> None:
    later = msgspec.structs.replace(make_manifest(), version=VERSION + 1)
    with pytest.raises(LaterVersion, match="later Relight"):
        decode_manifest(encode_manifest(later), file_name=NAME)
    with pytest.raises(LaterVersion, match="later Relight"):
        decode_head(encode_manifest(later), file_name=NAME)


@pytest.mark.parametrize(
    "entry",
    [
        TensorEntry("w", "F32", (2,), 2, 4096, 8, ""),
        TensorEntry("w", "F32", (2,), -1, 4096, 8, ""),
        TensorEntry("w", "F32", (2,), 0, 4095, 8, ""),
        TensorEntry("w", "F32", (2,), 0, 4097, 8, ""),
        TensorEntry("w", "F32", (3,), 0, 4096, 8, ""),
        TensorEntry("w", "F99", (2,), 0, 4096, 8, ""),
        TensorEntry("w", "F32", (-2, -1), 0, 4096, 8, ""),
    ],
)
def test_a_tensor_outside_its_pack_is_damage_even_if_the_digest_matches(entry: TensorEntry) -> None:
    data = encode_manifest(msgspec.structs.replace(make_manifest(), tensors=(entry,)))
    with pytest.raises(DamagedCheckpoint, match="where tensor"):
        decode_manifest(data, file_name=NAME)


@pytest.mark.parametrize("file", ["../../secret.safetensors", "/etc/passwd", "weights.safetensors", ""])
def test_a_manifest_cannot_name_a_file_outside_its_store(file: str) -> None:
    data = encode_manifest(msgspec.structs.replace(make_manifest(), packs=(PackEntry(file, 8192, 4096, ""),)))
    with pytest.raises(DamagedCheckpoint, match="not the name of a pack"):
        decode_manifest(data, file_name=NAME)
