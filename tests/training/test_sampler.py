"""The order of the data is a pure function of seed and epoch, and costs four bytes a sample."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from relight.training.sampler import Sampler


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


def test_ten_million_samples_cost_less_than_100_megabytes() -> None:
    code = """
import resource, sys
import numpy as np
from relight.training.sampler import Sampler
sampler = Sampler(10_000_000, batch_size=256, seed=1)
next(iter(Sampler(10, batch_size=2, seed=1).keys(epoch=0)))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
keys = sampler.keys(epoch=0, start=9_000_000)
held = [next(keys) for _ in range(100)]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000_000
