"""The `stdlib-gpt` task: the text of the Python standard library, cut into windows of bytes for a GPT."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import platform
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from relight.errors import TaskError
from relight.tasks.config import TaskConfig
from relight.tasks.stdlib_gpt_config import StdlibGptConfig, list_sources, stdlib_root
from relight.training.task import Data, Task
from relight.training.tasks.gpt import SHAPES, Gpt

HELD_OUT_SHARE = 0.05
Text = npt.NDArray[np.uint8]
_log = logging.getLogger("relight")


class StdlibGpt(Task):
    """Predict the next byte of Python source."""

    Config: ClassVar[type[TaskConfig]] = StdlibGptConfig
    best_metric: ClassVar[str] = "loss"

    def build_model(self) -> nn.Module:
        """Build the GPT of the size that the config names."""
        return Gpt(SHAPES[self.config.size], context=self.config.context, dropout=self.config.dropout)

    def build_data(self) -> Data:
        """Read the standard library; about one file in twenty is held out, chosen by a hash of its path."""
        train, validation = read_corpus(stdlib_root())
        context = self.config.context
        if min(len(train), len(validation)) <= context:
            raise TaskError(
                f"stdlib-gpt found only {len(train) + len(validation):,} bytes of Python source in {stdlib_root()}: "
                "use a Python that ships the source of its standard library."
            )
        return Data(
            train=RandomWindows(train, context=context, count=self.config.samples_per_epoch),
            validation=Windows(validation, context=context, count=self.config.validation_samples),
            collate=stack_windows,
        )

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Loss in nats per byte, and accuracy, of one batch of windows, uint8 [N, context + 1]."""
        tokens = batch.long()  # here and not in the loader, because bytes reach the device eight times as fast
        targets = tokens[:, 1:].flatten()
        logits = model(tokens[:, :-1]).flatten(0, 1)
        loss = F.cross_entropy(logits, targets)
        accuracy = (logits.detach().argmax(-1) == targets).float().mean()
        return {"loss": loss, "bits_per_byte": loss.detach() / math.log(2), "accuracy": accuracy}


class Windows(Dataset[Text]):
    """`count` windows of `context` + 1 bytes, evenly spread over the text, the same every time."""

    def __init__(self, text: Text, *, context: int, count: int) -> None:
        self.text = text
        self.length = context + 1
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Text:
        start = index * (len(self.text) - self.length) // max(1, self.count - 1)
        return self.text[start : start + self.length]


class RandomWindows(Windows):
    """`count` windows from random places, so that each epoch sees different parts of the text."""

    def sample(self, index: int, generator: torch.Generator) -> Text:
        """Return a window at a position drawn from `generator`."""
        start = int(torch.randint(len(self.text) - self.length + 1, (), generator=generator))
        return self.text[start : start + self.length]


def stack_windows(windows: list[Text]) -> Tensor:
    """Make one uint8 batch [N, context + 1] of windows."""
    return torch.from_numpy(np.stack(windows))


@functools.lru_cache(maxsize=1)
def read_corpus(root: Path) -> tuple[Text, Text]:
    """Read the standard library at `root` into a training and a validation text, files in a fixed order."""
    train, validation = bytearray(), bytearray()
    count = unreadable = 0
    for path in list_sources(root):
        try:
            source = (root / path).read_bytes()
        except OSError:
            unreadable += 1
            continue
        count += 1
        place = hashlib.blake2b(path.as_posix().encode(errors="surrogateescape"), digest_size=8).digest()
        held_out = int.from_bytes(place, "big") < HELD_OUT_SHARE * 2**64
        (validation if held_out else train).extend(source)
    if unreadable:
        _log.warning("%d files of the standard library in %s could not be read and are left out.", unreadable, root)
    _log.info(
        "Text: %d files of the standard library of Python %s, %.1f MB for training, %.1f MB held out.",
        count, platform.python_version(), len(train) / 1e6, len(validation) / 1e6,
    )  # fmt: skip
    return np.frombuffer(bytes(train), dtype=np.uint8), np.frombuffer(bytes(validation), dtype=np.uint8)
