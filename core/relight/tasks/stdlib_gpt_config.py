"""The config of the `stdlib-gpt` task, and the files that its text comes from."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from typing import Literal

from relight.errors import TaskError
from relight.tasks.config import TaskConfig, option

# Installed packages and generated configuration differ between machines. The test suites would be half of the text, and
# are repetitive.
SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "turtledemo", "lib2to3"}
)


class StdlibGptConfig(TaskConfig):
    """A byte-level GPT on the source of the Python standard library."""

    size: Literal["tiny", "mini", "small", "base"] = option(
        "tiny", "Model size: tiny has 0.9M parameters, mini 5M, small 30M, base 124M."
    )
    context: int = option(128, "Context length, in bytes.", ge=8, le=8192)
    dropout: float = option(0.0, "Fraction of activations dropped.", ge=0, lt=1)
    samples_per_epoch: int = option(4096, "Random windows of the text per epoch.", ge=1, le=1_000_000_000)
    validation_samples: int = option(512, "Windows of held-out files used for validation.", ge=1, le=10_000_000)

    epochs: int = option(
        10, "Number of epochs, with samples_per_epoch windows each.", group="Optimization", ge=1, le=1_000_000
    )
    batch_size: int = option(32, "Samples per batch.", group="Optimization", ge=1, le=1_000_000)
    weight_decay: float = option(0.1, "Weight decay.", group="Optimization", ge=0, le=10)
    warmup_steps: int = option(
        50, "Steps over which the learning rate rises to its peak.", group="Optimization", ge=0, le=10**12
    )
    clip_norm: float = option(
        1.0, "Clip the norm of the gradients to this value; 0 means no clipping.", group="Optimization", ge=0
    )


def list_sources(root: Path) -> list[Path]:
    """List the `.py` files of the standard library at `root`, relative to it and in a fixed order."""
    sources = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS and not name.startswith("config-")]
        sources += [
            Path(folder, name).relative_to(root)
            for name in names
            if name.endswith(".py") and not name.startswith("_sysconfigdata")
        ]
    return sorted(sources, key=Path.as_posix)


def stdlib_root() -> Path:
    """Return the folder of this Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def check(config: StdlibGptConfig) -> None:
    """Raise `TaskError` when this Python has no source files of its standard library."""
    root = stdlib_root()
    if not any(root.glob("*.py")):
        raise TaskError(
            f"stdlib-gpt trains on the source of Python's standard library, but {root} has no .py files. "
            "Use a Python that ships its source: python.org, pyenv and Linux distributions have one."
        )
