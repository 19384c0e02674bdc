"""The weights are found under any of the usual names, and everything that is not imported is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from relight.training.weights.found_weights import FoundWeights, find_weights
from relight.training.weights.weight_errors import WeightsRefused
from relight.training.weights.weight_source import WeightSource, open_weights
from tests.training.foreign_files import lightning_checkpoint, make_net, usual_checkpoint

NET = make_net()


def find(folder: Path, tree: Any, part: str | None = None) -> FoundWeights:
    torch.save(tree, folder / "x.pth")
    return find_weights(open_weights(folder / "x.pth"), part=part)


@pytest.mark.parametrize(
    "key", ["model_state_dict", "state_dict", "model", "net", "network", "module", "weights", "foo"]
)
def test_the_usual_checkpoint_is_recognised(tmp_path: Path, key: str) -> None:
    found = find(tmp_path, usual_checkpoint(NET, key))
    assert (found.kind, found.part) == ("PyTorch checkpoint", key)
    assert found.tensors.keys() == NET.state_dict().keys()
    assert set(found.not_taken) == {
        "epoch 12", "optimizer_state_dict (optimizer state)", "scheduler (learning-rate schedule)", "loss 0.25",
        "best_acc",
    }  # fmt: skip


def test_a_plain_state_dict_is_taken_whole(tmp_path: Path) -> None:
    found = find(tmp_path, NET.state_dict())
    assert (found.kind, found.part, found.not_taken) == ("PyTorch state_dict", "", ())


def test_numbers_among_the_tensors_are_told_and_left(tmp_path: Path) -> None:
    found = find(tmp_path, {**NET.state_dict(), "epoch": 4, "note": "mine", "list": [1, 2]})
    assert found.tensors.keys() == NET.state_dict().keys()
    assert found.not_taken == ("epoch 4", "note mine", "list")


def test_lightning_is_recognised_with_all_that_it_carries(tmp_path: Path) -> None:
    found = find(tmp_path, lightning_checkpoint(NET))
    assert (found.kind, found.part) == ("Lightning checkpoint", "state_dict")
    assert "epoch 3" in found.not_taken and "global_step 450" in found.not_taken
    assert "optimizer_states (optimizer state)" in found.not_taken


def test_weights_deeper_inside_are_found(tmp_path: Path) -> None:
    found = find(tmp_path, {"model": {"generator": NET.state_dict()}, "meta": {"epoch": 1}})
    assert found.part == "model/generator"


def test_the_average_is_taken_when_it_is_asked_for(tmp_path: Path) -> None:
    tree = {"model": NET.state_dict(), "model_ema": make_net(9).state_dict()}
    assert find(tmp_path, tree).part == "model"
    assert find(tmp_path, tree).not_taken == ("model_ema (averaged weights)",)
    averaged = find(tmp_path, tree, part="model_ema")
    assert torch.equal(averaged.tensors["block.0.bias"], tree["model_ema"]["block.0.bias"])


def test_a_part_may_be_how_the_names_begin(tmp_path: Path) -> None:
    found = find(tmp_path, lightning_checkpoint(NET, "net."), part="net")
    assert found.tensors.keys() == NET.state_dict().keys()
    assert found.prefix == "net."
    assert "state_dict/criterion.weight" in found.not_taken


def test_a_part_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match=r"no part 'ema'.*model_state_dict"):
        find(tmp_path, usual_checkpoint(NET), part="ema")


def test_several_sets_of_weights_are_not_guessed_at(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match=r"several sets of weights: encoder, decoder\. Choose one with --part"):
        find(tmp_path, {"encoder": NET.state_dict(), "decoder": NET.state_dict()})


@pytest.mark.parametrize("tree", [{}, {"epoch": 3}, {0: torch.ones(1)}, torch.ones(3), [torch.ones(1)], None, "x"])
def test_a_file_without_weights_is_refused(tmp_path: Path, tree: Any) -> None:
    with pytest.raises(WeightsRefused, match=r"holds (no w|one tensor|a list|a NoneType|a str)|numbers its tensors"):
        find(tmp_path, tree)


def test_an_optimizers_state_is_never_taken_for_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match="holds no weights"):
        find(tmp_path, {"optimizer_state_dict": usual_checkpoint(NET)["optimizer_state_dict"]})


def test_a_tensor_of_a_few_bytes_that_claims_to_be_huge_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused, match="claims to hold"):
        find(tmp_path, {"w": torch.ones(1).expand(1 << 40)})


def test_meta_and_sparse_tensors_are_refused_by_name() -> None:
    for tensor in (torch.empty(2, device="meta"), torch.eye(2).to_sparse()):
        with pytest.raises(WeightsRefused, match=r"'w' in x\.pth is"):
            find_weights(WeightSource(Path("x.pth"), "torch.save", {"w": tensor}, ()))
