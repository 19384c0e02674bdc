"""Keeps a person's own `DataLoader` with persistent workers from making a resume draw other random numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader


def seed_persistent_workers_apart() -> None:
    """From now on, take the seed of persistent workers from a generator of their own.

    PyTorch draws it from the global generator when the workers start: in the first pass over such a loader, and not in
    the later ones. After a resume the first pass is another one, and the model would draw other numbers than before.
    """
    get_iterator = DataLoader._get_iterator

    def get_iterator_apart(loader: DataLoader[Any]) -> Any:
        if not loader.persistent_workers or not loader.num_workers or loader.generator is not None:
            return get_iterator(loader)
        loader.generator = torch.Generator().manual_seed(torch.initial_seed() % 2**63)
        try:
            return get_iterator(loader)
        finally:
            loader.generator = None

    DataLoader._get_iterator = get_iterator_apart  # type: ignore[assignment, method-assign]
