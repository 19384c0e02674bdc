"""ResNets of basic blocks (He et al., 2015), with a small stem for small pictures and batch or group norm."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

# Basic blocks in each stage; every stage but the first halves the picture and doubles the channels.
STAGES: dict[str, tuple[int, ...]] = {"resnet8": (1, 1, 1), "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
LARGE_PICTURE = 96  # from this side length on, the stem first shrinks the picture to a quarter, as for ImageNet
GROUPS = 8


class ResNet(nn.Module):
    """Map pictures [N, 3, S, S] to logits [N, classes]."""

    def __init__(self, name: str, *, classes: int, width: int, norm: str, image_size: int) -> None:
        super().__init__()
        if image_size >= LARGE_PICTURE:
            convolution = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            self.stem = nn.Sequential(convolution, _norm(norm, width), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
        else:
            convolution = nn.Conv2d(3, width, 3, padding=1, bias=False)
            self.stem = nn.Sequential(convolution, _norm(norm, width), nn.ReLU())
        blocks: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(STAGES[name]):
            for place in range(count):
                wider = width * 2**stage
                blocks.append(BasicBlock(channels, wider, stride=2 if stage > 0 and place == 0 else 1, norm=norm))
                channels = wider
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)
        self._initialise()

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.blocks(self.stem(pixels))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock):
                nn.init.zeros_(module.norm2.weight)  # each block starts as the identity (Goyal et al., 2017)


class BasicBlock(nn.Module):
    """Two 3 by 3 convolutions around a shortcut, which is a 1 by 1 convolution if the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, norm: str) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = _norm(norm, channels_out)
        self.convolution2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = _norm(norm, channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            projection = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, _norm(norm, channels_out))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.convolution1(x)))
        return F.relu(self.norm2(self.convolution2(out)) + self.shortcut(x))


def _norm(norm: str, channels: int) -> nn.BatchNorm2d | nn.GroupNorm:
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(math.gcd(GROUPS, channels), channels)
