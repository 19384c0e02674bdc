"""Tells what happens to a run while you watch it: each event once, as a line of text, read from its folder."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from relight.checkpoints.listing import newest_durable
from relight.metrics.tail import MetricTail
from relight.overview.summary import RunSummary, summarize_evidence
from relight.overview.summary_wording import word_checkpoint, word_risk
from relight.runs.evidence import gather_evidence
from relight.runs.layout import RunLayout
from relight.runs.progress import Progress
from relight.wording import describe_duration, describe_rate, describe_value

LineKind = Literal["start", "epoch", "checkpoint", "note", "trouble", "end"]

_TOLD = ("train/loss", "train/accuracy")
_REMEMBERED = 4096


@dataclass(frozen=True)
class Line:
    """One event. "trouble" needs the user's attention."""

    kind: LineKind
    text: str


@dataclass
class RunStory:
    """Follows one run from attempt `attempt` on. `poll` returns what is new since the last poll."""

    layout: RunLayout
    attempt: int
    progress: Progress = field(default_factory=Progress)
    _summary: RunSummary | None = None
    _tail: MetricTail = field(init=False)
    _told_attempt: int = field(init=False)
    _told_sequence: int = field(init=False)
    _told_epoch: int | None = None
    _told_failure: str | None = None
    _told_caveat: str = ""
    _told_check: int = 0
    _told_non_finite: tuple[str, int | None] | None = None
    _trained: deque[tuple[int, dict[str, float]]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """The last train rows by step: rows of the next epoch may be read before the validation row is."""
    _validates: bool = False

    def __post_init__(self) -> None:
        self._tail = MetricTail(self.layout.metrics)
        self._told_attempt = self.attempt
        newest = newest_durable(self.layout.checkpoints)
        self._told_sequence = newest[0] if newest is not None else -1

    @property
    def summary(self) -> RunSummary:
        """The run as of the last poll."""
        assert self._summary is not None, "poll first"
        return self._summary

    def poll(self) -> list[Line]:
        """Read the folder again, and update `summary` and `progress`. Raises `DamagedFile` for a damaged run.json."""
        evidence = gather_evidence(self.layout)
        self._summary = summarize_evidence(evidence)
        self.progress = evidence.progress or Progress()
        told = (
            self._tell_attempt(),
            self._tell_caveat(),
            self._tell_resume_check(),
            self._tell_epochs(),
            self._tell_non_finite(),
            self._tell_checkpoints(),
            self._tell_saving(),
        )
        return [line for lines in told for line in lines]

    def _tell_attempt(self) -> list[Line]:
        """Say that a later attempt has started: the supervisor has restarted a crashed trainer."""
        if self.summary.attempt <= self._told_attempt:
            return []
        self._told_attempt = self.summary.attempt
        bad = self.summary.non_finite
        later = (self.summary.environment_caveat, self.summary.resume_difference, bad and bad.sentence)
        notes = [note for note in self.summary.notes if note not in later]
        return [Line("trouble", " ".join([f"Attempt {self.summary.attempt} starts.", *notes]))]

    def _tell_caveat(self) -> list[Line]:
        """Say once why this attempt may not be bit-identical; its trainer finds out soon after it starts."""
        caveat = self.summary.environment_caveat
        if not caveat or caveat == self._told_caveat:
            return []
        self._told_caveat = caveat
        return [Line("trouble", caveat)]

    def _tell_resume_check(self) -> list[Line]:
        """Say once whether the steps that were trained again came out the same."""
        check = self.summary.resume_check
        if check is None or check.attempt <= max(self._told_check, self.attempt - 1):
            return []
        self._told_check = check.attempt
        return [Line("trouble" if check.verdict == "different" else "note", check.sentence)]

    def _tell_epochs(self) -> list[Line]:
        lines = []
        blocks = [block for block in self._tail.poll() if block.header.attempt >= self.attempt]
        rows = [row for block in blocks for row in block.read_rows()]
        for row in sorted(rows, key=lambda row: (row.attempt, row.step, row.stream == "validation")):
            if row.stream == "train":
                values = {name: value for name, value in row.values.items() if name in _TOLD}
                self._trained.append((row.step, values))
            elif row.stream == "validation":
                self._validates = True
                lines.append(Line("epoch", self._word_epoch(self._epoch_at(row.step), row.step, row.values)))
        return lines if self._validates else [*lines, *self._tell_bare_epochs()]

    def _tell_bare_epochs(self) -> list[Line]:
        """Say which epoch has ended, for a run without validation.

        That is certain once the first step of the next epoch is done: a validation would have been logged before it.
        """
        progress = self.progress
        if progress.phase == "starting":
            return []
        size = self._count_steps_per_epoch()
        under_way = size > 0 and progress.phase != "finished"
        done = self._epoch_at(progress.step) - under_way
        told, self._told_epoch = self._told_epoch, done
        if told is None:
            told = progress.first_step // size if size else done
        step = min(done * size, progress.step) if size else progress.step
        return [Line("epoch", self._word_epoch(done, step, {}))] if done > told else []

    def _epoch_at(self, step: int) -> int:
        """Return how many epochs are done at `step`, including the one that ends there or was cut short there."""
        size = self._count_steps_per_epoch()
        if size <= 0:
            return self.progress.epoch
        epoch = -(-step // size)
        return min(epoch, self.progress.epochs) if self.progress.epochs else epoch

    def _count_steps_per_epoch(self) -> int:
        """Return the optimizer steps in an epoch; 0 when unknown."""
        accumulate = self.summary.config.get("accumulate")
        return -(-self.progress.batches // (accumulate if isinstance(accumulate, int) and accumulate > 0 else 1))

    def _word_epoch(self, epoch: int, step: int, validation: dict[str, float]) -> str:
        progress = self.progress
        parts = [
            f"epoch {epoch}/{progress.epochs}" if progress.epochs else f"epoch {epoch}",
            f"step {step}/{progress.steps_total}" if progress.steps_total else f"step {step}",
            *(f"{name} {describe_value(value)}" for name, value in {**self._train_at(step), **validation}.items()),
            describe_rate(progress.rate),
        ]
        if self.summary.eta_s:
            parts.append(f"{describe_duration(self.summary.eta_s)} left")
        return "  ".join(filter(None, parts))

    def _train_at(self, step: int) -> dict[str, float]:
        """Return the training metrics at that step, or at the last known step before it."""
        return next((values for at, values in reversed(self._trained) if at <= step), {})

    def _tell_checkpoints(self) -> list[Line]:
        newest = newest_durable(self.layout.checkpoints)
        if newest is None or newest[0] <= self._told_sequence:
            return []
        from relight.checkpoints.store import CheckpointStore

        told, self._told_sequence = self._told_sequence, newest[0]
        found = CheckpointStore(self.layout.checkpoints).list().checkpoints
        return [Line("checkpoint", word_checkpoint(info)) for info in found if info.sequence > told]

    def _tell_non_finite(self) -> list[Line]:
        """Say at once that a loss has become NaN or infinite, and again when it does after it had recovered."""
        bad = self.summary.non_finite
        now = (bad.metric, bad.since_step) if bad is not None else None
        before, self._told_non_finite = self._told_non_finite, now
        return [Line("trouble", bad.sentence)] if bad is not None and now != before else []

    def _tell_saving(self) -> list[Line]:
        failure, before = self.summary.saving_failure, self._told_failure
        if failure == before:
            return []
        self._told_failure = failure
        if failure is None:
            return [Line("checkpoint", "Checkpoints are being saved again.")] if self.summary.status.is_live else []
        risk = word_risk(self.summary)
        return [
            Line("trouble", f"Checkpoints fail, training continues: {failure}" + (f" At risk: {risk}." if risk else ""))
        ]
