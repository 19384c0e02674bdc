"""Random crops, mirroring and colors of one picture, using only torch and one explicit generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ASPECT_AT_MOST = 4 / 3
_GRAY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601


def augment(
    pixels: Tensor, *, generator: torch.Generator, size: int, smallest_crop: float, flip: bool, jitter: float
) -> Tensor:
    """Show uint8 pixels [3, H, W] as float32 [3, size, size], 0 to 1: a random part, mirrored, in other colors.

    Always draws eight numbers, so that a changed option does not shift what the others draw.
    """
    draws: list[float] = torch.rand(8, generator=generator).tolist()
    height, width = pixels.shape[1:]
    area = height * width * (smallest_crop + (1 - smallest_crop) * draws[0])
    aspect = math.exp((2 * draws[1] - 1) * math.log(ASPECT_AT_MOST))
    crop_height = max(1, min(height, round(math.sqrt(area / aspect))))
    crop_width = max(1, min(width, round(math.sqrt(area * aspect))))
    top = int(draws[2] * (height - crop_height + 1))
    left = int(draws[3] * (width - crop_width + 1))
    shown = _resize(pixels[:, top : top + crop_height, left : left + crop_width], size)
    if flip and draws[4] < 0.5:
        shown = shown.flip(2)
    if jitter > 0:
        brightness, contrast, saturation = (1 + jitter * (2 * draw - 1) for draw in draws[5:8])
        grey = (shown * shown.new_tensor(_GRAY).view(3, 1, 1)).sum(0, keepdim=True)
        shown = grey + (shown - grey) * saturation
        shown = ((shown - shown.mean()) * contrast + shown.mean()) * brightness
    return shown.clamp(0, 1)


def crop_centre(pixels: Tensor, *, size: int) -> Tensor:
    """Scale the square in the middle of uint8 pixels [3, H, W] to float32 [3, size, size], 0 to 1."""
    side = min(pixels.shape[1:])
    top, left = (pixels.shape[1] - side) // 2, (pixels.shape[2] - side) // 2
    return _resize(pixels[:, top : top + side, left : left + side], size)


def normalise(pixels: Tensor) -> Tensor:
    """Move 0 to 1 to about -2 to 2."""
    return (pixels - 0.5) / 0.25


def _resize(pixels: Tensor, size: int) -> Tensor:
    shown = F.interpolate(pixels.float().div(255).unsqueeze(0), (size, size), mode="bilinear", antialias=True)
    return shown.squeeze(0).clamp(0, 1)
