"""Ends an attempt of a task or a script: saves the last state if that is exact, and records the outcome."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from relight.errors import RelightError
from relight.runs.layout import RunLayout
from relight.runs.progress import read_progress
from relight.runs.record_file import encode_record
from relight.runs.records import TrainerOutcome
from relight.runs.reserved_file import ReservedFile
from relight.training.leaving import end_within
from relight.training.stopping import Stop, Stopping

FINISHED, CRASHED, STOPPED = 0, 3, 130
_AFTER_LOSS_S = 5.0
_OUTCOME_BYTES = 32 << 10
"""Space reserved for the outcome, with a traceback: it must fit even when the disk is full."""
_FROM_WORKER = re.compile(r"Caught (\w+) in (.+)\.\nOriginal Traceback")
"""How PyTorch words an exception that was raised in a data-loading process."""
_log = logging.getLogger("relight")


class AttemptEnding:
    """Ends one attempt. Set `session` and `trainer` as soon as they exist."""

    def __init__(self, layout: RunLayout, number: int, stopping: Stopping) -> None:
        self.session: Any = None
        self.trainer: Any = None
        self._layout = layout
        self._number = number
        self.stopping = stopping
        self._outcome = ReservedFile(layout.attempt(number).outcome, room_bytes=_OUTCOME_BYTES)
        self._outcome.reserve()

    def end_finished(self, reason: str = "The training is done.") -> int:
        """Close everything and record that the training finished; return the exit code."""
        self._close()
        self._write_outcome(TrainerOutcome(outcome="finished", step=self._step(), reason=reason))
        self._leave_ranks()
        return FINISHED

    def end_stopped(self, stop: Stop) -> int:
        """Save as `stop` asks and record why the training stopped; return the exit code."""
        self.stopping.begin_saving()
        saved = False
        if self.session is not None:
            with _reported("The training was stopped, but its state could not be saved"):
                saved = self.session.stop(stop)
        reason = f"{stop.event} at step {self._step()}"
        reason += "." if saved or self.session is None else ", without a checkpoint of it."
        _log.info("%s", reason)
        if not stop.orphaned:  # without a supervisor the run is to show as interrupted
            self._write_outcome(
                TrainerOutcome(outcome="stopped", step=self._step(), reason=reason, stop_signal=stop.signal)
            )
        self._close(quickly=stop.orphaned or not stop.save)
        if not stop.orphaned:
            self._leave_ranks()
        return STOPPED

    def end_crashed(self, error: BaseException, *, printed: bool = False) -> int:
        """Print the error unless it is `printed` already, then end like `end_failed`."""
        self.stopping.begin_saving()
        expected = isinstance(error, RelightError)
        text = getattr(error, "traceback", None) if expected else "".join(traceback.format_exception(error))
        sentence = str(error) if expected else name_error(error)
        if isinstance(error, RuntimeError) and (lost := self._find_lost_rank()):
            sentence = lost  # the traceback has the rest
        sys.stdout.flush()
        if not printed:
            sys.stderr.write(text or f"Error: {sentence}\n")
        sys.stderr.flush()
        return self.end_failed(sentence, traceback=text)

    def end_failed(self, sentence: str, *, traceback: str | None = None) -> int:
        """Save the last finished step if that is exact and record what went wrong; return the exit code."""
        self.stopping.begin_saving()
        saved = False
        if self.session is not None:
            with _reported("The state could not be saved after the error"):
                saved = self.session.rescue()
        if saved:
            _log.info("Step %d, the last finished step, is saved.", self._step())
        self._write_outcome(
            TrainerOutcome(outcome="crashed", step=self._step(), reason=sentence, error=sentence, traceback=traceback)
        )
        self._close()
        if self._find_lost_rank():  # PyTorch may wait for that rank while it is unloaded
            end_within(_AFTER_LOSS_S, CRASHED)
        return CRASHED

    def end_lost(self, sentence: str) -> None:
        """End this process from another thread: the training waits for a rank that is lost, and nothing can be saved.

        Does nothing if the training is already ending.
        """
        if self.stopping.is_ending:
            return
        _log.error("%s", sentence)
        self._write_outcome(TrainerOutcome(outcome="crashed", step=self._step(), reason=sentence, error=sentence))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(CRASHED)

    def _find_lost_rank(self) -> str:
        group = self.session.group if self.session is not None else None
        return group.find_lost() if group is not None else ""

    def _close(self, *, quickly: bool = False) -> None:
        with _reported("The attempt could not be closed cleanly"):
            if self.session is not None:
                self.session.close(end_loader=not quickly)
            if self.trainer is not None and not quickly:
                self.trainer.close()

    def _leave_ranks(self) -> None:
        """Wait for the other ranks, of which one may still be saving: torchrun ends all when the first one fails."""
        if self.session is not None and self.session.group is not None:
            self.session.group.leave()

    def _step(self) -> int:
        if self.session is not None and self.session.steps_done:
            return int(self.session.steps_done)
        progress = read_progress(self._layout.attempt(self._number).progress)
        return progress.step if progress is not None else 0

    def _write_outcome(self, outcome: TrainerOutcome) -> None:
        with _reported("The outcome could not be written"):
            self._outcome.write(encode_record(outcome))
        self._outcome.release()


@contextlib.contextmanager
def _reported(failure: str) -> Iterator[None]:
    """Log an exception under the heading `failure` and continue, because an attempt must end in any case."""
    try:
        yield
    except Exception:
        _log.exception("%s", failure)


def is_worker_death(error: BaseException) -> bool:
    """Tell whether PyTorch reports that a data-loading process died.

    A signal to the whole process group reaches those processes too. If one dies of it before the trainer acts on its
    own signal, this error is part of the stop and not a crash.
    """
    return isinstance(error, RuntimeError) and "worker" in str(error)


def name_error(error: BaseException) -> str:
    """Return one line for an exception: its class and the first line of its message."""
    message = str(error).strip()
    wrapped = _FROM_WORKER.match(message)
    if wrapped is not None:
        name, where = wrapped.groups()
        own = next((line for line in reversed(message.splitlines()) if re.match(rf"(\w+\.)*{name}(:|$)", line)), name)
        return f"{own} (in {where})"
    return f"{type(error).__name__}: {message.splitlines()[0]}" if message else type(error).__name__
