"""Augmentation depends only on its generator, stays within its bounds, and always draws the same number of values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from relight.training.tasks.augmentation import augment, crop_centre, normalise


def picture(height: int = 40, width: int = 60) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def show(seed: int, pixels: Tensor | None = None, **changes: Any) -> Tensor:
    options: dict[str, Any] = {"size": 16, "smallest_crop": 0.5, "flip": True, "jitter": 0.2, **changes}
    return augment(picture() if pixels is None else pixels, generator=torch.Generator().manual_seed(seed), **options)


def test_the_generator_alone_decides() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(show(3), show(3))
    assert not torch.equal(show(3), show(4))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (7, 9), (300, 20)])
def test_any_picture_gives_floats_from_0_to_1(seed: int, size: tuple[int, int]) -> None:
    shown = show(seed, picture(*size), smallest_crop=0.01, jitter=0.99)
    assert shown.shape == (3, 16, 16) and shown.dtype == torch.float32
    assert shown.min() >= 0 and shown.max() <= 1


def test_turning_one_option_off_leaves_the_other_draws_alone() -> None:
    generator = torch.Generator()
    states = []
    for changes in ({}, {"flip": False}, {"jitter": 0.0}):
        generator.manual_seed(0)
        augment(
            picture(), generator=generator, **{"size": 16, "smallest_crop": 0.5, "flip": True, "jitter": 0.2, **changes}
        )
        states.append(generator.get_state())
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


def test_mirroring_happens_half_the_time_and_only_when_asked_for() -> None:
    gradient = torch.arange(0, 240, 4, dtype=torch.uint8).expand(3, 40, 60).contiguous()

    def rises(shown: Tensor) -> bool:
        return bool(shown[0, 0, -1] > shown[0, 0, 0])

    mirrored = [not rises(show(seed, gradient, jitter=0.0)) for seed in range(200)]
    assert 70 < sum(mirrored) < 130
    assert all(rises(show(seed, gradient, jitter=0.0, flip=False)) for seed in range(50))


def test_a_grey_picture_stays_grey_and_without_jitter_keeps_its_light() -> None:
    grey = torch.full((3, 20, 20), 100, dtype=torch.uint8)
    shown = show(5, grey)
    assert torch.allclose(shown[0], shown[1]) and torch.allclose(shown[1], shown[2])
    assert torch.allclose(show(5, grey, jitter=0.0), torch.tensor(100 / 255), atol=1e-6)


def test_the_centre_crop_is_the_middle_square() -> None:
    pixels = torch.zeros(3, 20, 60, dtype=torch.uint8)
    pixels[:, :, 20:40] = 255
    # Every pixel is 1 up to rounding: at the edges, weights such as 3/7 may not add up to exactly 1 on every processor.
    assert torch.allclose(crop_centre(pixels, size=10), torch.tensor(1.0), atol=1e-6)


def test_normalised_pixels_lie_around_zero() -> None:
    assert normalise(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-2.0, 0.0, 2.0]
