"""The cells of the exactness matrix: what is trained, how it is loaded, when it is killed; and a subset for every day.

The subset is pairwise: of any two properties, every combination of their values is in it. Loads no torch.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

OPTIMIZERS = ("sgd", "adamw", "adamw fused", "adamw foreach", "adafactor", "muon", "lbfgs")
MODELS = ("batch norm", "dropout", "spectral norm", "ema", "tied", "frozen", "accumulate 4")
WORKERS = ("0", "2", "2 persistent")
MOMENTS = ("mid-epoch", "last batch", "epoch edge", "inside validation", "second resume")
SCHEDULES = (
    "lambda",
    "multiplicative",
    "step",
    "multi step",
    "constant",
    "linear",
    "exponential",
    "sequential",
    "polynomial",
    "cosine",
    "chained",
    "plateau",
    "cyclic",
    "one cycle",
    "warm restarts",
    "swa",
)

BATCHES = 7
"""Batches of an epoch, the last of them short."""


@dataclass(frozen=True)
class Kill:
    """Where the process kills itself: in training batch `batch` of `epoch`, or in the validation after `epoch`."""

    epoch: int
    batch: int
    validating: bool = False

    def step(self, *, accumulate: int) -> int:
        """Return the last step that is done by then."""
        of_epoch = -(-BATCHES // accumulate)
        return (self.epoch + self.validating) * of_epoch + (0 if self.validating else self.batch // accumulate)


KILLS: dict[str, tuple[Kill, ...]] = {
    "mid-epoch": (Kill(1, 5),),
    "last batch": (Kill(0, BATCHES - 1),),
    "epoch edge": (Kill(1, 0),),
    "inside validation": (Kill(0, 1, validating=True),),
    "second resume": (Kill(1, 1), Kill(1, 5)),
}


@dataclass(frozen=True)
class Cell:
    """One training that is killed and resumed."""

    optimizer: str
    model: str
    workers: str
    moment: str

    @property
    def twin(self) -> tuple[str, str]:
        """What the uninterrupted training depends on: how the data is loaded must change nothing."""
        return self.optimizer, self.model

    @property
    def schedule(self) -> str:
        """The schedule of the learning rate, all of them in turn."""
        place = len(MODELS) * OPTIMIZERS.index(self.optimizer) + MODELS.index(self.model)
        return SCHEDULES[place % len(SCHEDULES)]

    @property
    def accumulate(self) -> int:
        """Batches to one step."""
        return 4 if self.model == "accumulate 4" else 1

    def __str__(self) -> str:
        return f"{self.optimizer} | {self.model} | {self.workers} workers | {self.moment} | {self.schedule}"


def all_cells() -> list[Cell]:
    """Return the whole matrix."""
    return [Cell(*values) for values in itertools.product(OPTIMIZERS, MODELS, WORKERS, MOMENTS)]


def pairwise_cells() -> list[Cell]:
    """Return as few cells as there can be with every pair in them: one for each optimizer and model."""
    cells = []
    for i, optimizer in enumerate(OPTIMIZERS):
        for j, model in enumerate(MODELS):
            workers, moment = WORKERS[(i + j) % len(WORKERS)], MOMENTS[(i + 2 * j) % len(MOMENTS)]
            cells.append(Cell(optimizer, model, workers, moment))
    return cells
