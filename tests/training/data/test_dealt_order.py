"""One order dealt to any number of ranks: together they train each sample once, from any position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from relight.errors import TaskError
from relight.training.data.adopted_loader import adopt_loader
from relight.training.data.dealt_order import Deal, DealtOrder
from relight.training.data.loader import Loader
from relight.training.data.sampler import Sampler


def _whole(length: int, batch_size: int) -> Sampler:
    return Sampler(length, batch_size=batch_size, seed=3)


@given(length=st.integers(1, 60), batch_size=st.integers(1, 9), world_size=st.integers(1, 5), epoch=st.integers(0, 2))
def test_the_ranks_together_train_each_batch_of_the_whole_order(
    length: int, batch_size: int, world_size: int, epoch: int
) -> None:
    dealt = [DealtOrder(_whole(length, batch_size), Deal(rank, world_size)) for rank in range(world_size)]
    parts = [list(order.keys(epoch=epoch)) for order in dealt]
    for whole, *keys in zip(_whole(length, batch_size).keys(epoch=epoch), *parts, strict=True):
        samples = len(whole.indices)
        own = [key.indices[: order.deal.count(samples)] for key, order in zip(keys, dealt, strict=True)]
        assert np.concatenate(own).tolist() == whole.indices.tolist()
        assert {(key.start, key.stop) for key in keys} == {(whole.start, whole.stop)}
        assert all(len(key.indices) for key in keys)  # no model takes an empty batch
        assert sum(order.deal.weight(samples) for order in dealt) == pytest.approx(world_size)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3), (3, 2)])
def test_another_number_of_ranks_skips_and_repeats_nothing(before: int, after: int) -> None:
    seen: list[int] = []
    data = TensorDataset(torch.arange(50))
    position: dict[str, object] = {}
    for world_size, steps in ((before, 3), (after, 4)):
        for rank in range(world_size):
            loader = Loader(data, batch_size=8, seed=1, deal=Deal(rank, world_size))
            if position:
                loader.load_state_dict(position)
            batches = iter(loader)
            for _ in range(steps):
                done = loader.consumed
                (batch,) = next(batches)
                seen += batch[: loader.sampler.deal.count(loader.consumed - done)].tolist()
        position = loader.state_dict()
    assert sorted(seen) == list(range(50))


def test_a_distributed_sampler_becomes_one_order_without_padding() -> None:
    data = TensorDataset(torch.arange(21))
    seen: list[int] = []
    for rank in (0, 1):
        torch.manual_seed(rank)  # ranks that are seeded differently still share one order
        source = DataLoader(data, batch_size=4, sampler=DistributedSampler(data, num_replicas=2, rank=rank))
        loader = adopt_loader(source, seed=torch.initial_seed())
        batches = [batch for (batch,) in loader]
        assert [len(batch) for batch in batches[:-1]] == [4, 4]
        seen += torch.cat(batches).tolist()
    assert sorted(seen) == list(range(21))


@pytest.mark.parametrize(
    "sampler",
    [
        SequentialSampler(range(21)),
        RandomSampler(range(21)),
        RandomSampler(range(21), num_samples=13),
        SubsetRandomSampler(range(3, 20)),
        WeightedRandomSampler([1.0] * 21, 30),
        [5, 3, 8, 1, 1, 0, 9],
    ],
    ids=["in order", "shuffled", "some", "a subset", "weighted", "a list"],
)
def test_a_loader_of_any_kind_is_dealt_when_a_framework_asks_for_it(sampler: Any) -> None:
    data = TensorDataset(torch.arange(21))
    whole = adopt_loader(DataLoader(data, batch_size=6, sampler=sampler), seed=5)
    ranks = [
        adopt_loader(DataLoader(data, batch_size=3, sampler=sampler), seed=5, deal=Deal(rank, 2)) for rank in (0, 1)
    ]
    for (batch,), (first,), (second,) in zip(whole, *ranks, strict=True):
        assert torch.equal(torch.cat([first, second])[: len(batch)], batch)


def test_a_loader_that_cannot_be_dealt_again_is_left_alone_or_refused() -> None:
    data = TensorDataset(torch.arange(12))
    own = DistributedSampler(data, num_replicas=2, rank=1, shuffle=False)
    dealt = adopt_loader(DataLoader(data, batch_size=3, sampler=own), seed=1, deal=Deal(1, 2))
    assert [batch.tolist() for (batch,) in dealt] == [[3, 4, 5], [9, 10, 11]]
    batches = DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 3, drop_last=True))
    assert len(adopt_loader(batches, seed=1, deal=Deal(0, 2))) == 2  # of six samples: PyTorch's own class can be dealt

    class Buckets(BatchSampler):
        """Chooses batches of its own."""

    buckets = DataLoader(data, batch_sampler=Buckets(SequentialSampler(data), 3, drop_last=True))
    with pytest.raises(TaskError, match="Buckets chooses whole batches, which cannot be dealt to 2 ranks"):
        adopt_loader(buckets, seed=1, deal=Deal(0, 2))


def test_a_sampler_of_the_scripts_own_class_keeps_its_order() -> None:
    class Backwards(DistributedSampler[TensorDataset]):
        def __iter__(self) -> Iterator[int]:
            return reversed(range(self.rank, len(data), self.num_replicas))

        def __len__(self) -> int:
            return len(data) // self.num_replicas

    data = TensorDataset(torch.arange(12))
    source = DataLoader(data, batch_size=4, sampler=Backwards(data, num_replicas=2, rank=1))
    batches = [batch.tolist() for (batch,) in adopt_loader(source, seed=1)]
    assert batches == [[11, 9, 7, 5], [3, 1]]
