"""A user's own DataLoader keeps its data and its batches when Relight takes it over, and can resume at every batch."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from relight.errors import TaskError
from relight.training.data.adopted_loader import adopt_loader
from relight.training.data.loader import Loader
from relight.training.data.sampler import Sampler

LENGTH = 23


class Jittered(Dataset[Any]):
    """Each sample contains its index and numbers from all three global generators."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([index, random.random(), np.random.rand(), float(torch.rand(()))], dtype=torch.float64)


class Shuffled:
    """A typical user-defined sampler, with one of several sources of randomness."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.own = {"random": random.Random(3), "numpy": np.random.default_rng(3), "legacy": np.random.RandomState(3)}
        self.generator = self.own.get(source)
        self.epoch = 0

    def __len__(self) -> int:
        return LENGTH

    def __iter__(self) -> Iterator[int]:
        order = list(range(LENGTH))
        if self.source == "global python":
            random.shuffle(order)
        elif self.source == "global numpy":
            np.random.shuffle(order)
        elif self.source == "global torch":
            order = torch.randperm(LENGTH).tolist()
        elif self.source == "epoch":
            random.Random(self.epoch).shuffle(order)
        else:
            self.generator.shuffle(order)
        return iter(order)


class ByEpoch(Shuffled):
    def __init__(self) -> None:
        super().__init__("epoch")

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class Counting(Shuffled):
    """A sampler whose order depends on the number of earlier calls. Its state can be saved and loaded."""

    def __init__(self) -> None:
        super().__init__("epoch")

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return super().__iter__()


class CountingWithState(Counting):
    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch = state["epoch"]


class Buckets:
    """Batches of different sizes, with a different number of batches in each epoch."""

    def __len__(self) -> int:
        return 8

    def __iter__(self) -> Iterator[list[int]]:
        order = iter(torch.randperm(LENGTH).tolist())
        while batch := list(itertools.islice(order, random.randint(2, 5))):
            yield batch


WEIGHTS = [0.0, *range(1, LENGTH)]
DATA = Jittered()
LOADERS: dict[str, Any] = {
    "in order": lambda: {"batch_size": 4},
    "shuffled": lambda: {"batch_size": 4, "shuffle": True},
    "shuffled by a generator": lambda: {"batch_size": 4, "shuffle": True, "generator": torch.Generator()},
    "dropping the last": lambda: {"batch_size": 4, "shuffle": True, "drop_last": True},
    "a subset": lambda: {"batch_size": 4, "sampler": SubsetRandomSampler([3, 1, 4, 15, 9, 2, 6])},
    "weighted": lambda: {"batch_size": 4, "sampler": WeightedRandomSampler(WEIGHTS, 30)},
    "weighted, each once": lambda: {"batch_size": 4, "sampler": WeightedRandomSampler(WEIGHTS, 20, replacement=False)},
    "some": lambda: {"batch_size": 4, "sampler": RandomSampler(DATA, num_samples=10)},
    "with replacement": lambda: {"batch_size": 4, "sampler": RandomSampler(DATA, replacement=True, num_samples=40)},
    "a list": lambda: {"batch_size": 4, "sampler": [5, 3, 8, 1, 1, 0]},
    "batches": lambda: {"batch_sampler": BatchSampler(SequentialSampler(DATA), 5, drop_last=True)},
    "buckets": lambda: {"batch_sampler": Buckets()},
    "counting": lambda: {"batch_size": 4, "sampler": CountingWithState()},
    "by epoch": lambda: {"batch_size": 4, "sampler": ByEpoch()},
    **{
        source: lambda source=source: {"batch_size": 4, "sampler": Shuffled(source)}
        for source in ("random", "numpy", "legacy", "global python", "global numpy", "global torch")
    },
}


def adopt(kind: str, *, seed: int = 7, **options: Any) -> Loader:
    return adopt_loader(DataLoader(DATA, **LOADERS[kind](), **options), seed=seed, epochs=3)


def load(loader: Loader, epochs: int = 3) -> list[Tensor]:
    batches = [batch for _ in range(epochs - loader.epoch) for batch in loader]
    loader.close()
    return batches


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def indices(batches: list[Tensor]) -> list[int]:
    return [int(row[0]) for batch in batches for row in batch]


@pytest.mark.parametrize("kind", LOADERS)
def test_it_resumes_again_and_again_at_every_batch(kind: str) -> None:
    whole = load(adopt(kind))
    for step in (1, 3):
        seen: list[Tensor] = []
        state = adopt(kind).state_dict()
        while len(seen) < len(whole):
            random.seed(len(seen))  # the state of the generators must not matter
            loader = adopt(kind, seed=8)  # the seed is part of the state
            loader.load_state_dict(state)
            while loader.epoch < 3 and len(seen) < len(whole):
                taken = list(itertools.islice(loader, step))
                seen += taken
                state = loader.state_dict()
                if taken and loader.consumed:
                    break
        assert same(seen, whole), kind


@pytest.mark.parametrize("kind", ["shuffled", "weighted", "buckets", "counting"])
def test_workers_change_nothing(kind: str) -> None:
    assert same(load(adopt(kind, num_workers=2, prefetch_factor=3)), load(adopt(kind)))


def test_each_kind_of_sampler_keeps_its_meaning() -> None:
    once = [indices(load(adopt(kind), 1)) for kind in ("in order", "shuffled", "dropping the last", "a subset", "some")]
    everything = list(range(LENGTH))
    assert once[0] == everything
    assert sorted(once[1]) == everything != once[1]
    assert len(once[2]) == len(set(once[2])) == 20
    assert sorted(once[3]) == [1, 2, 3, 4, 6, 9, 15]
    assert len(once[4]) == len(set(once[4])) == 10
    assert type(adopt("shuffled").sampler) is Sampler  # 4 bytes per sample; PyTorch's sampler makes a list
    assert indices(load(adopt("a list"), 1)) == [5, 3, 8, 1, 1, 0]
    many = DataLoader(DATA, batch_size=64, sampler=WeightedRandomSampler(WEIGHTS, 70_000))
    weighted = Counter(
        torch.cat([torch.from_numpy(key.indices) for key in adopt_loader(many, seed=1).sampler.keys(epoch=0)]).tolist()
    )
    assert sum(weighted.values()) == 70_000
    total = sum(WEIGHTS)
    for index, weight in enumerate(WEIGHTS):
        assert abs(weighted[index] - 70_000 * weight / total) <= 5 * (70_000 * weight / total) ** 0.5


def test_a_sample_that_comes_twice_in_an_epoch_is_augmented_differently() -> None:
    for kind in ("weighted", "a list"):
        rows = torch.cat(load(adopt(kind), 1))
        assert len(set(rows[:, 1].tolist())) == len(rows)


def test_epochs_seeds_and_generators_give_orders_of_their_own() -> None:
    batches = load(adopt("shuffled"))
    assert indices(batches[:6]) != indices(batches[6:12])
    assert indices(batches) != indices(load(adopt("shuffled", seed=8)))
    seeded = set()
    for number in (1, 2):
        theirs = DataLoader(DATA, 4, shuffle=True, generator=torch.Generator().manual_seed(number))
        seeded.add(tuple(indices(load(adopt_loader(theirs, seed=0)))))
    for number in (1, 2):
        sampler = Shuffled("numpy")
        sampler.generator = np.random.default_rng(number)
        seeded.add(tuple(indices(load(adopt_loader(DataLoader(DATA, 4, sampler=sampler), seed=0)))))
    assert len(seeded) == 4


@pytest.mark.parametrize("kind", ["global python", "global torch", "legacy", "buckets"])
def test_drawing_leaves_every_generator_as_it_was(kind: str) -> None:
    options = LOADERS[kind]()
    sampler = options.get("sampler")
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()
    own = None if sampler is None or sampler.generator is None else sampler.generator.get_state()[1].tolist()
    load(adopt_loader(DataLoader(DATA, **options), seed=1, epochs=3))
    assert before[0] == random.getstate()
    assert torch.equal(before[1], torch.get_rng_state())
    assert before[2] == np.random.get_state()[1].tolist()
    assert own is None or own == sampler.generator.get_state()[1].tolist()


def test_the_result_is_that_of_the_persons_collate_and_worker_start() -> None:
    def collate(samples: list[Tensor]) -> dict[str, Tensor]:
        return {"x": torch.stack(samples), "noise": torch.rand(())}

    loader = adopt("shuffled", collate_fn=collate, num_workers=1, worker_init_fn=_set_default_type)
    batch = next(iter(loader))
    assert set(batch) == {"x", "noise"}
    assert batch["noise"].dtype == torch.float64  # set by worker_init_fn
    loader.close()


def _set_default_type(_: int) -> None:
    torch.set_default_dtype(torch.float64)


def test_what_scripts_read_of_their_loader_is_there() -> None:
    loader = adopt("a subset")
    assert len(loader) == loader.batches == 2
    assert loader.dataset is DATA
    assert len(adopt("dropping the last")) == 5


def test_an_epoch_that_is_left_early_is_followed_by_the_next() -> None:
    for workers in (0, 2):
        whole = load(adopt("shuffled"))
        loader = adopt("shuffled", num_workers=workers)
        first = list(itertools.islice(loader, 2))
        loader.next_epoch()
        assert loader.state_dict()["epoch"] == 1
        assert same([*first, *load(loader)], [*whole[:2], *whole[6:]])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


class Endless:
    def __iter__(self) -> Iterator[int]:
        return itertools.count()


def test_what_cannot_be_exact_is_refused_with_its_name_and_reason() -> None:
    with pytest.raises(TaskError, match="Stream is an iterable data set without a state"):
        adopt_loader(DataLoader(Stream(), 2), seed=0)
    with pytest.raises(TaskError, match="The sampler Endless has no length"):
        adopt_loader(DataLoader(DATA, 2, sampler=Endless()), seed=0)
    with pytest.raises(TaskError, match="batch_size=None"):
        adopt_loader(DataLoader(DATA, None), seed=0)
    with pytest.raises(TaskError, match="Counting yields a different order each time"):
        adopt_loader(DataLoader(DATA, 2, sampler=Counting()), seed=0)
    with pytest.raises(TaskError, match="yields no batch"):
        adopt_loader(DataLoader(TensorDataset(torch.zeros(0)), 2), seed=0)


def test_a_sampler_that_draws_another_order_after_the_resume_is_found() -> None:
    sampler = ByEpoch()
    loader = adopt_loader(DataLoader(DATA, 4, sampler=sampler), seed=0, epochs=3)
    list(itertools.islice(loader, 2))
    state = loader.state_dict()
    other = Shuffled("global python")
    resumed = adopt_loader(DataLoader(DATA, 4, sampler=other), seed=0, epochs=3)
    resumed.load_state_dict(state)
    with pytest.raises(TaskError, match="Shuffled drew a different order for epoch 1"):
        next(iter(resumed))
