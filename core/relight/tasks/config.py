"""The typed config of a task, from which validation, `--set`, the launch form and the docs are made.

Torch-free, because the dashboard reads these classes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from relight.checkpoints.retention import parse_best_rules

Group = Literal["Task", "Optimization", "Hardware", "Checkpoints"]


def option(default: Any, help: str, *, group: Group = "Task", **bounds: Any) -> Any:
    """Declare a config field: its default, a sentence of help, its group in the form, its bounds (`ge`, `le`, …)."""
    return Field(default, description=help, json_schema_extra={"group": group}, **bounds)


class TaskConfig(BaseModel):
    """The options that every task has. Subclass it to add a task's own options or to change a default."""

    # JSON has no infinity or NaN, so such a value could not be saved for a resume.
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )

    epochs: int = option(10, "Passes over the training data.", group="Optimization", ge=1, le=1_000_000)
    max_steps: int = option(
        0, "Stop after this many optimizer steps; 0 means no limit.", group="Optimization", ge=0, le=10**12
    )
    batch_size: int = option(64, "Samples per batch.", group="Optimization", ge=1, le=1_000_000)
    accumulate: int = option(
        1, "Batches whose gradients are accumulated for one optimizer step.", group="Optimization", ge=1, le=65_536
    )
    optimizer: Literal["adamw", "adam", "sgd"] = option(
        "adamw", "Algorithm that updates the weights.", group="Optimization"
    )
    lr: float = option(1e-3, "Peak learning rate.", group="Optimization", gt=0, le=100)
    momentum: float = option(0.9, "Momentum; only SGD uses it.", group="Optimization", ge=0, lt=1)
    weight_decay: float = option(0.01, "Weight decay.", group="Optimization", ge=0, le=10)
    schedule: Literal["constant", "cosine", "linear", "step"] = option(
        "cosine", "How the learning rate changes after the warm-up.", group="Optimization"
    )
    warmup_steps: int = option(
        0, "Steps over which the learning rate rises to its peak.", group="Optimization", ge=0, le=10**12
    )
    clip_norm: float = option(
        0.0, "Clip the norm of the gradients to this value; 0 means no clipping.", group="Optimization", ge=0
    )
    seed: int = option(0, "Seed for weights, shuffling and augmentation.", group="Optimization", ge=0, lt=2**32)

    device: str = option(
        "auto",
        "auto picks CUDA, else MPS, else the CPU; or name a device: cpu, mps, cuda, cuda:1.",
        group="Hardware",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
    )
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32",
        "Number format of the forward pass: bf16 and fp16 use autocast; fp16 (CUDA only) also scales the loss.",
        group="Hardware",
    )
    workers: int = option(
        0, "Data loading processes; 0 loads data in the trainer process.", group="Hardware", ge=0, le=256
    )
    threads: int = option(0, "CPU threads for PyTorch; 0 keeps PyTorch's default.", group="Hardware", ge=0, le=1024)

    max_loss_s: float = option(
        300.0,
        "Seconds of training that a failure may cost: checkpoints are made at least this often.",
        group="Checkpoints",
        gt=0,
        le=10**9,
    )
    max_overhead: float = option(
        0.01,
        "Share of the training time that checkpoints may cost, 0.01 for 1 %; max_loss_s comes first.",
        group="Checkpoints",
        gt=0,
        le=1,
    )
    checkpoint_every_s: float | None = option(
        None,
        "Save a checkpoint after this many seconds without one, whatever max_loss_s and max_overhead say; "
        "0 saves none by the clock.",
        group="Checkpoints",
        ge=0,
    )
    checkpoint_every_steps: int = option(
        0,
        "Save a checkpoint every this many steps, whatever max_loss_s and max_overhead say; 0 for no fixed number.",
        group="Checkpoints",
        ge=0,
        le=10**12,
    )
    keep_latest: int = option(2, "Number of newest verified checkpoints to keep.", group="Checkpoints", ge=2, le=10_000)
    keep_best: int = option(1, "Number of best checkpoints to keep.", group="Checkpoints", ge=1, le=10_000)
    keep_best_by: str = option(
        "",
        "Also keep the best by other metrics: validation/loss:min, or train/loss:min:3 for the best three. "
        "Separate several with commas.",
        group="Checkpoints",
        max_length=1000,
    )
    keep_every_steps: int = option(
        0, "Also keep one checkpoint per this many steps; 0 turns this off.", group="Checkpoints", ge=0, le=10**12
    )
    keep_every_hours: float = option(
        0.0, "Also keep one checkpoint per this many hours; 0 turns this off.", group="Checkpoints", ge=0
    )

    @field_validator("keep_best_by")
    @classmethod
    def _check_best_rules(cls, text: str) -> str:
        parse_best_rules(text)
        return text


def full_metric_name(name: str) -> str:
    """Return the full name of a metric; one without a stream is a validation metric ("accuracy", "val/acc")."""
    return name if name.startswith(("validation/", "train/", "system/")) else f"validation/{name}"
