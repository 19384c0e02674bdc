"""The state of every rank in one tree: sent to rank 0, saved, and taken by the rank that it belongs to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from relight.checkpoints.snapshot_header import TensorRef
from relight.training.ranks.rank_state import (
    add_rank_states,
    decode_messages,
    encode_rank_state,
    have_own_gradients,
    note_world_size,
    saved_world_size,
    take_rank_state,
)
from relight.training.state.unreduced import Gathered


def _tree(value: int) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    tensors = {"w": torch.ones(2), "noise": torch.full((3,), value), "rng.torch": torch.tensor([value])}
    tree = {
        "parts": {
            "model": {"kind": "module", "tensors": {"w": TensorRef("w")}},
            "noise": {"kind": "object", "state": {"value": value, "tensor": [TensorRef("noise")]}},
        },
        "rng": {"tensors": {"torch": TensorRef("rng.torch")}},
    }
    return tree, tensors


def _whole() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    trees = [_tree(rank) for rank in range(3)]
    messages = [encode_rank_state(*each, rank=rank, is_split=False) for rank, each in enumerate(trees)]
    tree, added = add_rank_states(trees[0][0], decode_messages(messages))
    return tree, {**trees[0][1], **added}


def _group(rank: int, world_size: int) -> Any:
    return SimpleNamespace(rank=rank, world_size=world_size)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_each_rank_takes_its_own_objects_and_generators_and_everyones_model(rank: int) -> None:
    tree, tensors = _whole()
    own = take_rank_state(tree, _group(rank, 3))
    state = own["parts"]["noise"]["state"]
    assert (state["value"], tensors[state["tensor"][0].name].tolist()) == (rank, [rank] * 3)
    assert tensors[own["rng"]["tensors"]["torch"].name].item() == rank
    assert own["parts"]["model"] == tree["parts"]["model"]


@pytest.mark.parametrize("group", [None, _group(0, 2), _group(1, 2), _group(4, 5)])
def test_another_number_of_ranks_takes_rank_0s_objects_and_says_so(
    group: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tree, _ = _whole()
    caplog.set_level("INFO", "relight")
    before = torch.default_generator.get_state()
    assert saved_world_size(tree) == 3
    assert take_rank_state(tree, group)["parts"]["noise"]["state"]["value"] == 0
    note_world_size(tree, group)
    assert "saved by 3 ranks" in caplog.text
    moved = not torch.equal(before, torch.default_generator.get_state())
    assert moved == (group is not None and group.rank > 0)


def test_a_checkpoint_of_one_process_has_nothing_of_ranks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "relight")
    tree, _ = _tree(0)
    assert take_rank_state(tree, None) is tree
    note_world_size(tree, None)
    assert not caplog.text


def _gathering(*values: float | None) -> tuple[dict[str, Any], bool]:
    """Return the tree of ranks with these gradients, of which one may have none, and whether they differ."""
    trees = []
    for rank, value in enumerate(values):
        tree, tensors = _tree(rank)
        gradients = {} if value is None else {"w": TensorRef("gradient:model.w")}
        tree["parts"]["model"] |= {"gradients": gradients | {"rows": TensorRef("gradient:model.rows")}}
        trees.append((tree, tensors | ({} if value is None else {"gradient:model.w": torch.tensor([value])})))
    messages = decode_messages([encode_rank_state(*each, rank=rank, is_split=True) for rank, each in enumerate(trees)])
    return add_rank_states(trees[0][0], messages)[0], have_own_gradients(messages)


def test_gradients_that_the_ranks_have_exchanged_are_everyones() -> None:
    tree, differ = _gathering(0.5, 0.5, 0.5)
    assert not differ
    for rank in range(3):
        assert take_rank_state(tree, _group(rank, 3))["parts"]["model"] == tree["parts"]["model"]
    assert set(tree["parts"]["model"]["gradients"]) == {"w", "rows"}
    assert "unreduced" not in tree["parts"]["model"]


def test_gradients_that_the_ranks_have_not_exchanged_are_their_own() -> None:
    tree, differ = _gathering(0.5, None, -0.0)
    assert differ
    taken = [take_rank_state(tree, _group(rank, 3))["parts"]["model"] for rank in range(3)]
    assert [part["gradients"] for part in taken] == [{"rows": TensorRef("gradient:model.rows")}] * 3
    assert taken[0]["unreduced"] == {"w": Gathered(("gradient:model.w",), 1)}
    assert "unreduced" not in taken[1]
    assert taken[2]["unreduced"] == {"w": Gathered(("ranks.2.gradient:model.w",), 1)}


@pytest.mark.parametrize("group", [None, _group(0, 2), _group(3, 4)])
def test_another_number_of_ranks_takes_the_average_of_the_gradients(group: Any) -> None:
    tree, _ = _gathering(0.5, None, 0.25)
    taken = take_rank_state(tree, group)["parts"]["model"]
    assert taken["unreduced"] == {"w": Gathered(("gradient:model.w", "ranks.2.gradient:model.w"), 3)}
