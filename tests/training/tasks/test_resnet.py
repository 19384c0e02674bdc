"""The ResNets have the stated depth, work for small and large pictures, and with either norm."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relight.training.tasks.resnet import BasicBlock, ResNet


@pytest.mark.parametrize(("name", "convolutions"), [("resnet8", 7), ("resnet18", 17), ("resnet34", 33)])
def test_the_name_counts_the_layers_with_weights(name: str, convolutions: int) -> None:
    model = ResNet(name, classes=3, width=4, norm="batch", image_size=32)
    main = [key for key, module in model.named_modules() if isinstance(module, nn.Conv2d) and "shortcut" not in key]
    assert len(main) == convolutions
    assert int(name.removeprefix("resnet")) == convolutions + 1


def test_resnet18_of_width_64_is_the_one_of_the_paper() -> None:
    with torch.device("meta"):
        model = ResNet("resnet18", classes=1000, width=64, norm="batch", image_size=224)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_689_512


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("size", [16, 33, 96, 127])
def test_every_picture_size_gives_one_logit_for_each_class(norm: str, size: int) -> None:
    model = ResNet("resnet34", classes=5, width=6, norm=norm, image_size=size)
    assert model(torch.rand(2, 3, size, size)).shape == (2, 5)


def test_a_block_starts_as_the_identity() -> None:
    model = ResNet("resnet8", classes=2, width=8, norm="batch", image_size=32)
    block = next(module for module in model.modules() if isinstance(module, BasicBlock))
    x = torch.rand(2, 8, 8, 8)
    assert torch.equal(block(x), x)
