"""A stream that can report its position can resume at every batch, even while workers read ahead."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from relight.checkpoints.typed_json import decode_state, encode_state
from relight.errors import TaskError
from relight.training.data.adopted_loader import adopt_loader
from relight.training.data.stream_loader import StreamLoader
from relight.training.state.rng import RngRecorder, encode_rng, seed_everything

LENGTHS = (11, 4, 9)  # of the parts of the stream, one per worker


class Stream(IterableDataset[Any]):
    """A stream with a part for each worker, a shuffle buffer with its own generator, and noise from the global ones."""

    def __init__(self) -> None:
        self.place, self.epoch = 0, 0
        self.shuffle = random.Random(5)
        self.buffer: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Tensor]:
        info = get_worker_info()
        part = 0 if info is None else info.id
        assert info is None or info.dataset is self
        while self.place < LENGTHS[part] or self.buffer:
            while self.place < LENGTHS[part] and len(self.buffer) < 3:
                self.buffer.append(100 * part + self.place)
                self.place += 1
            chosen = self.buffer.pop(self.shuffle.randrange(len(self.buffer)))
            noise = random.random() + np.random.rand() + float(torch.rand(()))
            yield torch.tensor([self.epoch * 1000 + chosen, noise], dtype=torch.float64)
        self.place = 0  # many streams reset it here for the next epoch

    def state_dict(self) -> dict[str, Any]:
        return {"place": self.place, "buffer": self.buffer, "shuffle": self.shuffle.getstate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.place, self.buffer = state["place"], list(state["buffer"])
        self.shuffle.setstate(state["shuffle"])


class Numbers:
    """An iterator with a state, like torchdata's nodes."""

    def __init__(self) -> None:
        self.place = 0

    def __iter__(self) -> Numbers:
        return self

    def __next__(self) -> Tensor:
        if self.place == 10:
            raise StopIteration
        self.place += 1
        return torch.tensor([float(self.place), random.random()], dtype=torch.float64)

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


class ByIterator(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Tensor]:
        return Numbers()


class Plain(IterableDataset[Any]):
    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(10).tolist()
        return iter([torch.tensor([number, random.random()], dtype=torch.float64) for number in order])


class Failing(Stream):
    def __iter__(self) -> Iterator[Tensor]:
        yield torch.zeros(2)
        raise TaskError("shard 7 is broken")


class Stateful(DataLoader[Any]):
    """Stands in for torchdata's StatefulDataLoader on machines without torchdata."""

    def state_dict(self) -> dict[str, Any]:
        raise AssertionError("the position is kept elsewhere")

    load_state_dict = state_dict


def adopt(dataset: type[IterableDataset[Any]] = Stream, *, loader: Any = DataLoader, **options: Any) -> StreamLoader:
    options = {"batch_size": 2, **options}
    adopted = adopt_loader(loader(dataset(), **options), seed=3)
    assert isinstance(adopted, StreamLoader)
    return adopted


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def load(loader: StreamLoader, epochs: int = 2) -> list[Tensor]:
    batches = [batch for _ in range(epochs - loader.epoch) for batch in loader]
    loader.close()
    return batches


pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

KINDS: dict[str, dict[str, Any]] = {
    "in this process": {},
    "dropping the last": {"drop_last": True},
    "without batches": {"batch_size": None},
    "by iterator": {"dataset": ByIterator},
    "read again": {"dataset": Plain, "loader": Stateful},
    "one worker": {"num_workers": 1},
    "three workers": {"num_workers": 3, "prefetch_factor": 3},
    "three workers, dropping the last": {"num_workers": 3, "drop_last": True, "batch_size": 3},
    "read again by a worker": {"dataset": Plain, "loader": Stateful, "num_workers": 1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_resumes_again_and_again_at_every_batch(kind: str) -> None:
    whole = load(adopt(**KINDS[kind]))
    step = 7 if "worker" in kind else 2  # fewer resumes, because each one starts processes
    seen: list[Tensor] = []
    state = adopt(**KINDS[kind]).state_dict()
    while True:
        seed_everything(len(seen))
        loader = adopt(**KINDS[kind])
        loader.load_state_dict(decode_state(encode_state(state)))
        loader.open()
        while loader.epoch < 2:
            taken = list(itertools.islice(loader, step))
            seen += taken
            if taken:
                break
        state = loader.state_dict()
        loader.close()
        if loader.epoch == 2:
            break
    assert same(seen, whole)


def test_every_worker_reads_its_part_once_an_epoch_in_turns() -> None:
    numbers = [int(batch[0, 0]) for batch in load(adopt(num_workers=3, batch_size=1), epochs=1)]
    assert sorted(numbers) == [100 * part + place for part, length in enumerate(LENGTHS) for place in range(length)]
    assert [number // 100 for number in numbers[:6]] == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_leaves_the_global_generators_alone(workers: int) -> None:
    seed_everything(1)
    before = encode_rng(RngRecorder().capture())
    load(adopt(num_workers=workers))
    after = encode_rng(RngRecorder().capture())
    assert before[0] == after[0]
    assert torch.equal(before[1]["torch"], after[1]["torch"])


def test_an_epoch_that_is_left_early_is_followed_by_the_next() -> None:
    whole = load(adopt(num_workers=1))
    loader = adopt(num_workers=1)
    first = list(itertools.islice(loader, 2))
    loader.next_epoch()
    assert same([*first, *load(loader)], [*whole[:2], *whole[6:]])


def test_a_length_is_told_where_there_is_one() -> None:
    assert len(adopt(Plain, loader=Stateful, batch_size=4)) == 3
    assert adopt(Plain, loader=Stateful, batch_size=4, drop_last=True).batches == 2
    assert adopt().batches == 0
    with pytest.raises(TypeError, match="Stream has no length"):
        len(adopt())


def test_what_cannot_be_exact_is_refused_with_its_name_and_reason() -> None:
    with pytest.raises(TaskError, match="Plain is an iterable data set without a state"):
        adopt(Plain)
    state = adopt(num_workers=1).state_dict()
    with pytest.raises(TaskError, match="was read by 1 workers, and is now read by 0"):
        adopt().load_state_dict(state)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_persons_error_arrives_as_their_sentence(workers: int) -> None:
    loader = adopt(Failing, num_workers=workers, batch_size=1)
    batches = iter(loader)
    next(batches)
    with pytest.raises(TaskError, match=r"^shard 7 is broken$"):
        next(batches)
    loader.close()


def test_a_worker_is_prepared_for_the_part_that_it_reads() -> None:
    def prepare(part: int) -> None:
        info = get_worker_info()
        assert info is not None and info.id == part
        info.dataset.place = 2

    whole = load(adopt(num_workers=3, worker_init_fn=prepare))
    loader = adopt(num_workers=3, worker_init_fn=prepare)
    seen = list(itertools.islice(loader, 4))
    resumed = adopt(num_workers=3, worker_init_fn=prepare)
    resumed.load_state_dict(loader.state_dict())
    loader.close()
    assert same(seen + load(resumed), whole)
    assert min(int(number) % 100 for batch in whole for number in batch[:, 0]) == 2


@pytest.mark.parametrize("dataset", [Stream, Plain])
def test_the_loader_of_torchdata_is_taken_over(dataset: type[IterableDataset[Any]]) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader", reason="torchdata is not installed")
    whole = load(adopt(dataset, loader=torchdata.StatefulDataLoader))
    loader = adopt(dataset, loader=torchdata.StatefulDataLoader)
    seen = list(itertools.islice(loader, 3))
    resumed = adopt(dataset, loader=torchdata.StatefulDataLoader)
    resumed.load_state_dict(loader.state_dict())
    assert same(seen + load(resumed), whole)
