"""What the writer process tells the trainer: each event is one fact, and `sentence` is for a person."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Durable:
    """The snapshot is a checkpoint now: its manifest and packs have reached the disk."""

    step: int
    sequence: int
    edge_time_s: float
    """When the step edge was: work at risk counts from here."""
    seconds: float
    """From the beginning of the write until durable."""
    bytes: int
    """Bytes that were written (shared tensors are not)."""


@dataclass(frozen=True)
class Verified:
    """The checkpoint was read back from the disk and every digest was right."""

    step: int
    sequence: int


@dataclass(frozen=True)
class SaveFailed:
    """The snapshot is not durable (yet). Training goes on; the writer tries again until a newer snapshot comes."""

    step: int
    sentence: str


@dataclass(frozen=True)
class Warned:
    """Something else that a person should know: a checkpoint that was damaged on disk, an old one not removable."""

    sentence: str


@dataclass(frozen=True)
class WriterDied:
    """The writer process ended by itself. `restarted` says whether another one took over its work."""

    restarted: bool
    sentence: str


@dataclass(frozen=True)
class WriterStarted:
    """After a pause without a writer there is one again; it has everything that was waiting."""

    sentence: str


WriterEvent = Durable | Verified | SaveFailed | Warned | WriterDied | WriterStarted
