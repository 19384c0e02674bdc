"""Tensors of every type and layout are copied to the staging memory as contiguous bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from relight.checkpoints.snapshot_header import check_tensors
from relight.training.state.snapshot import DeviceCopies, copy_tensors, describe_tensors, side_stream
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


class Device:
    """A CUDA device whose copies arrive when the test says so."""

    def __init__(self) -> None:
        self.queued = self.arrived = 0

    def make_event(self, **_: object) -> Any:
        at = self.queued

        def synchronize() -> None:
            self.arrived = max(self.arrived, at)

        return SimpleNamespace(query=lambda: self.arrived >= at, synchronize=synchronize)

    def make_stream(self, _: torch.device) -> Any:
        def synchronize() -> None:
            self.arrived = self.queued

        return SimpleNamespace(wait_stream=lambda _: None, record_event=lambda _: None, synchronize=synchronize)

    @contextmanager
    def use(self, _: object) -> Iterator[None]:
        yield
        self.queued += 1


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    fake = Device()
    side_stream.cache_clear()
    for name, value in {
        "Event": fake.make_event, "Stream": fake.make_stream, "stream": fake.use, "current_stream": lambda _: None
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    yield fake
    side_stream.cache_clear()


def test_copies_from_a_device_are_reported_when_they_have_arrived(device: Device) -> None:
    told: list[tuple[int, int]] = []
    with DeviceCopies(lambda count: told.append((count, device.arrived))) as copies:
        copies.tell(1)  # one tensor from the CPU
        assert told == [(1, 0)]
        for count in (2, 3, 4):
            copies.queue(torch.empty(4, dtype=torch.uint8), torch.zeros(1))
            copies.tell(count)
        assert told == [(1, 0)]
        device.arrived = 2
        copies.tell(5)  # another one from the CPU, behind those from the device
        assert told == [(1, 0), (2, 2), (3, 2)]
        copies.queue(torch.empty(4, dtype=torch.uint8), torch.zeros(1))
    assert told[3:] == [(4, 3), (5, 3)] and device.arrived == device.queued == 4


def test_no_copy_is_under_way_after_an_error(device: Device) -> None:
    with pytest.raises(RuntimeError), DeviceCopies(None) as copies:
        copies.queue(torch.empty(4, dtype=torch.uint8), torch.zeros(1))
        copies.queue(torch.empty(5, dtype=torch.uint8), torch.zeros(1))
    assert device.queued == device.arrived == 1


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
