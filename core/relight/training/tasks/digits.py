"""The `digits` task: a small convolutional network on scikit-learn's 1,797 scanned digits."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from relight.errors import TaskError
from relight.tasks.config import TaskConfig
from relight.tasks.digits_config import DigitsConfig
from relight.training.task import Data, Task

VALIDATION_SHARE = 0.2
LARGEST_PIXEL = 16.0


class Digits(Task):
    """Read 8 by 8 scans of handwritten digits."""

    Config: ClassVar[type[TaskConfig]] = DigitsConfig
    best_metric: ClassVar[str] = "accuracy"

    def build_model(self) -> nn.Module:
        """Two convolutions with batch norm on the full scan, one after pooling, and a linear layer."""
        width = self.config.width
        return nn.Sequential(
            *_convolution(1, width),
            *_convolution(width, 2 * width),
            nn.MaxPool2d(2),
            *_convolution(2 * width, 2 * width),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(self.config.dropout),
            nn.Linear(2 * width * 4, 10),
        )

    def build_data(self) -> Data:
        """Load the scans from scikit-learn's own files; a fixed fifth of each digit is held out."""
        images, labels = _read_scans()
        held_out = held_out_rows(labels)
        pixels = torch.from_numpy(images.astype(np.float32) / LARGEST_PIXEL).view(-1, 1, 8, 8)
        targets = torch.from_numpy(labels.astype(np.int64))
        mask = torch.from_numpy(held_out)
        return Data(
            train=TensorDataset(pixels[~mask], targets[~mask]), validation=TensorDataset(pixels[mask], targets[mask])
        )

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Cross-entropy and accuracy of one batch of (pixels [N, 1, 8, 8], labels [N])."""
        pixels, labels = batch
        logits = model(pixels)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}


def _read_scans() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images [1797, 64] of 0 to 16, and labels [1797]; read without importing scikit-learn, which takes 1.5 s."""
    package = find_spec("sklearn")
    if package is None:
        raise TaskError(
            "digits needs scikit-learn, which carries the scans: install it with `pip install scikit-learn`."
        )
    for folder in package.submodule_search_locations or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            rows = np.loadtxt(path, delimiter=",")
            return rows[:, :-1], rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images, labels


def held_out_rows(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Mark a fixed fifth of each class for validation, chosen by a hash of the row number, not by a random seed."""
    order = np.array(
        [int.from_bytes(hashlib.blake2b(b"%d" % row, digest_size=7).digest(), "big") for row in range(len(labels))]
    )
    held_out = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held_out[rows[np.argsort(order[rows])][: round(VALIDATION_SHARE * len(rows))]] = True
    return held_out


def _convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]
