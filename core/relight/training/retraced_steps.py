"""Compares the steps that a resume trains again with what an earlier attempt computed there, bit for bit.

After a crash the steps between the checkpoint and the crash are trained twice, and each attempt left a witness of each
step. If they agree, the resume was exact. If not, the first step that differs shows what differs first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from relight.checkpoints.listing import CheckpointInfo
from relight.errors import DamagedFile
from relight.metrics.file_format import metric_file_name
from relight.metrics.metric_records import read_records
from relight.metrics.witness_file import Digests, read_witnesses
from relight.runs.fingerprint import compare_fingerprints, read_environment, take_fingerprint, word_changes
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record_or_none, write_record
from relight.runs.records import AttemptStart, ResumeCheck, ScriptRecord
from relight.wording import count

_log = logging.getLogger("relight")
Part = Literal["batch", "generators", "rates", "weights"]

_NAMES: dict[Part, str] = {
    "batch": "the batch",
    "generators": "the random numbers",
    "rates": "the learning rate",
    "weights": "the weights",
}
_CAUSES: dict[Part, str] = {
    "batch": "The data or its order is not the same as before: sort lists of files, and give every sampler a seed.",
    "generators": "Something draws random numbers that a resume does not repeat: a generator that is not tracked, a "
    "draw after run.step(), or a draw that depends on the time or on another thread.",
    "rates": "The learning rate depends on something that is not saved: track the schedule, or derive the rate from "
    "the step.",
    "weights": "Batches, random numbers and learning rates are the same, so the training uses something that is not "
    "saved: the clock, a generator or a buffer that is not tracked, or state outside the tracked objects.",
}


class RetracedSteps:
    """The steps of earlier attempts that a resume trains again, each as the latest such attempt computed it."""

    def __init__(self, layout: RunLayout, start: AttemptStart, attempts: list[int], *, caveat: str) -> None:
        """Take the attempts that continued from the same checkpoint, or made it, oldest first.

        `caveat` says what may make the bits differ although the resume is correct; "" for nothing.
        """
        self._layout = layout
        self._start = start
        self._caveat = caveat
        self._known: dict[int, tuple[int, Digests]] = {}
        for attempt in attempts:
            found = read_witnesses(layout.attempt(attempt).witness, after_step=start.from_step)
            self._known.update((step, (attempt, digests)) for step, digests in found.items())
        self._last = max(self._known, default=0)
        self._equal = 0
        self._against = 0
        self._weightless = False
        self.over = not self._known
        """Whether there is nothing left to compare."""

    def compare(self, step: int, digests: Sequence[int]) -> None:
        """Compare a step that has just been trained; `digests` in the order of `Digests`."""
        known = self._known.get(step)
        if known is not None:
            attempt, before = known
            for name, one, other in zip(_NAMES, before, digests, strict=True):
                if one and other and one != other:
                    self._report_difference(step, attempt, name)
                    return
            self._equal += 1
            self._against = attempt
            self._weightless |= not (before.weights and digests[-1])
        if step >= self._last:
            self.close()

    def close(self) -> None:
        """Report how many steps were equal, unless a difference is reported."""
        if self.over:
            return
        self.over = True
        if not self._equal:
            return
        what = "drew the same batches and random numbers" if self._weightless else "computed the same values"
        sentence = f"Resume verified: {count(self._equal, 'step')} {what} as attempt {self._against}."
        _log.info("%s", sentence)
        self._write("exact", sentence, against=self._against)

    def _report_difference(self, step: int, attempt: int, part: Part) -> None:
        self.over = True
        logged = self._word_metric(attempt, step)
        differs = f"Step {step} is not what attempt {attempt} computed: {_NAMES[part]} differed first{logged}."
        if self._caveat:
            sentence = f"{differs} That may be because {self._caveat}."
            _log.info("%s", sentence)
        else:
            sentence = f"This resume is not exact. {differs} {_CAUSES[part]}"
            _log.warning("%s", sentence)
        self._write("changed" if self._caveat else "different", sentence, against=attempt, step=step, part=part)

    def _word_metric(self, attempt: int, step: int) -> str:
        """Say by how much the loss differs, if it was logged both times: ", and loss was 0.41 and is 0.43"."""
        before, now = (self._read_losses(number, step) for number in (attempt, self._start.attempt))
        name = next((name for name in now if name in before), None)
        if name is None or before[name] == now[name]:
            return ""
        return f", and {name} was {before[name]:.9g} and is {now[name]:.9g}"

    def _read_losses(self, attempt: int, step: int) -> dict[str, float]:
        try:
            records = read_records(self._layout.metrics / metric_file_name("train", attempt=attempt))
        except (OSError, DamagedFile):
            return {}
        at = records.steps == step
        names = [name for name in records.header.columns if "loss" in name.lower()] if at.any() else []
        return {name: float(records.column(name)[at][-1]) for name in names}

    def _write(
        self,
        verdict: Literal["exact", "different", "changed"],
        sentence: str,
        *,
        against: int,
        step: int | None = None,
        part: Part | None = None,
    ) -> None:
        attempt = self._start.attempt
        check = ResumeCheck(
            attempt=attempt, time_s=time.time(), verdict=verdict, against=against, equal_steps=self._equal,
            first_difference=step, part=part, sentence=sentence,
        )  # fmt: skip
        try:
            write_record(self._layout.attempt(attempt).resume_check, check, replace=True, durable=False)
        except OSError as error:
            _log.warning("The comparison cannot be recorded: %s.", error.strerror or error)


def find_retraced_steps(
    layout: RunLayout, start: AttemptStart, info: CheckpointInfo, *, environment: Mapping[str, Any]
) -> RetracedSteps | None:
    """Find what earlier attempts computed after the checkpoint `info`, from which the attempt `start` continues.

    Return None if there is nothing to compare. A branch changes something, so it is compared with nothing.
    """
    if start.reason == "branch":
        return None
    starts = {
        number: read_record_or_none(layout.attempt(number).start, AttemptStart)
        for number in layout.list_attempts()
        if number < start.attempt
    }
    first = starts.get(1)
    own = first is None or first.from_sequence != info.sequence  # the first checkpoint of a branch is its parent's
    attempts = [
        number
        for number, began in starts.items()
        if (own and number == info.attempt) or (began is not None and began.from_sequence == info.sequence)
    ]
    if not attempts:
        return None
    caveat = _find_caveat(layout, start.attempt, attempts, environment)
    found = RetracedSteps(layout, start, attempts, caveat=caveat)
    return None if found.over else found


def _find_caveat(layout: RunLayout, now: int, attempts: list[int], environment: Mapping[str, Any]) -> str:
    """Say what has changed since the attempts that the steps are compared with; "" for nothing."""
    config = _read_config(layout, now)
    for number in reversed(attempts):
        before = read_environment(layout.attempt(number).environment)
        if before is None:
            return f"the environment of attempt {number} is not on record"
        if changes := compare_fingerprints(take_fingerprint(before), take_fingerprint(environment)):
            return word_changes(changes)
        if _read_config(layout, number) != config:
            return "the config has changed"
    return ""


def _read_config(layout: RunLayout, number: int) -> Any:
    record = read_record_or_none(layout.attempt(number).script, ScriptRecord)
    return None if record is None else record.config
