"""The config of the `images` task, and the check of its folder before a run starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from relight.errors import ConfigError, TaskError
from relight.tasks.config import TaskConfig, option
from relight.tasks.picture_folder import LAYOUT, scan_pictures


class ImagesConfig(TaskConfig):
    """A ResNet from scratch on a folder with one subfolder of pictures per class."""

    data: str = Field(
        "",
        description="Folder with one subfolder of pictures per class; or with train/ and val/, which contain these.",
        json_schema_extra={"group": "Task", "format": "path"},
    )
    image_size: int = option(64, "Side of the square that pictures are scaled to, in pixels.", ge=16, le=1024)
    model: Literal["resnet8", "resnet18", "resnet34"] = option("resnet8", "Depth of the ResNet.")
    width: int = option(16, "Channels of the first stage; each further stage doubles them.", ge=4, le=256)
    norm: Literal["batch", "group"] = option("batch", "Normalization; group does not depend on the batch size.")
    validation_share: float = option(
        0.2, "Fraction of the pictures held out for validation; not used with train/ and val/.", gt=0, lt=1
    )
    augment: bool = option(True, "Train on random crops of the pictures, with random changes of color.")
    flip: bool = option(True, "Augment with mirrored pictures, too; turn off for text and signs.")
    smallest_crop: float = option(0.5, "Smallest fraction of a picture's area that a random crop keeps.", gt=0, le=1)
    colour_jitter: float = option(0.2, "Largest random change of brightness, contrast and saturation.", ge=0, lt=1)
    cache_mb: int = option(512, "Memory for decoded pictures, in MB; the rest is decoded again in every epoch.", ge=0)

    epochs: int = option(20, "Passes over the training data.", group="Optimization", ge=1, le=1_000_000)
    batch_size: int = option(32, "Samples per batch.", group="Optimization", ge=1, le=1_000_000)
    weight_decay: float = option(0.05, "Weight decay.", group="Optimization", ge=0, le=10)

    @field_validator("data")
    @classmethod
    def _make_absolute(cls, value: str) -> str:
        # The trainer works in another folder, and a resume may come from anywhere.
        return str(Path(value).expanduser().absolute()) if value else value


def check(config: ImagesConfig) -> None:
    """Raise `TaskError` or `ConfigError` when Pillow is missing or the names in the folder show a problem."""
    if importlib.util.find_spec("PIL") is None:
        raise TaskError("images needs Pillow to open pictures. Install it with: pip install pillow")
    if not config.data:
        raise ConfigError(f"images needs a folder of pictures: set data=FOLDER. {LAYOUT}")
    scan_pictures(Path(config.data))
