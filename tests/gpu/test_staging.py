"""What arrives in a checkpoint is the state of the step edge, whatever the device does before and after the copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from relight.checkpoints.snapshot_header import SnapshotHeader
from relight.checkpoints.store import CheckpointStore
from relight.checkpoints.writer_client import WriterClient
from relight.training.state.page_locking import find_register
from relight.training.state.snapshot import copy_tensors, describe_tensors
from tests.patience import stretch

pytestmark = [pytest.mark.gpu, pytest.mark.processes]

MB = 1 << 20


@pytest.fixture
def client(tmp_path: Path) -> Iterator[WriterClient]:
    client = WriterClient(tmp_path / "checkpoints")
    yield client
    client.close(timeout_s=stretch(60))


def stage(client: WriterClient, state: dict[str, Tensor], step: int) -> list[memoryview]:
    """Copy a state as a training does, without handing it over yet."""
    header = SnapshotHeader(
        step=step, epoch=0, reason="periodic", time_s=1_700_000_000.0 + step, tensors=describe_tensors(state),
        state=None, metrics={},
    )  # fmt: skip
    memory = client.stage(header, register=find_register(state.values()))
    copy_tensors(state, memory, on_copied=client.note_copied)
    return memory


def read_bytes(tensor: Tensor) -> Tensor:
    return tensor.cpu().resolve_conj().contiguous().reshape(-1).view(torch.uint8)


def make_state(device: torch.device, nbytes: int) -> dict[str, Tensor]:
    """Make tensors of several layouts, one of them on the CPU."""
    numbers = torch.randn(nbytes // 8, device=device)
    return {
        "plain": numbers,
        "transposed": torch.randn(64, nbytes // 8 // 64, device=device).t(),
        "bf16": numbers[:1001].bfloat16(),
        "conjugated": torch.view_as_complex(numbers[:1000].reshape(-1, 2)).conj(),
        "on the cpu": torch.randn(17),
    }


def test_a_checkpoint_is_not_torn_by_the_steps_around_it(
    tmp_path: Path, device: torch.device, client: WriterClient
) -> None:
    state = make_state(device, 96 * MB)
    factor = torch.randn(2048, 2048, device=device) / 45
    expected: dict[int, dict[str, Tensor]] = {}
    for step in range(1, 5):
        busy = factor
        for _ in range(50 if device.type == "cuda" else 1):
            busy = busy @ factor  # the device is behind when the copy is queued
        for tensor in state.values():
            tensor.add_(step)
        state["plain"].add_(busy.mean())
        stage(client, state, step)
        kept = {name: tensor.clone() for name, tensor in state.items()}
        for tensor in state.values():
            tensor.zero_()  # the next step must not reach the snapshot
        client.submit()
        expected[step] = {name: read_bytes(tensor) for name, tensor in kept.items()}
        for name, tensor in kept.items():
            state[name].copy_(tensor)
        client.drain(stretch(60))
    store = CheckpointStore(tmp_path / "checkpoints")
    found = store.list().checkpoints
    assert found
    for info in found:
        with store.open(info) as reader:
            for name, data in expected[info.step].items():
                assert torch.equal(torch.frombuffer(reader.read(name), dtype=torch.uint8), data), (info.step, name)


def test_memory_that_grows_at_any_address_receives_what_is_copied(device: torch.device, client: WriterClient) -> None:
    for round_ in range(6):
        state = make_state(device, (8 + 24 * round_) * MB)
        memory = stage(client, state, round_)
        for piece, (name, tensor) in zip(memory, state.items(), strict=True):
            assert torch.equal(torch.frombuffer(piece, dtype=torch.uint8), read_bytes(tensor)), (round_, name)
        client.discard()
        del memory, piece


def test_the_pages_are_locked_until_the_memory_is_closed(device: torch.device, client: WriterClient) -> None:
    (piece, *_) = stage(client, make_state(device, MB), 1)
    view = torch.frombuffer(piece, dtype=torch.uint8)
    if device.type == "cuda":
        assert view.is_pinned()
    client.close()
    assert not view.is_pinned()
