"""A source of weights is recognized by its content and hashed. The error for an incomplete one is one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from relight.training.weights.weight_errors import WeightsRefused
from relight.training.weights.weight_source import open_weights
from tests.training.foreign_files import make_net, write_hugging_face

FUZZ = int(os.environ.get("RELIGHT_FUZZ", "150"))
TENSORS = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2, dtype=torch.bfloat16)}


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "weights without an ending", "model.ckpt"])
def test_the_format_is_told_by_what_is_in_the_file(tmp_path: Path, name: str) -> None:
    save_file(TENSORS, tmp_path / name)
    opened = open_weights(tmp_path / name)
    assert opened.format == "safetensors"
    assert torch.equal(opened.tree["w"], TENSORS["w"])
    if not name.endswith(".safetensors"):
        torch.save(TENSORS, tmp_path / name)
        assert open_weights(tmp_path / name).format == "torch.save"


def test_a_file_is_described_by_name_size_and_sha256(tmp_path: Path) -> None:
    path = tmp_path / "größe 1.pth"
    torch.save(TENSORS, path)
    opened = open_weights(path)
    assert opened.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [(file.name, file.bytes) for file in opened.files] == [(path.name, path.stat().st_size)]


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("shards", [0, 3])
def test_a_hugging_face_folder_is_one_set_of_tensors(tmp_path: Path, shards: int, pickled: bool) -> None:
    net = make_net()
    folder = write_hugging_face(tmp_path / "model", net, shards=shards, pickled=pickled)
    opened = open_weights(folder)
    expected = {key: value for key, value in net.state_dict().items() if key != "head.weight"}
    assert opened.tree.keys() == expected.keys()
    assert all(torch.equal(opened.tree[key], value) for key, value in expected.items())
    if not shards:
        assert opened.sha256 == opened.files[0].sha256
        return
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in opened.files)
    assert opened.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert len(opened.files) == shards + 1


def test_files_of_a_folder_may_be_links_as_in_hugging_faces_cache(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "1234"
    blob.parent.mkdir()
    save_file(TENSORS, blob)
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(blob)
    assert open_weights(tmp_path / "snapshot").tree.keys() == TENSORS.keys()


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors", "..", ".", "", "sub/x.bin", "a\\b", "\0"],
)
def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    save_file(TENSORS, tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(WeightsRefused, match=r"outside its own folder|as a file"):
        open_weights(folder)


@pytest.mark.parametrize(
    "index",
    ["", "{", "[]", "[" * 100_000, "{}", '{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": {"w": 1}}',
     '{"weight_map": {"w": ["model.safetensors"]}}'],
)  # fmt: skip
def test_a_broken_index_is_one_sentence(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(WeightsRefused, match="index"):
        open_weights(tmp_path)


def test_shards_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    folder = write_hugging_face(tmp_path / "model", make_net(), shards=2)
    save_file({"other": torch.ones(1)}, folder / "model-00002-of-00002.safetensors")
    with pytest.raises(WeightsRefused, match=r"model-00002-of-00002.safetensors does not hold '.*' and \d more"):
        open_weights(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsRefused, match="There is no file"):
        open_weights(folder)


def test_a_folder_with_one_file_of_weights_is_that_file(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "last.ckpt")
    assert open_weights(tmp_path).tree.keys() == TENSORS.keys()
    torch.save(TENSORS, tmp_path / "best.pth")
    with pytest.raises(WeightsRefused, match=r"It has best\.pth, last\.ckpt: name one"):
        open_weights(tmp_path)


def test_a_folder_without_weights_and_one_of_torch_distributed_say_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match="It has none"):
        open_weights(tmp_path)
    (tmp_path / ".metadata").write_bytes(b"")
    with pytest.raises(WeightsRefused, match="dcp_to_torch"):
        open_weights(tmp_path)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth"])
def test_missing_empty_and_odd_files_are_one_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(WeightsRefused, match="There is no file"):
        open_weights(path)
    path.touch()
    with pytest.raises(WeightsRefused, match=r"is empty\."):
        open_weights(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(WeightsRefused, match="not a regular file"):
        open_weights(path)
    with pytest.raises(WeightsRefused, match="not a regular file"):
        open_weights(Path("/dev/zero"))


@pytest.mark.parametrize(
    "data",
    [b"garbage", b"\x00" * 5000, b"\x89HDF\r\n\x1a\n" + b"\x00" * 100, os.urandom(9000)],
    ids=["text", "zeros", "HDF5", "random"],
)
def test_garbage_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(WeightsRefused, match=name):
            open_weights(tmp_path / name)


def header_of(entries: Any, *, data: bytes = b"", length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (header_of({}, length=1 << 62), "claims a header"),
        (header_of({}, length=99_000_000), "is truncated"),
        (header_of({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}), "complete safet"),
        (header_of({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 4]}}, data=b"0123"), "complete safet"),
        (header_of({"w": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, data=b"0123"), "complete safet"),
        (header_of({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, data=b"0123"), "complete safet"),
        (header_of({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                    "v": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, data=b"0123"), "complete safet"),
        (header_of({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, data=b"012345"), "complete safet"),
        (header_of(b"{" * 1000), "complete safet"),
    ],
)  # fmt: skip
def test_a_safetensors_file_that_lies_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(WeightsRefused, match=said):
        open_weights(tmp_path / "x.safetensors")


SEED = save({"w": torch.arange(6.0), "b": torch.ones(2, dtype=torch.int64)})


@settings(max_examples=FUZZ, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(SEED) - 1), st.binary(max_size=6)), max_size=5),
    cut=st.integers(0, len(SEED)),
)
def test_any_damage_to_a_safetensors_file_ends_in_tensors_or_in_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]], cut: int
) -> None:
    data = bytearray(SEED)
    for place, what in changes:
        data[place : place + len(what)] = what
    path = tmp_path_factory.getbasetemp() / f"fuzz-{os.getpid()}.safetensors"
    path.write_bytes(data[: cut if cut % 3 == 0 else None])
    try:
        opened = open_weights(path)
    except WeightsRefused as refused:
        assert "\n" not in str(refused)
    else:
        assert all(tensor.nbytes <= len(data) for tensor in opened.tree.values())
