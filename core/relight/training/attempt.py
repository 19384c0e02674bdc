"""One attempt from its first to its last line: reads the records, builds, trains, and says how it ended."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from relight.errors import RelightError
from relight.runs.layout import RunLayout
from relight.runs.progress import read_progress
from relight.runs.record_file import encode_record, read_record
from relight.runs.records import AttemptStart, RunRecord, TrainerOutcome
from relight.runs.reserved_file import ReservedFile
from relight.training.stopping import Stop, Stopping, TrainingStopped

FINISHED, CRASHED, STOPPED = 0, 3, 130
_OUTCOME_BYTES = 32 << 10
"""Room kept for the last words, a traceback included: they must fit on a full disk."""
_log = logging.getLogger("relight")


def run_attempt(folder: Path, number: int, *, lifeline: int | None = None, lock_fd: int | None = None) -> int:
    """Run attempt `number` of the run in `folder`; returns the exit code that its supervisor expects.

    Loads torch only after the signal handlers are in place: whoever stops the attempt early is heard.
    """
    layout = RunLayout(folder)
    stopping = Stopping(layout, number)
    stopping.interruptible = True
    stopping.install(lifeline=lifeline)
    attempt = _Attempt(layout, number, stopping, lock_fd)
    try:
        attempt.build()
        attempt.train()
    except TrainingStopped as stopped:
        return attempt.end_stopped(stopped.stop)
    except BaseException as error:
        # A signal may have reached the data-loading processes first, and the loader then complains of their death.
        stop = stopping.check(0.0)
        if stop is not None and isinstance(error, RuntimeError) and "worker" in str(error):
            return attempt.end_stopped(stop)
        return attempt.end_crashed(error)
    return attempt.end_finished()


class _Attempt:
    def __init__(self, layout: RunLayout, number: int, stopping: Stopping, lock_fd: int | None) -> None:
        self._layout = layout
        self._number = number
        self._stopping = stopping
        self._lock_fd = lock_fd
        self._session: Any = None
        self._trainer: Any = None
        self._outcome = ReservedFile(layout.attempt(number).outcome, room_bytes=_OUTCOME_BYTES)
        self._outcome.reserve()

    def build(self) -> None:
        """Build task, session and trainer."""
        layout = self._layout.attempt(self._number)
        record = read_record(self._layout.record, RunRecord)
        start = read_record(layout.start, AttemptStart)
        from relight.training.assembly import build_trainer  # loads torch

        self._trainer, self._session = build_trainer(
            self._layout, record, start, stopping=self._stopping, inherit_fds=self._inherited()
        )

    def train(self) -> None:
        """Train to the end."""
        self._stopping.interruptible = self._stopping.building = False
        self._trainer.run()

    def end_finished(self) -> int:
        """Close everything, and say that it is done."""
        self._close()
        self._write_outcome(TrainerOutcome(outcome="finished", step=self._step(), reason="The training is done."))
        return FINISHED

    def end_stopped(self, stop: Stop) -> int:
        """Save as asked, and say why it stopped."""
        self._stopping.begin_saving()
        saved = False
        if self._session is not None:
            with _reported("The training was stopped, but saving it went wrong"):
                saved = self._session.stop(stop)
        reason = f"{stop.sentence} It stopped at step {self._step()}"
        reason += "." if saved or self._session is None else ", without a checkpoint of it."
        _log.info("%s", reason)
        if not stop.orphaned:  # nobody would read it, and the run is to show as interrupted
            self._write_outcome(TrainerOutcome(outcome="stopped", step=self._step(), reason=reason))
        self._close(quickly=stop.orphaned or not stop.save)
        return STOPPED

    def end_crashed(self, error: BaseException) -> int:
        """Print what happened, save the last finished step if that is exact, and say what the error was."""
        self._stopping.begin_saving()
        expected = isinstance(error, RelightError)
        text = getattr(error, "traceback", None) if expected else "".join(traceback.format_exception(error))
        sentence = str(error) if expected else _name_error(error)
        sys.stdout.flush()
        sys.stderr.write(text or f"Error: {sentence}\n")
        sys.stderr.flush()
        saved = False
        if self._session is not None:
            with _reported("The state could not be saved after the error"):
                saved = self._session.rescue()
        if saved:
            _log.info("Step %d, the last that was finished, is saved.", self._step())
        self._write_outcome(
            TrainerOutcome(outcome="crashed", step=self._step(), reason=sentence, error=sentence, traceback=text)
        )
        self._close()
        return CRASHED

    def _close(self, *, quickly: bool = False) -> None:
        with _reported("Closing the attempt went wrong"):
            if self._session is not None:
                self._session.close(end_loader=not quickly)
            if self._trainer is not None and not quickly:
                self._trainer.close()

    def _step(self) -> int:
        if self._session is not None and self._session.steps_done:
            return int(self._session.steps_done)
        progress = read_progress(self._layout.attempt(self._number).progress)
        return progress.step if progress is not None else 0

    def _inherited(self) -> tuple[int, ...]:
        return () if self._lock_fd is None else (self._lock_fd,)

    def _write_outcome(self, outcome: TrainerOutcome) -> None:
        with _reported("The outcome could not be written"):
            self._outcome.write(encode_record(outcome))
        self._outcome.release()


@contextlib.contextmanager
def _reported(what: str) -> Any:
    """Report what goes wrong while ending, and end all the same."""
    try:
        yield
    except Exception:
        _log.exception("%s", what)


def _name_error(error: BaseException) -> str:
    said = str(error).strip()
    return f"{type(error).__name__}: {said.splitlines()[0]}" if said else type(error).__name__


def close_in_children(descriptors: tuple[int, ...]) -> None:
    """Close `descriptors` in every forked child: a data-loading process must not keep the run locked."""

    def close() -> None:
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    os.register_at_fork(after_in_child=close)
