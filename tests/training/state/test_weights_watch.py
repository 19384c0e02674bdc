"""Whatever moves weights between two step edges is noticed, and by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from relight.training.state.training_state import TrainingState
from relight.training.state.weights_watch import WeightsWatch, digest_tensor


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.last = nn.Linear(32, 4)


def copy_in(net: Net) -> None:
    with torch.no_grad():
        net.last.weight.copy_(torch.ones(4, 32))


def write_through_data(net: Net) -> None:
    net.last.weight.data.mul_(0.5)


def give_other_memory(net: Net) -> None:
    net.last.weight.data = net.last.weight.data.clone() + 1


def write_through_numpy(net: Net) -> None:
    net.last.weight.detach().numpy()[:] = 3


def load(net: Net) -> None:
    net.last.load_state_dict({name: value + 1 for name, value in net.last.state_dict().items()})


def clip_one_number(net: Net) -> None:
    with torch.no_grad():
        net.last.weight[0, 0].clamp_(9, 10)


@pytest.mark.parametrize(
    "move", [copy_in, write_through_data, give_other_memory, write_through_numpy, load, clip_one_number]
)
def test_every_way_to_move_weights_is_noticed(move: Callable[[Net], None]) -> None:
    net = Net()
    state = TrainingState()
    state.track("model", net)
    state.record_edge({})
    assert state.find_moved_weights() == []
    assert state.capture(at_edge=False) is not None
    move(net)
    assert "last.weight" in state.find_moved_weights()
    assert "first.weight" not in state.find_moved_weights()
    assert state.capture(at_edge=False) is None, "they are not those of the edge"
    assert state.capture(at_edge=True) is not None
    state.record_edge({})
    assert state.find_moved_weights() == []


def test_replaced_parameters_are_noticed_and_watched_from_the_next_edge_on() -> None:
    net = Net()
    state = TrainingState()
    state.track("model", net)
    state.record_edge({})
    net.last.weight = nn.Parameter(torch.zeros(4, 32))
    assert "last.weight" in state.find_moved_weights()
    state.record_edge({})
    assert state.find_moved_weights() == []
    write_through_data(net)
    copy_in(net)
    assert state.find_moved_weights() == ["last.weight"]


def test_tensors_that_only_the_optimizer_knows_are_watched_too() -> None:
    loose = nn.Parameter(torch.zeros(64))
    state = TrainingState()
    state.track("optimizer", torch.optim.SGD([loose], lr=0.1))
    state.record_edge({})
    with torch.no_grad():
        loose.add_(1)
    assert state.find_moved_weights() == ["optimizer.1"]


def test_the_sample_of_an_edge_follows_the_weights() -> None:
    net = Net()
    watch = WeightsWatch(dict(net.named_parameters()))
    before = watch.record()
    assert before == watch.record() != b""
    torch.nn.init.normal_(net.first.weight)
    assert watch.record() != before
    assert WeightsWatch({"empty": torch.zeros(0)}).record() == b"", "there is nothing to sample"
    assert WeightsWatch({"small": torch.zeros(3)}).record() != 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64, torch.bool])
def test_one_bit_changes_the_digest_of_a_tensor(dtype: torch.dtype) -> None:
    tensor = torch.zeros(5, 3, dtype=dtype)
    before = digest_tensor(tensor.T)
    assert before == digest_tensor(tensor.clone().T)
    tensor[4, 2] = 1
    assert digest_tensor(tensor.T) != before
    assert digest_tensor(torch.zeros((), dtype=dtype)) != digest_tensor(torch.ones((), dtype=dtype))
