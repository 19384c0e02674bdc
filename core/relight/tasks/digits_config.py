"""The config of the `digits` task."""

from __future__ import annotations

import importlib.util

from relight.errors import TaskError
from relight.tasks.config import TaskConfig, option


class DigitsConfig(TaskConfig):
    """A small convolutional network on scikit-learn's scanned digits."""

    width: int = option(32, "Channels of the first convolution; the second has twice as many.", ge=4, le=512)
    dropout: float = option(0.2, "Fraction of features dropped before the last layer.", ge=0, lt=1)

    epochs: int = option(12, "Passes over the training data.", group="Optimization", ge=1, le=1_000_000)
    lr: float = option(3e-3, "Peak learning rate.", group="Optimization", gt=0, le=100)
    warmup_steps: int = option(
        20, "Steps over which the learning rate rises to its peak.", group="Optimization", ge=0, le=10**12
    )

    threads: int = option(
        1, "CPU threads for PyTorch; more than one slows down a model this small.", group="Hardware", ge=0, le=1024
    )


def check(config: DigitsConfig) -> None:
    """Raise `TaskError` when scikit-learn, which ships the scans, is not installed."""
    if importlib.util.find_spec("sklearn") is None:
        raise TaskError(
            "digits needs scikit-learn, which ships the scanned digits. Install it with: pip install scikit-learn"
        )
