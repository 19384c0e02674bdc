"""How an attempt ends, whoever runs its loop: the last state saved where that is exact, and the outcome said."""

from __future__ import annotations

import contextlib
import logging
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
from relight.training.stopping import Stop, Stopping

FINISHED, CRASHED, STOPPED = 0, 3, 130
_OUTCOME_BYTES = 32 << 10
"""Room kept for the last words, a traceback included: they must fit on a full disk."""
_FROM_WORKER = re.compile(r"Caught (\w+) in (.+)\.\nOriginal Traceback")
"""How PyTorch words an exception that was raised in a data-loading process."""
_log = logging.getLogger("relight")


class AttemptEnding:
    """Ends one attempt. `session` and `trainer` are set once they are there."""

    def __init__(self, layout: RunLayout, number: int, stopping: Stopping) -> None:
        self.session: Any = None
        self.trainer: Any = None
        self._layout = layout
        self._number = number
        self._stopping = stopping
        self._outcome = ReservedFile(layout.attempt(number).outcome, room_bytes=_OUTCOME_BYTES)
        self._outcome.reserve()

    def end_finished(self, reason: str = "The training is done.") -> int:
        """Close everything, and say that it is done."""
        self._close()
        self._write_outcome(TrainerOutcome(outcome="finished", step=self._step(), reason=reason))
        return FINISHED

    def end_stopped(self, stop: Stop) -> int:
        """Save as asked, and say why it stopped."""
        self._stopping.begin_saving()
        saved = False
        if self.session is not None:
            with _reported("The training was stopped, but saving it went wrong"):
                saved = self.session.stop(stop)
        reason = f"{stop.sentence} It stopped at step {self._step()}"
        reason += "." if saved or self.session is None else ", without a checkpoint of it."
        _log.info("%s", reason)
        if not stop.orphaned:  # nobody would read it, and the run is to show as interrupted
            self._write_outcome(TrainerOutcome(outcome="stopped", step=self._step(), reason=reason))
        self._close(quickly=stop.orphaned or not stop.save)
        return STOPPED

    def end_crashed(self, error: BaseException, *, told: bool = False) -> int:
        """Print what happened, save the last finished step if that is exact, and say what the error was.

        `told` says that it has been printed already.
        """
        self._stopping.begin_saving()
        expected = isinstance(error, RelightError)
        text = getattr(error, "traceback", None) if expected else "".join(traceback.format_exception(error))
        sentence = str(error) if expected else name_error(error)
        sys.stdout.flush()
        if not told:
            sys.stderr.write(text or f"Error: {sentence}\n")
        sys.stderr.flush()
        return self.end_failed(sentence, traceback=text)

    def end_failed(self, sentence: str, *, traceback: str | None = None) -> int:
        """Save the last finished step if that is exact, and say what went wrong."""
        self._stopping.begin_saving()
        saved = False
        if self.session is not None:
            with _reported("The state could not be saved after the error"):
                saved = self.session.rescue()
        if saved:
            _log.info("Step %d, the last that was finished, is saved.", self._step())
        self._write_outcome(
            TrainerOutcome(outcome="crashed", step=self._step(), reason=sentence, error=sentence, traceback=traceback)
        )
        self._close()
        return CRASHED

    def _close(self, *, quickly: bool = False) -> None:
        with _reported("Closing the attempt went wrong"):
            if self.session is not None:
                self.session.close(end_loader=not quickly)
            if self.trainer is not None and not quickly:
                self.trainer.close()

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
def _reported(what: str) -> Iterator[None]:
    """Report what goes wrong while ending, and end all the same."""
    try:
        yield
    except Exception:
        _log.exception("%s", what)


def is_worker_death(error: BaseException) -> bool:
    """Tell whether PyTorch reports that a data-loading process died.

    A signal to the whole process group reaches those processes too. If one dies of it before the trainer acts on its
    own signal, this error is part of the stop and not a crash.
    """
    return isinstance(error, RuntimeError) and "worker" in str(error)


def name_error(error: BaseException) -> str:
    """One line for an exception: its class, and the first line of what it says."""
    said = str(error).strip()
    wrapped = _FROM_WORKER.match(said)
    if wrapped is not None:
        name, where = wrapped.groups()
        own = next((line for line in reversed(said.splitlines()) if re.match(rf"(\w+\.)*{name}(:|$)", line)), name)
        return f"{own} (in {where})"
    return f"{type(error).__name__}: {said.splitlines()[0]}" if said else type(error).__name__
