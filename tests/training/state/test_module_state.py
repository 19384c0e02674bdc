"""A module is restored in place: no tensor is in memory twice, and a tensor that does not fit stays unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relight.checkpoints.store import CheckpointStore
from relight.errors import DamagedCheckpoint
from relight.training.state.module_state import ModulePart
from relight.training.state.state_errors import StateMismatch
from relight.training.state.state_tree import StateCollector
from relight.training.state.stored_tensors import StoredTensors
from tests.training.committed import commit
from tests.training.state.held_tensors import HeldTensors


class _OnlyInPlace(HeldTensors):
    def __call__(self, name: str) -> Tensor:
        raise AssertionError(f"{name} was read into memory of its own")


class _Careless(nn.Linear):
    """A layer that clears its weight before it loads."""

    def _load_from_state_dict(self, *arguments: Any, **more: Any) -> None:
        with torch.no_grad():
            self.weight.zero_()
        super()._load_from_state_dict(*arguments, **more)


def _capture(module: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    part = ModulePart("model", module)
    part.record_edge()
    collector = StateCollector()
    tree = part.capture(collector, at_edge=True)
    assert tree is not None
    return tree, {name: tensor.clone() for name, tensor in collector.tensors.items()}


def _network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    return network.to(memory_format=torch.channels_last)


def _assert_same(one: nn.Module, other: nn.Module) -> None:
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_tensors_are_read_straight_into_the_live_ones() -> None:
    saved = _network(1)
    tree, tensors = _capture(saved)
    live = _network(2)
    places = {name: tensor.data_ptr() for name, tensor in live.state_dict().items()}
    ModulePart("model", live).restore(tree, _OnlyInPlace(tensors))
    _assert_same(live, saved)
    assert {name: tensor.data_ptr() for name, tensor in live.state_dict().items()} == places


def test_a_module_that_loads_in_its_own_way_is_given_copies() -> None:
    saved = _Careless(3, 2)
    tree, tensors = _capture(saved)
    live = _Careless(3, 2)
    ModulePart("model", live).restore(tree, HeldTensors(tensors))
    assert saved.weight.count_nonzero()
    _assert_same(live, saved)


def test_what_does_not_fit_leaves_the_module_as_it_was() -> None:
    tree, tensors = _capture(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3)))
    live = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 4))
    before = {name: tensor.clone() for name, tensor in live.state_dict().items()}
    with pytest.raises(StateMismatch, match=r"1\.weight \(float32 \[3, 2\] in the checkpoint, float32 \[4, 2\] now\)"):
        ModulePart("model", live).restore(tree, HeldTensors(tensors))
    assert all(torch.equal(before[name], tensor) for name, tensor in live.state_dict().items())


def test_a_hidden_buffer_that_does_not_fit_leaves_the_module_as_it_was_too() -> None:
    saved, live = nn.Linear(2, 2), nn.Linear(2, 2)
    saved.register_buffer("hidden", torch.ones(1), persistent=False)
    tree, tensors = _capture(saved)
    before = live.weight.detach().clone()
    with pytest.raises(StateMismatch, match="non-persistent buffers of model"):
        ModulePart("model", live).restore(tree, HeldTensors(tensors))
    assert torch.equal(live.weight, before)


def test_a_checkpoint_is_read_into_live_tensors_however_they_lie(tmp_path: Path) -> None:
    saved = _network(1)
    info = commit(tmp_path, saved)
    live = _network(2)
    assert not live.state_dict()["0.weight"].is_contiguous()
    live[2].weight.data = live[2].weight.data.t().contiguous().t()
    with CheckpointStore(tmp_path).open(info) as reader:
        stored = StoredTensors(reader)
        assert stored.form("model.0.weight") == "float32 [4, 3, 3, 3]"
        ModulePart("model", live).restore(reader.state["parts"]["model"], stored)
    _assert_same(live, saved)


def test_damage_is_found_while_the_live_tensors_are_filled(tmp_path: Path) -> None:
    saved = _network(1)
    info = commit(tmp_path, saved)
    (pack,) = tmp_path.glob("**/*.safetensors")
    data = bytearray(pack.read_bytes())
    data[data.index(saved.state_dict()["2.weight"].numpy().tobytes())] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    with CheckpointStore(tmp_path).open(info) as reader, pytest.raises(DamagedCheckpoint):
        ModulePart("model", _network(2)).restore(reader.state["parts"]["model"], StoredTensors(reader))


def test_every_kind_of_buffer_is_that_of_the_edge() -> None:
    buffers = {
        "mean": torch.tensor([1.5, 2.5]), "count": torch.tensor(3), "mask": torch.tensor([True, False, True]),
        "brief": torch.tensor([0.5], dtype=torch.bfloat16), "phase": torch.tensor([1 + 2j]), "none": torch.empty(0),
        "turned": torch.arange(6.0).reshape(2, 3).T, "conjugate": torch.tensor([1 + 2j]).conj(),
    }  # fmt: skip
    module = nn.Module()
    for name, buffer in buffers.items():
        module.register_buffer(name, buffer.clone())
    part = ModulePart("model", module)
    part.record_edge()
    for number in (1, 2, 3):
        if number == 2:  # other memory behind the same buffer, and another buffer of the same form
            module.mean.data = torch.zeros(2)
            module.count = torch.tensor(9)
        part.record_edge()
        expected = {name: buffer.clone() for name, buffer in module.named_buffers()}
        for buffer in module.buffers():
            buffer.copy_(buffer + 1 if buffer.dtype != torch.bool else ~buffer)
        collector = StateCollector()
        assert part.capture(collector, at_edge=False) is not None
        for name, tensor in expected.items():
            kept = collector.tensors[f"model.{name}"]
            assert (kept.dtype, kept.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(kept, tensor), name


def test_a_buffer_that_got_another_form_in_place_is_inexact_in_the_middle_of_a_step_only() -> None:
    module = nn.Module()
    module.register_buffer("grows", torch.zeros(2))
    part = ModulePart("model", module)
    part.record_edge()
    for change in (
        lambda: module.grows.resize_(5).fill_(1),
        lambda: setattr(module.grows, "data", torch.ones(5).half()),
    ):
        change()
        part.record_edge()
        assert part.capture(StateCollector(), at_edge=False) is None
        part.record_edge()
        module.grows.fill_(7)
        collector = StateCollector()
        assert part.capture(collector, at_edge=False) is not None
        assert torch.equal(collector.tensors["model.grows"], torch.ones(5, dtype=module.grows.dtype))
