"""The `images` task: a ResNet from scratch on any folder of class folders with pictures."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from relight.errors import TaskError
from relight.tasks.config import TaskConfig
from relight.tasks.images_config import ImagesConfig, check
from relight.tasks.picture_folder import Picture, PictureFolder, printable, scan_pictures, split_pictures
from relight.training.task import Data, Task
from relight.training.tasks.augmentation import augment, crop_centre, normalise
from relight.training.tasks.pictures import BrokenPicture, PictureStore
from relight.training.tasks.resnet import ResNet

NAMED_AT_MOST = 5
_log = logging.getLogger("relight")


class Images(Task):
    """Classify pictures."""

    Config: ClassVar[type[TaskConfig]] = ImagesConfig
    best_metric: ClassVar[str] = "accuracy"

    def build_model(self) -> nn.Module:
        """Build the ResNet that the config names, with one output for each class folder."""
        config = self.config
        return ResNet(
            config.model, classes=len(self._folder.classes), width=config.width, norm=config.norm,
            image_size=config.image_size,
        )  # fmt: skip

    def build_data(self) -> Data:
        """Decode every picture once, name the broken ones, and split the others.

        Raises `TaskError` for a class of which no picture can be decoded.
        """
        folder, config = self._folder, self.config
        store = PictureStore(folder.root, image_size=config.image_size, cache_bytes=config.cache_mb * 1_000_000)
        broken = store.inspect([picture.path for picture in folder.pictures])
        _report(folder, broken)
        usable = [picture for picture in folder.pictures if picture.path not in broken]
        training, validation = split_pictures(usable, share=config.validation_share)
        _check_classes(folder, broken)
        if not validation:
            raise TaskError(f"No validation picture below {printable(folder.root)} can be decoded. Replace them.")
        train = (
            AugmentedPictures(store, training, config=config)
            if config.augment
            else Pictures(store, training, config=config)
        )
        # Batch norm has nothing to compare in a last batch of one picture.
        lonely = len(training) > config.batch_size > 1 and len(training) % config.batch_size == 1
        return Data(
            train=train,
            validation=Pictures(store, validation, config=config),
            drop_last=lonely and config.norm == "batch",
        )

    def step(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Cross-entropy and accuracy of one batch of (pixels [N, 3, S, S], labels [N])."""
        pixels, labels = batch
        logits = model(pixels)
        accuracy = (logits.detach().argmax(1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}

    @cached_property
    def _folder(self) -> PictureFolder:
        check(self.config)
        return scan_pictures(Path(self.config.data))


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures as (pixels float32 [3, S, S], label): the square in the middle.

    In a folder too large to be decoded before training, a picture that proves broken is named in the log and the next
    one that is not takes its place: the same one each time, so a resume stays exact.
    """

    def __init__(self, store: PictureStore, pictures: list[Picture], *, config: ImagesConfig) -> None:
        self.store = store
        self.pictures = pictures
        self.config = config
        self._named: set[str] = set()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels, label = self._decode(index)
        return normalise(crop_centre(pixels, size=self.config.image_size)), label

    def _decode(self, index: int) -> tuple[Tensor, int]:
        for place in range(index, index + len(self.pictures)):
            picture = self.pictures[place % len(self.pictures)]
            try:
                return self.store.read(picture.path), picture.label
            except BrokenPicture as error:
                shown = printable(self.store.root / picture.path)
                if self.store.inspected_whole:
                    raise TaskError(
                        f"The picture {shown} can no longer be decoded: {error}. "
                        "Restore it, or start a new run without it."
                    ) from error
                if picture.path not in self._named:
                    self._named.add(picture.path)
                    _log.warning("The picture %s cannot be decoded, so it is left out: %s.", shown, error)
        raise TaskError(f"No picture below {printable(self.store.root)} can be decoded. Restore them.")


class AugmentedPictures(Pictures):
    """Pictures with random crops, mirroring and colors, drawn from the generator of each sample."""

    def sample(self, index: int, generator: torch.Generator) -> tuple[Tensor, int]:
        """Return (pixels, label) of one picture, augmented with `generator`."""
        pixels, label = self._decode(index)
        config = self.config
        shown = augment(
            pixels, generator=generator, size=config.image_size, smallest_crop=config.smallest_crop,
            flip=config.flip, jitter=config.colour_jitter,
        )  # fmt: skip
        return normalise(shown), label


def _report(folder: PictureFolder, broken: dict[str, str]) -> None:
    root = printable(folder.root)
    _log.info("Pictures: %d in %d classes below %s.", len(folder.pictures), len(folder.classes), root)
    if folder.ignored:
        _log.warning("%d files below %s are not pictures and are left out.", folder.ignored, root)
    if broken:
        named = "; ".join(f"{printable(path)} ({reason})" for path, reason in list(broken.items())[:NAMED_AT_MOST])
        more = f"; and {len(broken) - NAMED_AT_MOST} more" if len(broken) > NAMED_AT_MOST else ""
        _log.warning(
            "%d of %d pictures cannot be decoded and are left out: %s%s.",
            len(broken), len(folder.pictures), named, more,
        )  # fmt: skip


def _check_classes(folder: PictureFolder, broken: dict[str, str]) -> None:
    """Refuse a class that broken pictures leave without pictures to train on or to hold out."""
    for label, name in enumerate(folder.classes):
        given = [picture for picture in folder.pictures if picture.label == label and not picture.held_out]
        usable = [picture for picture in given if picture.path not in broken]
        needed = 2 if given[0].held_out is None else 1
        if len(usable) < needed:
            first = next(picture.path for picture in given if picture.path in broken)
            raise TaskError(
                f"In class '{printable(name)}' only {len(usable)} of {len(given)} pictures can be decoded, and "
                f"{needed} are needed (the first broken one: {printable(first)}, {broken[first]}): "
                "replace them, or remove the class folder."
            )
