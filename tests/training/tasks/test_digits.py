"""digits: the data is complete, its split never changes, and the default config learns it in seconds."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from relight.tasks.digits_config import DigitsConfig
from relight.training.tasks.digits import Digits, held_out_rows
from tests.training.tasks.bare_loop import train


def test_the_default_config_reaches_97_percent_in_well_under_a_minute() -> None:
    started = time.process_time()
    outcome = train(Digits(DigitsConfig()))
    assert outcome.validation["accuracy"] >= 0.97
    assert time.process_time() - started < 60  # processor time of all threads, because other processes may be busy


def test_every_scan_is_on_exactly_one_side_with_all_digits_on_both() -> None:
    data = Digits(DigitsConfig()).build_data()
    assert data.validation is not None
    pixels, labels = data.train.tensors  # type: ignore[attr-defined]
    held_pixels, held_labels = data.validation.tensors  # type: ignore[attr-defined]
    assert len(labels) + len(held_labels) == 1797
    assert pixels.shape[1:] == (1, 8, 8) and pixels.dtype == torch.float32
    assert pixels.min() == 0.0 and pixels.max() == 1.0
    share = held_labels.bincount(minlength=10) / (labels.bincount(minlength=10) + held_labels.bincount(minlength=10))
    assert share.min() > 0.19 and share.max() < 0.21
    assert len(held_pixels) == len(held_labels)


def test_the_split_is_the_same_for_every_seed_and_every_version() -> None:
    labels = np.arange(1797) % 10
    held_out = held_out_rows(labels)
    assert held_out.sum() == 360
    assert np.flatnonzero(held_out)[:8].tolist() == [1, 3, 9, 22, 28, 29, 35, 40]


@pytest.mark.parametrize(("width", "dropout"), [(4, 0.0), (64, 0.9)])
def test_the_ends_of_the_config_build_and_train(width: int, dropout: float) -> None:
    outcome = train(Digits(DigitsConfig(width=width, dropout=dropout, max_steps=2)))
    assert len(outcome.losses) == 2


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    one, same, other = (train(Digits(DigitsConfig(max_steps=3, seed=seed))).losses for seed in (1, 1, 2))
    assert one == same != other
