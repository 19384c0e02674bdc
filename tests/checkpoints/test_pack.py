"""Packs have exact bytes, and the safetensors library can read every one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from relight.checkpoints.dtypes import ITEM_BYTES, count_bytes
from relight.checkpoints.pack import lay_out, order_for_pack, plan_pack
from relight.checkpoints.snapshot_header import TensorSpec, check_tensors
from relight.errors import UnsupportedState


def spec(name: str, dtype: str, shape: tuple[int, ...]) -> TensorSpec:
    return TensorSpec(name, dtype, shape, count_bytes(dtype, shape))


_specs = st.lists(
    st.tuples(
        st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__" and name.isprintable()),
        st.sampled_from(sorted(ITEM_BYTES)),
        st.lists(st.integers(0, 4), max_size=3).map(tuple),
    ),
    max_size=8,
    unique_by=lambda entry: entry[0],
).map(lambda entries: [spec(*entry) for entry in entries])


def test_the_bytes_of_a_header_are_those_of_the_frozen_format() -> None:
    plan = plan_pack(
        [spec("w", "F32", (2, 3)), spec("é", "C128", ()), spec("flag", "BOOL", ())], metadata={"format": "pt"}
    )
    text = (
        '{"__metadata__":{"format":"pt"},'
        '"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},'
        '"é":{"dtype":"F64","shape":[2],"data_offsets":[24,40]},'
        '"flag":{"dtype":"BOOL","shape":[],"data_offsets":[40,41]}}'
    ).encode()
    assert plan.header == (4088).to_bytes(8, "little") + text.ljust(4088)
    assert plan.offsets == (4096, 4120, 4136)
    assert plan.bytes == 4137


@given(_specs)
def test_tensors_are_aligned_and_leave_no_gaps(specs: list[TensorSpec]) -> None:
    order = order_for_pack(specs)
    offsets = lay_out(specs)
    plan = plan_pack([specs[i] for i in order], metadata={})
    end = len(plan.header)
    assert end % 4096 == 0
    for i, offset in zip(order, plan.offsets, strict=True):
        assert offset == end == len(plan.header) + offsets[i]
        assert offset % ITEM_BYTES[specs[i].dtype] == 0 or not specs[i].nbytes
        end += specs[i].nbytes
    assert plan.bytes == end


@given(specs=_specs)
def test_the_safetensors_library_opens_every_pack(
    tmp_path_factory: pytest.TempPathFactory, specs: list[TensorSpec]
) -> None:
    ordered = [specs[i] for i in order_for_pack(specs)]
    plan = plan_pack(ordered, metadata={"format": "pt"})
    path = tmp_path_factory.mktemp("pack") / "x.safetensors"
    path.write_bytes(plan.header + bytes(plan.bytes - len(plan.header)))
    with safe_open(path, "np") as opened:
        assert set(opened.keys()) == {entry.name for entry in specs}
        for entry in specs:
            found = opened.get_slice(entry.name).get_shape()
            assert tuple(found) == ((*entry.shape, 2) if entry.dtype == "C128" else entry.shape)


def test_offsets_beyond_four_gigabytes_are_exact() -> None:
    large = [spec(f"layer{i}", "F32", (1 << 30,)) for i in range(5)]
    plan = plan_pack(large, metadata={})
    assert plan.bytes == len(plan.header) + 20 * 2**30
    entries = json.loads(plan.header[8:])
    assert entries["layer4"]["data_offsets"] == [16 * 2**30, 20 * 2**30]


def test_a_hundred_thousand_tiny_tensors_fit_in_one_pack(tmp_path: Path) -> None:
    tiny = [spec(f"model.layers.{i}.scale", "F32", (1,)) for i in range(100_000)]
    ordered = [tiny[i] for i in order_for_pack(tiny)]
    plan = plan_pack(ordered, metadata={})
    path = tmp_path / "x.safetensors"
    values = np.arange(100_000, dtype="<f4")
    path.write_bytes(plan.header + values.tobytes())
    with safe_open(path, "np") as opened:
        for i in (0, 1, 99_999):
            assert opened.get_tensor(ordered[i].name).tolist() == [i]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([spec("a", "F32", (1,)), spec("a", "F32", (1,))], "named 'a'"),
        ([spec("__metadata__", "F32", (1,))], "__metadata__"),
        ([TensorSpec("a", "F128", (1,), 16)], "type F128"),
    ],
)
def test_tensors_that_no_pack_can_hold_are_refused_by_name(tensors: list[TensorSpec], words: str) -> None:
    with pytest.raises(UnsupportedState, match=words):
        check_tensors(tensors)


def test_more_tensors_than_one_header_can_hold_are_refused() -> None:
    many = [spec("x" * 1000 + str(i), "U8", ()) for i in range(96_000)]
    with pytest.raises(UnsupportedState, match="more than one safetensors file"):
        plan_pack(many, metadata={})
