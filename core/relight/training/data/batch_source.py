"""Loads the batch that a key names, with separate random numbers for each sample, in any process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from relight.training.data.global_generators import GlobalGenerator, global_generators
from relight.training.data.sampler import BatchKey, Indices
from relight.training.state.seeds import sample_seeds

_COLLATE = np.array([2**63 - 1])  # replaces the sample's index when the seed for collating is made

Collate = Callable[[list[Any]], Any]


class BatchSource:
    """Loads the batch that a key names: the same one in the trainer and in any data-loading process.

    * A data set that defines `sample(index, generator)` gets a generator seeded for each sample.
    * Any other data set may draw from the global generators of Python, NumPy and torch. These are seeded for each
      sample and restored afterwards, so loading never changes the numbers that the model draws. Seeding all three
      costs 7 microseconds a sample, so only the generators that the data set has used are seeded; if a batch turns out
      to have used another one, it is loaded again.
    * A `TensorDataset` draws nothing, and is indexed by whole batches.
    """

    def __init__(self, dataset: Dataset[Any], *, seed: int, collate: Collate | None = None) -> None:
        self._dataset, self._places = _unwrap_subsets(dataset)
        self.seed = seed
        self._collate: Collate = collate or default_collate
        self._load = self._choose_way(collate)
        self._generator: torch.Generator | None = None
        self._globals: _WatchedGenerators | None = None

    def __call__(self, key: BatchKey) -> Any:
        """Load the batch."""
        return self._load(key)

    def __getstate__(self) -> dict[str, Any]:
        # Generators cannot be pickled; a spawned process makes its own.
        return {**self.__dict__, "_generator": None, "_globals": None}

    def _choose_way(self, collate: Collate | None) -> Callable[[BatchKey], Any]:
        if type(self._dataset) is TensorDataset and collate is None:
            return self._index_tensors
        if callable(getattr(self._dataset, "sample", None)):
            return self._draw_samples
        return self._get_items

    def _find(self, key: BatchKey) -> Indices:
        return key.indices if self._places is None else self._places[key.indices]

    def _seeds(self, key: BatchKey) -> list[int]:
        numbers = key.indices if key.numbers is None else key.numbers
        seeds: list[int] = sample_seeds(numbers, seed=self.seed, epoch=key.epoch).tolist()
        return seeds

    def _index_tensors(self, key: BatchKey) -> list[torch.Tensor]:
        """Return exactly what `default_collate` would: one operation for each tensor instead of two for each sample."""
        rows = torch.from_numpy(self._find(key).astype(np.int64, copy=False))
        return [tensor[rows] for tensor in self._dataset.tensors]  # type: ignore[attr-defined]

    def _draw_samples(self, key: BatchKey) -> Any:
        if self._generator is None:
            self._generator = torch.Generator()
        generator, dataset, samples = self._generator, self._dataset, []
        for index, seed in zip(self._find(key).tolist(), self._seeds(key), strict=True):
            generator.manual_seed(seed)
            samples.append(dataset.sample(index, generator))  # type: ignore[attr-defined]
        return self._collate(samples)

    def _get_items(self, key: BatchKey) -> Any:
        if self._globals is None:
            self._globals = _WatchedGenerators()
        seeds = self._seeds(key)
        collate_seed = int(sample_seeds(_COLLATE - key.start, seed=self.seed, epoch=key.epoch)[0])
        return self._globals.run(lambda draw: self._get_seeded(key, seeds, collate_seed, draw))

    def _get_seeded(self, key: BatchKey, seeds: list[int], collate_seed: int, draw: _Draw) -> Any:
        indices, dataset = self._find(key).tolist(), self._dataset
        if hasattr(dataset, "__getitems__"):
            samples = draw(collate_seed, lambda: dataset.__getitems__(indices))
        else:
            samples = [
                draw(seed, lambda index=index: dataset[index])  # type: ignore[misc]
                for index, seed in zip(indices, seeds, strict=True)
            ]
        return draw(collate_seed, lambda: self._collate(samples))


_Draw = Callable[[int, Callable[[], Any]], Any]


class _WatchedGenerators:
    """The global generators; only those that the data set has been seen to use are seeded."""

    def __init__(self) -> None:
        self._all = global_generators()
        self._used: set[GlobalGenerator] = set()
        self._learning = True

    def run(self, load: Callable[[_Draw], Any]) -> Any:
        """Load one batch with seeded generators, then restore all generators."""
        while True:
            before = [generator.capture() for generator in self._all]
            learning, used = self._learning, tuple(self._used)
            result = load(self._draw_and_learn if learning else self._draw)
            missed = False
            for generator, state in zip(self._all, before, strict=True):
                if learning or generator in used:
                    generator.restore(state)
                elif generator.capture() != state:
                    generator.restore(state)
                    self._used.add(generator)
                    missed = True
            self._learning = False
            if not missed:
                return result

    def _draw(self, seed: int, draw: Callable[[], Any]) -> Any:
        for generator in self._used:
            generator.seed(seed)
        return draw()

    def _draw_and_learn(self, seed: int, draw: Callable[[], Any]) -> Any:
        before = []
        for generator in self._all:
            generator.seed(seed)
            before.append(generator.capture())
        result = draw()
        for generator, state in zip(self._all, before, strict=True):
            if generator not in self._used and generator.capture() != state:
                self._used.add(generator)
        return result


def _unwrap_subsets(dataset: Dataset[Any]) -> tuple[Dataset[Any], Indices | None]:
    """Unwrap `Subset` and `random_split`; return the data set inside and each sample's index in it."""
    places: Indices | None = None
    while type(dataset) is Subset:
        inner: Sequence[int] = dataset.indices
        own = np.asarray(inner, dtype=np.int64)
        places = own if places is None else own[places]
        dataset = dataset.dataset
    return dataset, places
