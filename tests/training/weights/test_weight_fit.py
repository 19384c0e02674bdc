"""Weights are matched whatever prefixes a wrapper added, and one error lists everything that does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relight.training.weights.weight_errors import WeightsRefused
from relight.training.weights.weight_fit import WeightFit, load_into, strip_wrappers
from tests.training.foreign_files import Net, make_net

GIVEN = make_net(1)


def fit(tensors: dict[str, Tensor], model: nn.Module | None = None) -> tuple[WeightFit, nn.Module]:
    model = make_net(2) if model is None else model
    return load_into(model, tensors, file="x.pth", task="net.py:Net"), model


def expect_loaded(model: nn.Module) -> None:
    for key, value in GIVEN.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize("wrapped", [
    lambda state: state,
    lambda state: {f"module.{key}": value for key, value in state.items()},
    lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
    lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
    lambda state: {key.replace("block.0", "block.0._checkpoint_wrapped_module"): v for key, v in state.items()},
    lambda state: {f"model.{key}": value for key, value in state.items()},
    lambda state: {f"model._orig_mod.{key}": value for key, value in state.items()},
    lambda state: {f"model.module.{key}": value for key, value in state.items()} | {"criterion.w": torch.ones(1)},
    lambda state: {f"student.backbone.{key}": value for key, value in state.items()},
])  # fmt: skip
def test_names_of_wrappers_make_no_difference(wrapped: Any) -> None:
    _, model = fit(wrapped(GIVEN.state_dict()))
    expect_loaded(model)


def test_a_prefix_that_was_taken_off_and_what_lay_outside_are_told() -> None:
    told, _ = fit({f"model.{key}": value for key, value in GIVEN.state_dict().items()} | {"loss.w": torch.ones(1)})
    assert (told.prefix, told.outside) == ("model.", ("loss.w",))


def test_a_prefix_of_the_models_own_is_put_in_front() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

    told, model = fit(GIVEN.state_dict(), Outer())
    assert told.added == "net."
    expect_loaded(model.net)


def test_a_model_that_is_wrapped_itself_takes_bare_weights() -> None:
    _, model = fit(GIVEN.state_dict(), nn.DataParallel(make_net(2)))
    expect_loaded(model.module)


def test_a_models_own_attribute_called_module_stays() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    given = Own()
    _, model = fit(given.state_dict(), Own())
    assert torch.equal(model.module.weight, given.module.weight)
    _, model = fit({f"module.{key}": value for key, value in given.state_dict().items()}, Own())
    assert torch.equal(model.module.weight, given.module.weight)


def test_everything_that_does_not_fit_is_in_one_error_and_the_model_is_untouched() -> None:
    state = {key: value.clone() for key, value in GIVEN.state_dict().items()}
    del state["block.0.bias"]
    state["block.2.bias"] = torch.ones(4)
    state["block.0.weight"] = torch.ones(5, 4)
    state["block.1.num_batches_tracked"] = torch.tensor(1.0)
    model = make_net(2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsRefused) as refused:
        fit(state, model)
    said = str(refused.value)
    assert "x.pth does not fit the model of net.py:Net" in said
    assert "1 missing in the file: block.0.bias" in said
    assert "1 only in the file: block.2.bias" in said
    assert "block.0.weight ([5, 4] in the file, [4, 4] in the model)" in said
    assert "block.1.num_batches_tracked (float32 in the file, int64 in the model)" in said
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_weights_of_a_quite_different_model_say_what_is_missing() -> None:
    with pytest.raises(WeightsRefused, match=r"9 missing in the file.*40 only in the file: a0, a1.* and 32 more"):
        fit({f"a{place}": torch.ones(1) for place in range(40)})


def test_two_sets_that_fit_are_not_guessed_at() -> None:
    both = {f"{name}.{key}": value for name in ("ema", "model") for key, value in GIVEN.state_dict().items()}
    with pytest.raises(WeightsRefused, match=r"2 sets of weights that fit, below ema\., model\.\. Choose one"):
        fit(both)


def test_half_precision_is_converted_and_told() -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in GIVEN.state_dict().items()}
    told, model = fit(state)
    assert told.converted == ("float16 to float32 (8 tensors)",)
    assert torch.equal(model.block[0].weight, GIVEN.block[0].weight.half().float())


def test_a_tied_tensor_may_be_there_under_one_name_only() -> None:
    state = GIVEN.state_dict()
    del state["embedding.weight"]
    told, model = fit(state)
    assert told.tied == ("embedding.weight",)
    expect_loaded(model)
    assert model.head.weight is model.embedding.weight


def test_a_tied_tensor_that_is_two_in_the_file_is_refused() -> None:
    state = {key: value.clone() for key, value in GIVEN.state_dict().items()}
    fit(state)
    state["head.weight"] += 1
    with pytest.raises(WeightsRefused, match=r"'embedding\.weight' and 'head\.weight' are one tensor in the model"):
        fit(state)


def test_two_names_that_become_one_are_refused() -> None:
    with pytest.raises(WeightsRefused, match=r"two tensors of the file are named 'a\.w'"):
        strip_wrappers(["a.w", "_orig_mod.a.w"])
