"""Tensors of every type and layout are copied to the staging memory as contiguous bytes."""

from __future__ import annotations

import pytest
import torch

from relight.checkpoints.snapshot_header import check_tensors
from relight.training.state.snapshot import copy_tensors, describe_tensors
from relight.training.state.state_tree import DTYPE_NAMES

BASE = torch.arange(48).reshape(2, 3, 8)


@pytest.mark.parametrize("dtype", DTYPE_NAMES, ids=DTYPE_NAMES.values())
def test_every_type_is_copied_byte_for_byte(dtype: torch.dtype) -> None:
    tensor = BASE.to(torch.uint8).repeat(1, 1, 16).view(dtype) if dtype is not torch.bool else BASE % 2 == 0
    assert _staged(tensor) == bytes(tensor.reshape(-1).view(torch.uint8).tolist())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(1.5),
        torch.empty(0, 3),
        torch.randn(4, 5).t(),
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.randn(8)[::2],
        torch.randn(1).expand(5),
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.randn(3, dtype=torch.complex64).conj().imag,
        torch.nn.Parameter(torch.randn(3)),
    ],
    ids=["0-d", "empty", "transposed", "channels last", "strided", "expanded", "conj", "neg", "parameter"],
)
def test_every_layout_is_copied_row_by_row(tensor: torch.Tensor) -> None:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    assert _staged(tensor) == bytes(plain.reshape(-1).view(torch.uint8).tolist())


def test_misaligned_memory_is_filled_too() -> None:
    tensor = torch.randn(4, 5).t()
    memory = bytearray(tensor.nbytes + 1)
    copy_tensors({"t": tensor}, [memoryview(memory)[1:]])
    assert bytes(memory[1:]) == bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


@pytest.mark.parametrize("threads", [1, 2])
def test_a_large_tensor_is_copied_to_its_last_byte_by_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        tensors = {str(size): torch.randint(256, (size,), dtype=torch.uint8) for size in (4 << 20, (4 << 20) + 4097)}
        memory = {name: bytearray(tensor.nbytes) for name, tensor in tensors.items()}
        copy_tensors(tensors, [memoryview(piece) for piece in memory.values()])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(torch.frombuffer(memory[name], dtype=torch.uint8), tensors[name]) for name in tensors)


def _staged(tensor: torch.Tensor) -> bytes:
    specs = describe_tensors({"t": tensor})
    check_tensors(specs)
    memory = bytearray(specs[0].nbytes)
    copy_tensors({"t": tensor}, [memoryview(memory)])
    return bytes(memory)
