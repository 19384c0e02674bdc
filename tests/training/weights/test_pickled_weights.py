"""Reading a .pth runs no code. The error for a harmful, damaged or endless file is one sentence."""

from __future__ import annotations

import argparse
import collections
import enum
import functools
import io
import os
import pickle
import pickletools
import resource
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relight.training.weights import pickled_weights
from relight.training.weights.found_weights import find_weights
from relight.training.weights.pickled_weights import Skipped, list_tensors, read_pickled
from relight.training.weights.weight_errors import WeightsRefused
from relight.training.weights.weight_source import open_weights
from tests.training.foreign_files import harmful_calls, make_net, usual_checkpoint, write_archive

FUZZ = int(os.environ.get("RELIGHT_FUZZ", "150"))


@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all inputs: making 100,000 folders would take longer than the tests."""
    return tmp_path_factory.mktemp("fuzz")


def saved(tree: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(tree, buffer, **options)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path, zipped: bool) -> None:
    tree = usual_checkpoint(make_net())
    path = write(tmp_path / "a 0'.pth", saved(tree, _use_new_zipfile_serialization=zipped))
    read = read_pickled(path).tree
    assert read["epoch"] == 12
    for key, value in tree["model_state_dict"].items():
        assert torch.equal(read["model_state_dict"][key], value), key
    assert isinstance(read["best_acc"], Skipped)


def test_settings_beside_the_weights_are_skipped_without_running_their_code(tmp_path: Path) -> None:
    settings_ = {"args": argparse.Namespace(lr=1), "where": Path("x"), "dtype": np.dtype("f4"), "all": np.ones(3)}
    path = write(tmp_path / "x.pth", saved({"model": {"w": torch.ones(2)}, **settings_}))
    read = read_pickled(path).tree
    assert torch.equal(read["model"]["w"], torch.ones(2))
    assert all(isinstance(read[name], Skipped) for name in settings_)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("call", sorted(harmful_calls(Path())))
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, call: str, zipped: bool) -> None:
    mark = tmp_path / "it ran"
    tree = {"state_dict": make_net().state_dict(), "extra": harmful_calls(mark)[call]}
    path = write(tmp_path / "x.pth", saved(tree, _use_new_zipfile_serialization=zipped))
    with pytest.raises(WeightsRefused) as refused:
        read_pickled(path)
    said = str(refused.value)
    assert "\n" not in said and "x.pth" in said
    assert "is malicious: loading it would run" in said or "would run code" in said
    assert not mark.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_bare_pickle_is_refused_and_runs_nothing(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "it ran"
    for name, call in harmful_calls(mark).items():
        path = write(tmp_path / "x.pt", pickle.dumps({"w": [1.0], "x": call}, protocol))
        with pytest.raises(WeightsRefused, match=r"x\.pt is (malicious|a pickle)"):
            read_pickled(path)
        assert not mark.exists(), name
    with pytest.raises(WeightsRefused, match=r"is a pickle, but not from torch\.save"):
        read_pickled(write(tmp_path / "y.pt", pickle.dumps({"w": [1.0]}, protocol)))


@pytest.mark.parametrize("hidden", ["stack", "extension"])
def test_names_that_are_put_together_while_reading_are_refused(tmp_path: Path, hidden: str) -> None:
    code = b"\x80\x04\x8c\x05posix\x8c\x06system\x93." if hidden == "stack" else b"\x80\x02\x82\x01."
    with pytest.raises(WeightsRefused, match="would run 'posix.system'" if hidden == "stack" else "hides the names"):
        read_pickled(write_archive(tmp_path / "x.pth", code))


class Outer:
    class Kind(enum.Enum):
        A = "a"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "setting",
    [
        functools.partial(torch.optim.Adam, lr=1e-3),
        Outer.Kind.A,
        torch.nn.CrossEntropyLoss(),
        torch.nn.functional.relu,
        torch.optim.Adam,
        collections.UserDict(a=1),
    ],
    ids=["partial", "nested enum", "loss module", "function", "class", "own dictionary"],
)
def test_objects_beside_the_weights_are_skipped_without_running_their_code(
    tmp_path: Path, setting: object, zipped: bool
) -> None:
    tree = {"state_dict": {"w": torch.ones(2)}, "setting": setting}
    path = write(tmp_path / "x.pth", saved(tree, _use_new_zipfile_serialization=zipped))
    if isinstance(setting, torch.nn.Module) and not zipped:  # this format stores the module's source code
        with pytest.raises(WeightsRefused, match="holds a whole model in PyTorch's format before 1"):
            open_weights(path)
        return
    found = find_weights(open_weights(path))
    assert torch.equal(found.tensors["w"], torch.ones(2))
    assert "setting" in found.not_taken


def test_a_whole_model_says_to_save_its_weights(tmp_path: Path) -> None:
    for tree in (torch.nn.Linear(2, 2), {"model": torch.nn.Linear(2, 2), "epoch": 3}):
        path = write(tmp_path / "x.pth", saved(tree))
        said = r"holds a whole model.*'torch\.nn\..*torch\.save\(model\.state_dict\(\), FILE\)"
        with pytest.raises(WeightsRefused, match=said):
            find_weights(open_weights(path))


def test_arrays_and_numbered_tensors_say_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match="holds NumPy arrays, not tensors"):
        find_weights(open_weights(write(tmp_path / "x.pth", saved({"model": {"w": np.ones(3)}}))))
    with pytest.raises(WeightsRefused, match="numbers its tensors"):
        find_weights(open_weights(write(tmp_path / "x.pth", saved({0: torch.ones(3)}))))


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_later_pickle_protocol_is_named_as_the_reason(tmp_path: Path, protocol: int) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=1)}, tmp_path / "x.pth",
               pickle_protocol=protocol)  # fmt: skip
    with pytest.raises(WeightsRefused, match=rf"saved with pickle_protocol={protocol}.*save it again without"):
        read_pickled(tmp_path / "x.pth")


def test_an_archive_with_two_parts_of_one_name_is_refused_without_pytorchs_advice(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pth", saved({"w": torch.ones(2)}))
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("x/data/0" if "x/data/0" in archive.namelist() else archive.namelist()[0], b"12345678")
    with pytest.raises(WeightsRefused, match="two parts named") as refused:
        read_pickled(path)
    assert "weights_only" not in str(refused.value)


def test_a_large_file_of_zeros_is_refused_before_it_is_hashed(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with path.open("wb") as file:
        file.truncate(200 << 30)  # sparse: hashing it would take minutes
    with pytest.raises(WeightsRefused, match="neither a torch"):
        open_weights(path)


def test_a_torchscript_program_says_to_save_its_weights(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "x.pt", pickle.dumps({}, 2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/code/net.py", "")
    with pytest.raises(WeightsRefused, match="TorchScript"):
        read_pickled(path)


def test_sparse_tensors_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pth", saved({"w": torch.eye(3).to_sparse()}))
    with pytest.raises(WeightsRefused, match="sparse"):
        read_pickled(path)


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    data = bytearray(saved({"w": torch.arange(1000.0)}))
    data[data.index(struct.pack("<3f", 500, 501, 502))] ^= 1
    with pytest.raises(WeightsRefused, match="does not match its checksum"):
        read_pickled(write(tmp_path / "x.pth", bytes(data)))


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = write(tmp_path / "x.pth", saved({"w": torch.arange(1000.0)}))
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(read_pickled(path).tree["w"], torch.arange(1000.0))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, zipped: bool) -> None:
    data = saved({"w": torch.arange(300.0), "b": torch.ones(5)}, _use_new_zipfile_serialization=zipped)
    for length in range(0, len(data), 97):
        with pytest.raises(WeightsRefused, match=r"x\.pth"):
            read_pickled(write(tmp_path / "x.pth", data[:length]))


def test_a_zip_that_could_unpack_to_any_size_is_refused_unread(tmp_path: Path) -> None:
    bomb = pickle.dumps({"w": "0" * 50_000_000}, 2)
    path = write_archive(tmp_path / "x.pth", bomb, compress=True)
    assert path.stat().st_size < 100_000
    with pytest.raises(WeightsRefused, match="compressed zip file"):
        read_pickled(path)


def test_a_zip_that_is_none_of_torch_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(WeightsRefused, match=r"no data\.pkl"):
        read_pickled(tmp_path / "x.pth")


def doubling_pickle(times: int) -> bytes:
    """Return a pickle that encodes a string as hex repeatedly. Each time it gets twice as long."""
    encode = b"c_codecs\nencode\n"
    start = encode + b"X\x10\x00\x00\x00" + b"a" * 16 + b"X\x06\x00\x00\x00latin1\x86R"
    code = start
    for _ in range(times):
        code = encode + code + b"X\x03\x00\x00\x00hex\x86R"
    return b"\x80\x02" + code + b"."


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory limit is Linux's")
@pytest.mark.parametrize("bomb", ["hex", "tensor", "bytes"])
def test_a_small_file_cannot_ask_for_much_memory(tmp_path: Path, bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled_weights, "_SPARE_BYTES", 64 << 20)
    big = b"\x8a\x05" + (1 << 36).to_bytes(5, "little")
    code = {
        "hex": doubling_pickle(40),
        "tensor": b"\x80\x02ctorch\nTensor\n" + big + b"\x85R.",
        "bytes": b"\x80\x02c__builtin__\nbytearray\n" + big + b"\x85R.",
    }[bomb]
    assert pickletools.dis(code, io.StringIO()) is None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WeightsRefused, match=r"far more memory|malicious"):
        read_pickled(write_archive(tmp_path / "x.pth", code))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY


def test_a_file_that_keeps_its_reader_busy_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled_weights, "_CPU_S", 0.2)
    code = b"\x80\x02]" + b"q\x00" + b"h\x00K\x01a" * 600_000 + b"."
    with pytest.raises(WeightsRefused, match="takes far longer to read"):
        read_pickled(write_archive(tmp_path / "x.pth", code))


def test_a_tensor_that_claims_its_neighbours_bytes_is_refused(tmp_path: Path) -> None:
    data = saved({"a": torch.arange(64.0), "b": torch.arange(64.0)})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        code = archive.read("archive/data.pkl")
        parts = {name.rpartition("/")[2]: archive.read(name) for name in archive.namelist() if "/data/" in name}
    assert code.count(b"K@") == 4  # the number of elements of each storage, and the size of each tensor
    wrong = code.replace(b"K@", b"K\x48", 1)
    with pytest.raises(WeightsRefused, match="the size of a tensor does not match"):
        read_pickled(write_archive(tmp_path / "x.pth", wrong, parts=parts))
    assert len(list(list_tensors(read_pickled(write_archive(tmp_path / "y.pth", code, parts=parts)).tree))) == 2


def test_a_tree_that_contains_itself_is_walked_once() -> None:
    tree: dict[str, Any] = {"w": torch.ones(1)}
    tree["again"] = [tree, (tree,)]
    assert len(list(list_tensors(tree))) == 1


SEEDS = [saved(usual_checkpoint(make_net())), saved({"w": torch.ones(3)}, _use_new_zipfile_serialization=False)]


@settings(max_examples=FUZZ, deadline=None)
@example(seed=SEEDS[0], changes=[(0.996413016716876, b"\0\0\0\0\0\x02")], cut=1.0)  # a zip that spans several disks
@example(seed=SEEDS[0], changes=[(0.9942697773552022, b"\x1a")], cut=1.0)  # parts that begin before the file does
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=8)), max_size=6),
    cut=st.floats(0.5, 1),
)
def test_any_damage_ends_in_tensors_or_in_one_sentence(
    fuzz_folder: Path, seed: bytes, changes: list[tuple[float, bytes]], cut: float
) -> None:
    data = bytearray(seed)
    for where, what in changes:
        place = int(where * len(data))
        data[place : place + len(what)] = what
    try_to_read(fuzz_folder, bytes(data[: int(cut * len(data))] if cut < 0.9 else data))


OPCODES = b"".join(op.code.encode("latin1") for op in pickletools.opcodes)
GLOBALS = [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n",
           b"ctorch\nTensor\n", b"c_codecs\nencode\n", b"cnumpy\ndtype\n", b"cposix\nsystem\n"]  # fmt: skip


@settings(max_examples=FUZZ, deadline=None)
@given(
    pieces=st.lists(
        st.sampled_from([*GLOBALS, b"X\x07\x00\x00\x00storage", b"Q", b"(", b"t", b"R", b"}", b"s", b"u", b"q\x00"])
        | st.sampled_from(OPCODES).map(lambda code: bytes([code]))
        | st.binary(max_size=6),
        max_size=40,
    )
)
def test_any_pickle_ends_in_a_tree_or_in_one_sentence(fuzz_folder: Path, pieces: list[bytes]) -> None:
    path = fuzz_folder / "x.pth"
    write_archive(path, b"\x80\x02" + b"".join(pieces) + b".", parts={"0": bytes(16)})
    try_to_read(fuzz_folder, path.read_bytes())


def try_to_read(folder: Path, data: bytes) -> None:
    path = folder / "x.pth"
    path.write_bytes(data)
    try:
        for tensor in list_tensors(read_pickled(path).tree):
            assert tensor.numel() >= 0
    except WeightsRefused as refused:
        assert "\n" not in str(refused)
