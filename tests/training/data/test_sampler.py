"""The order of the data is a pure function of seed and epoch, and takes four bytes per sample."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from relight.errors import TaskError
from relight.training.data.loader import Loader
from relight.training.data.sampler import Sampler, WeightedSampler


def test_an_epoch_has_every_sample_once_and_another_order_than_the_next() -> None:
    sampler = Sampler(1000, batch_size=64, seed=3)
    first, second = sampler.permutation(0), sampler.permutation(1)
    assert sorted(first) == list(range(1000))
    assert first.tolist() != second.tolist()
    assert first.tolist() == Sampler(1000, batch_size=7, seed=3).permutation(0).tolist()


def test_the_order_is_pinned_so_that_a_resume_with_a_later_library_sees_the_same_data() -> None:
    assert Sampler(10, batch_size=4, seed=42).permutation(5).tolist() == [2, 4, 1, 8, 0, 3, 5, 9, 6, 7]


def test_a_start_in_the_middle_continues_the_same_batches() -> None:
    sampler = Sampler(100, batch_size=8, seed=0)
    whole = list(sampler.keys(epoch=2))
    rest = list(sampler.keys(epoch=2, start=24))
    assert [key.start for key in rest] == [key.start for key in whole[3:]]
    for one, other in zip(rest, whole[3:], strict=True):
        np.testing.assert_array_equal(one.indices, other.indices)


@pytest.mark.parametrize(
    ("length", "drop_last", "batches"), [(10, False, 3), (10, True, 2), (8, True, 2), (3, False, 1)]
)
def test_batches_are_counted_with_and_without_the_last_short_one(length: int, drop_last: bool, batches: int) -> None:
    sampler = Sampler(length, batch_size=4, seed=0, drop_last=drop_last)
    keys = list(sampler.keys(epoch=0))
    assert len(keys) == sampler.batches == batches
    assert all(len(key.indices) == 4 for key in keys) or not drop_last


@pytest.mark.parametrize("kind", ["shuffled", "weighted"])
def test_ten_million_samples_cost_less_than_100_megabytes(kind: str) -> None:
    code = f"""
import resource, sys
import numpy as np
from torch.utils.data import DataLoader
from relight.training.data.adopted_loader import adopt_loader
import torch
from torch.utils.data import TensorDataset

from relight.errors import TaskError
from relight.training.data.loader import Loader
from relight.training.data.sampler import Sampler, WeightedSampler, WeightedSampler
weights = np.ones(10_000_000) if {kind!r} == "weighted" else None
def make(length):
    if weights is not None:
        return WeightedSampler(weights[:length], batch_size=256, seed=1)
    return Sampler(length, batch_size=256, seed=1)
next(make(512).keys(epoch=0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
keys = make(10_000_000).keys(epoch=0, start=9_000_192)
held = [next(keys) for _ in range(100)]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000_000, done.stdout


def test_weighted_draws_follow_their_weights_and_are_pinned() -> None:
    weights = [0.0, 1.0, 3.0, 0.0, 6.0, 0.0]
    draws = WeightedSampler(weights, batch_size=8, seed=2, per_epoch=200_000).draw(0, 0, 200_000)
    counts = np.bincount(draws, minlength=6)
    assert counts[[0, 3, 5]].tolist() == [0, 0, 0]
    np.testing.assert_allclose(counts / 200_000, np.array(weights) / 10, atol=0.005)
    assert WeightedSampler(weights, batch_size=8, seed=42).draw(5, 0, 6).tolist() == [2, 4, 4, 4, 2, 1]


def test_a_weighted_draw_begins_anywhere_with_the_same_batches() -> None:
    sampler = WeightedSampler([1.0, 2.0, 3.0], batch_size=1000, seed=0, per_epoch=140_000)  # drawn in three chunks
    whole = list(sampler.keys(epoch=1))
    assert [len(key.indices) for key in whole] == [1000] * 140
    for start in (0, 65_000, 66_000, 131_000):
        first = next(sampler.keys(epoch=1, start=start))
        np.testing.assert_array_equal(first.indices, whole[start // 1000].indices)
        assert first.numbers is not None and first.numbers[0] == start


def test_weights_that_make_no_sense_are_refused() -> None:
    for weights in ([0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [[1.0, 2.0]], []):
        with pytest.raises(TaskError, match="sampling weights"):
            WeightedSampler(weights, batch_size=1, seed=0)
    with pytest.raises(TaskError, match="3 sampling weights for 2 samples"):
        Loader(TensorDataset(torch.zeros(2)), batch_size=1, seed=0, weights=[1, 2, 3])
