"""The batches do not depend on the number of worker processes, and loading leaves the global generators unchanged."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import random
import signal
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset, default_collate, random_split

from relight.errors import TaskError
from relight.training.data.batch_source import BatchSource
from relight.training.data.loader import Loader, ValidationLoader, move_batch
from relight.training.data.loading_processes import WorkerOptions
from relight.training.data.sampler import Sampler
from relight.training.data.stream_loader import StreamLoader
from relight.training.state.rng import RngRecorder, encode_rng, seed_everything
from tests.patience import stretch


class Globals(Dataset[Any]):
    """Samples with numbers from the chosen global generators."""

    def __init__(self, length: int = 40, *, kinds: str = "pnt") -> None:
        self.length, self.kinds = length, kinds

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        values = [float(index)]
        if "p" in self.kinds:
            values.append(random.random())
        if "n" in self.kinds:
            values.append(float(np.random.randn()))  # the legacy generator draws Gaussians in pairs
        if "t" in self.kinds:
            values.append(float(torch.rand(())))
        if "r" in self.kinds and index % 7 == 0:  # only for some samples
            values[0] += random.random()
        return torch.tensor(values)


class Drawn(Dataset[Any]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Tensor:
        raise AssertionError("sample() comes first")

    def sample(self, index: int, generator: torch.Generator) -> Tensor:
        return index + torch.rand((), generator=generator)


class Failing(Globals):
    def __getitem__(self, index: int) -> Tensor:
        raise TaskError(f"picture {index} is broken")


def collate_with_mixup(samples: list[Tensor]) -> Tensor:
    return torch.stack(samples) * torch.rand(())


def load(dataset: Dataset[Any], *, workers: int = 0, epochs: int = 2, **options: Any) -> list[Tensor]:
    loader = Loader(dataset, batch_size=6, seed=5, epochs=epochs, workers=workers, **options)
    batches = [batch for _ in range(epochs) for batch in loader]
    loader.close()
    return batches


def same(ours: list[Any], theirs: list[Any]) -> bool:
    return len(ours) == len(theirs) and all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kinds", ["", "p", "n", "t", "pnt", "r"])
def test_two_workers_give_the_batches_that_none_gives_whatever_a_data_set_draws_from(kinds: str) -> None:
    dataset = Globals(kinds=kinds)
    seed_everything(0)
    ours = load(dataset)
    seed_everything(99)
    assert same(load(dataset, workers=2), ours)


def test_a_sample_gets_its_generator_seeded_by_epoch_and_index() -> None:
    ours = load(Drawn())
    assert same(load(Drawn(), workers=2), ours)
    first_epoch = torch.cat(ours[: len(ours) // 2]).sort().values
    second_epoch = torch.cat(ours[len(ours) // 2 :]).sort().values
    assert torch.equal(first_epoch.floor(), second_epoch.floor())
    assert not torch.any(first_epoch == second_epoch)


def test_a_random_collate_is_seeded_too() -> None:
    ours = load(Globals(kinds=""), collate=collate_with_mixup)
    assert same(load(Globals(kinds=""), collate=collate_with_mixup, workers=2), ours)
    assert len({float(batch[0, 0] / (batch[1, 0] or 1)) for batch in ours}) > 1


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_global_generators_alone(workers: int) -> None:
    seed_everything(1)
    before = encode_rng(RngRecorder().capture())
    load(Globals(kinds="pnt"), workers=workers)
    after = encode_rng(RngRecorder().capture())
    assert before[0] == after[0]
    assert torch.equal(before[1]["torch"], after[1]["torch"])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 8 worker processes")
@pytest.mark.parametrize(("consumed", "workers"), [*itertools.product([0, 1, 6, 7, 13], [0, 2]), (3, 8)])
def test_a_loader_resumes_at_every_batch_however_much_was_loaded_ahead(consumed: int, workers: int) -> None:
    dataset = Globals(kinds="pt")
    whole = load(dataset)
    loader = Loader(dataset, batch_size=6, seed=5, epochs=2, workers=workers)
    seen = list(itertools.islice(_endless(loader), consumed))
    state = loader.state_dict()
    loader.close()
    resumed = Loader(dataset, batch_size=6, seed=5, epochs=2, workers=workers)
    resumed.load_state_dict(state)
    rest = [batch for _ in range(2 - resumed.epoch) for batch in resumed]
    resumed.close()
    assert same(seen + rest, whole)


def test_data_of_another_length_is_refused() -> None:
    state = Loader(Globals(40), batch_size=6, seed=5).state_dict()
    with pytest.raises(TaskError, match="41 samples now, but had 40"):
        Loader(Globals(41), batch_size=6, seed=5).load_state_dict(state)


def test_data_that_cannot_be_trained_on_gets_a_sentence() -> None:
    with pytest.raises(TaskError, match="is empty"):
        Loader(Globals(0), batch_size=6, seed=5)
    with pytest.raises(TaskError, match="fewer than one batch of 64"):
        Loader(Globals(5), batch_size=64, seed=5, drop_last=True)
    with pytest.raises(TaskError, match="has no length"):
        Loader(torch.utils.data.Dataset(), batch_size=6, seed=5)


def test_a_persons_error_in_a_worker_arrives_as_their_sentence() -> None:
    loader = Loader(Failing(), batch_size=6, seed=5, workers=1)
    with pytest.raises(TaskError, match=r"^picture \d+ is broken$"):
        next(iter(loader))
    loader.close()


def test_a_tensor_data_set_is_indexed_by_batches_with_the_result_of_its_samples() -> None:
    dataset = TensorDataset(torch.randn(30, 3, 2), torch.arange(30), torch.rand(30) > 0.5)
    for one in (dataset, Subset(dataset, [3, 1, 4, 15, 9, 2, 6]), random_split(dataset, [20, 10])[0]):
        sampler = Sampler(len(one), batch_size=4, seed=1)
        source = BatchSource(one, seed=1)
        for key in sampler.keys(epoch=0):
            expected = default_collate([one[int(index)] for index in key.indices])
            loaded = source(key)
            assert type(loaded) is type(expected)
            for ours, theirs in zip(loaded, expected, strict=True):
                assert ours.dtype == theirs.dtype
                assert torch.equal(ours, theirs)


def test_a_subset_keeps_the_samples_own_generator() -> None:
    key = next(iter(Sampler(3, batch_size=3, seed=0, shuffle=False).keys(epoch=0)))
    assert BatchSource(Subset(Drawn(), [7, 8, 9]), seed=0)(key).floor().tolist() == [7.0, 8.0, 9.0]


def test_a_source_can_be_sent_to_a_process_that_starts_afresh() -> None:
    key = next(iter(Sampler(40, batch_size=6, seed=0).keys(epoch=0)))
    for dataset in (Globals(kinds="pnt"), Drawn()):
        source = BatchSource(dataset, seed=3)
        before = source(key)
        assert torch.equal(pickle.loads(pickle.dumps(source))(key), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_validation_is_the_same_every_time(workers: int) -> None:
    loader = ValidationLoader(Globals(kinds="pnt"), batch_size=16, seed=5, workers=workers)
    first, second = [batch for batch, _ in loader], [batch for batch, _ in loader]
    assert same(first, second)
    assert same(first, [batch for batch, _ in ValidationLoader(Globals(kinds="pnt"), batch_size=16, seed=5)])
    assert [count for _, count in loader] == [16, 16, 8]
    assert torch.cat(first)[:, 0].tolist() == list(range(40))
    loader.close()
    assert same(first, [batch for batch, _ in loader]), "closed, it can be used again"
    loader.close()


class Stuck(Globals):
    def __getitem__(self, index: int) -> Tensor:
        if index > 3:
            time.sleep(3600)
        return torch.zeros(())


@pytest.mark.processes
def test_closing_a_loader_ends_its_processes_even_one_that_is_stuck_in_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # PyTorch's wait per worker
    loader = Loader(Stuck(), batch_size=2, seed=5, workers=1, shuffle=False)
    next(iter(loader))
    workers = psutil.Process().children()
    loader.close()
    _wait_for(lambda: [worker for worker in workers if not _is_alive(worker)], count=1)


@pytest.mark.processes
def test_workers_ignore_the_signals_that_stop_a_training_and_die_with_the_trainer() -> None:
    pid = os.fork()
    if pid == 0:  # a separate trainer, which the test kills
        with contextlib.suppress(BaseException):
            # PyTorch's workers check for their parent only every 5 s. Until then they would hold the run's lock.
            torch.utils.data._utils.worker.MP_STATUS_CHECK_INTERVAL = 3600.0
            loader = Loader(Globals(10_000, kinds=""), batch_size=2, seed=5, epochs=1000, workers=2)
            for _ in _endless(loader):
                time.sleep(0.01)
        os._exit(0)
    trainer = psutil.Process(pid)
    try:
        workers = _wait_for(lambda: [child for child in trainer.children() if child.is_running()], count=2)
        for worker in workers:
            _wait_for(lambda worker=worker: [1] if _ignores_sigterm(worker.pid) else [], count=1)
            worker.send_signal(signal.SIGTERM)
            worker.send_signal(signal.SIGINT)
        assert all(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    _wait_for(lambda: [worker for worker in workers if not _is_alive(worker)], count=2)


@pytest.mark.processes
def test_workers_outlive_the_thread_that_has_started_them() -> None:
    loader = Loader(Globals(12, kinds=""), batch_size=2, seed=5, epochs=2, workers=1)
    batches: list[Any] = []
    try:
        for _ in range(2):  # a thread that fetches ahead, in each epoch another one
            thread = threading.Thread(target=lambda: batches.extend(loader))
            thread.start()
            thread.join()
    finally:
        loader.close()
    assert len(batches) == 12


def test_a_batch_moves_whatever_it_is_nested_in() -> None:
    pair = namedtuple("pair", "x y")
    batch = {"a": [torch.ones(2), "text"], "b": pair(torch.zeros(1), 3), "c": (torch.ones(1),)}
    moved = move_batch(batch, torch.device("meta"))
    assert moved["a"][0].is_meta
    assert moved["a"][1] == "text"
    assert type(moved["b"]).__name__ == "pair"
    assert moved["b"].x.is_meta
    assert moved["c"][0].is_meta


def _endless(loader: Loader) -> Iterator[Any]:
    while True:
        yield from loader


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _ignores_sigterm(pid: int) -> bool:
    status = dict(
        line.split(":", 1)
        for line in open(f"/proc/{pid}/status").read().splitlines()  # noqa: SIM115, PTH123
    )
    return bool(int(status["SigIgn"].strip(), 16) >> (signal.SIGTERM - 1) & 1)


def _wait_for(find: Any, *, count: int) -> list[Any]:
    deadline = time.monotonic() + 30
    while len(found := find()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_full_shared_memory_ends_the_loading_with_its_cure(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    def share(tensor: Tensor) -> Tensor:
        raise RuntimeError("unable to write to file </torch_7_1_0>: No space left on device (28)")

    monkeypatch.setattr(Tensor, "share_memory_", share)  # the workers inherit it
    options = WorkerOptions(workers=2, timeout_s=stretch(60))
    loader: Any
    if stream:
        loader = StreamLoader(Endless(), batch_size=4, seed=1, options=options)
    else:
        data = TensorDataset(torch.zeros(40, 3))
        loader = Loader.in_order(
            data, Sampler(40, batch_size=4, seed=1, shuffle=False, drop_last=False), options=options
        )
    with contextlib.closing(loader), pytest.raises(TaskError, match=r"/dev/shm is full.*0 workers.*--shm-size"):
        next(iter(loader))


class Endless(IterableDataset[Any]):
    """Tensors without an end."""

    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield torch.zeros(3)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
