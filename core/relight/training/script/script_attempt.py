"""One attempt of a script, from `relight.init` to the end of its process: records, session, and how it ended.

Nobody calls a script that could catch what it raises, so its end is learnt from Python's own hooks: `sys.excepthook`
for an exception, `sys.exit` for the code of an early end, `atexit` for every other way out.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import msgspec
import torch

from relight.errors import RelightError, UsageError
from relight.metrics.metric_direction import word_guess
from relight.runs.layout import RunLayout
from relight.runs.record_file import write_record
from relight.runs.records import AttemptStart, Objective, ScriptRecord, TaskReference
from relight.tasks.config import TaskConfig
from relight.tasks.parsing import parse_config
from relight.training.attempt_ending import AttemptEnding, is_worker_death
from relight.training.best_metric import choose_objective
from relight.training.leaving import leave
from relight.training.ranks.group import RankGroup
from relight.training.script.position import ScriptPosition
from relight.training.script.restore import Restoration
from relight.training.script.script_session import NOTHING_TRACKED, ScriptSession
from relight.training.script.script_stopping import ScriptStopping
from relight.training.script.state import ScriptState
from relight.training.session_parts import make_session_parts
from relight.training.stopping import Stop, TrainingStopped

_NO_ERROR = (None, 0, False)
"""What a script passes to `sys.exit` if nothing went wrong."""
_EMPTY_LOOP = (
    "This attempt resumed right after the last batch of an epoch, so variables of the loop over batches do not exist: "
    "set it before that loop, or resume from an earlier step (--from)."
)
_log = logging.getLogger("relight")


class ScriptDone(SystemExit):
    """Raised by the last step that a script may take."""


@dataclass(frozen=True)
class Launch:
    """What the supervisor passes to a script: the attempt, and two descriptors, the lifeline and the run's lock.

    Of several ranks that you started with torchrun yourself, only rank 0 has the descriptors.
    """

    layout: RunLayout
    attempt: int
    lifeline: int | None
    lock_fd: int | None


class ScriptAttempt:
    """One attempt of a script, in the process that runs it."""

    def __init__(
        self,
        launch: Launch,
        start: AttemptStart,
        *,
        task: TaskReference,
        said: ScriptRecord,
        higher_is_better: bool | None,
        stopping: ScriptStopping,
        group: RankGroup | None = None,
    ) -> None:
        self.layout = launch.layout
        self.start = start
        self.group = group
        """All ranks of the training; None for one process."""
        self.options = TaskConfig()
        """The settings in force; options that `init` did not get have their defaults."""
        self.seed: int | None = None
        """None if neither `init` nor the launch sets one."""
        self.resumed_at_pass_end = False
        """Whether the resumed epoch had no batch left and its body is still running."""
        self._launch = launch
        self._task = task
        self._said = said
        self._higher_is_better = higher_is_better
        self._stopping = stopping
        self._pid = os.getpid()
        self._ended = False
        self._begun = False
        self._done = False
        self._exit: tuple[Any, bool] | None = None
        self._left_at = -1
        self._session: ScriptSession | None = None
        self._ending = AttemptEnding(self.layout, start.attempt, stopping)
        if group is not None:
            group.watch(self._ending.end_lost)

    @property
    def is_leaving(self) -> bool:
        """Whether the script is being ended, so that loops that close mean nothing."""
        return self._ended or self._exit is not None or self._stopping.raised is not None

    def install(self) -> None:
        """Install the hooks that report how the script ends."""
        write_record(self.layout.attempt(self.start.attempt).script, self._said, replace=False, durable=False)
        self._hook, sys.excepthook = sys.excepthook, self._on_exception
        self._leave, sys.exit = sys.exit, self._on_exit
        atexit.register(self._at_exit)

    def take_settings(self, settings: dict[str, Any]) -> None:
        """Replace options of `init` by those that the launch sets. Raise `ConfigError` for a wrong one."""
        told = self._said.settings
        given = {key: value for key, value in {**told, **settings}.items() if value is not None}
        self.options = parse_config(TaskConfig, given)
        self.seed = self.options.seed if "seed" in given else None
        in_force = {key: getattr(self.options, key) if key in given else None for key in told}
        self._said = msgspec.structs.replace(self._said, settings=in_force)

    def take_config(self, config: dict[str, Any]) -> None:
        """Record the config and the settings in force."""
        self._said = msgspec.structs.replace(self._said, config=config)
        with contextlib.suppress(OSError):
            write_record(self.layout.attempt(self.start.attempt).script, self._said, durable=False)

    def check_open(self) -> None:
        """Raise `UsageError` if the run is already finished."""
        if self._ended:
            raise UsageError("The run is already finished. Call run.finish() after the last loop.")

    def open_session(
        self, state: ScriptState, position: ScriptPosition, *, device: torch.device, restoration: Restoration | None
    ) -> ScriptSession:
        """Create the session, once the tracked objects and the device are known."""
        if restoration is not None and self._said.best_metric is None and not restoration.weights_only:
            self._say_best(restoration.counters.get("best", {}).get("metric"))
        self._warn_of_guess()
        parts = make_session_parts(
            self.layout, self.start, task=self._task, device=device, options=self.options,
            objective=self._said.objective,
            inherit_fds=() if self._launch.lock_fd is None else (self._launch.lock_fd,), group=self.group,
        )  # fmt: skip
        self._session = self._ending.session = ScriptSession(
            self.layout, self.start, parts, stopping=self._stopping, state=state, position=position
        )
        return self._session

    def note_start(self) -> None:
        """Note that the loops have begun."""
        self._begun = True
        self._stopping.building = False

    def note_leaving(self, *, early: bool = True) -> bool:
        """Note that a loop of the script's ends; return whether the script leaves its loops because of a signal.

        If a loop ends `early` after a signal that the script handles itself, nothing that follows is a step edge, until
        the script trains on: a resume continues right after the last step, as if the signal had not come.
        """
        session = self._session
        if session is None:
            return False
        if self._left_at != session.steps_done and early and (stop := self._stopping.told()) is not None:
            self._left_at = session.steps_done
            if stop.save:
                session.save_last_edge(stop.why)
        return self._left_at == session.steps_done

    def is_told_to_end(self) -> bool:
        """Tell whether a signal has come that the script handles itself, and it has left no loop early since."""
        return self._session is not None and not self.note_leaving(early=False) and self._stopping.told() is not None

    def note_body(self) -> None:
        """Note that a body of the outermost loop over epochs has ended, and the script trains on."""
        self._stopping.note_body()

    def end_early(self) -> NoReturn:
        """End the script after the last step that it may take."""
        self._done = True
        self._stopping.interruptible = False
        raise ScriptDone(0)

    def choose_best(self, name: str) -> Objective:
        """Decide what `best` means from the first measured name, and record it."""
        self._say_best(f"validation/{name}")
        objective = self._said.objective
        if not objective.guessed:
            _log.info(
                "The best checkpoint is the one with the %s %s. Change that with relight.init(best=…, "
                "higher_is_better=…).", "highest" if objective.higher_is_better else "lowest", objective.metric,
            )  # fmt: skip
        self._warn_of_guess()
        return objective

    def finish(self) -> None:
        """Save the final state, wait until it is durable, and end the run as finished."""
        if self._ended:
            return
        if (stop := self._find_signal()) is not None:
            self._ended = True
            self._ending.end_stopped(stop)
        else:
            self._finish()

    def _say_best(self, name: str | None) -> None:
        if name is None:
            return
        objective = choose_objective(name, higher_is_better=self._higher_is_better)
        self._said = msgspec.structs.replace(
            self._said,
            best_metric=name,
            higher_is_better=objective.higher_is_better,
            direction_guessed=objective.guessed,
        )
        with contextlib.suppress(OSError):  # a full disk: the next attempt finds it in the checkpoint
            write_record(self.layout.attempt(self.start.attempt).script, self._said, durable=False)

    def _warn_of_guess(self) -> None:
        objective = self._said.objective
        if objective.metric is not None and objective.guessed:
            _log.warning("%s", word_guess(objective.metric, is_script=True))

    def _finish(self, reason: str = "The training is done.") -> None:
        """Finish the run. Raise `TrainingStopped` if a stop comes while the final state cannot be saved."""
        if self._session is not None:
            self._session.finish()
            if not self._session.state.names and self._session.steps_done:
                reason = f"{reason} {NOTHING_TRACKED}"
        elif self._missed():
            raise RelightError(
                "The script ended without reaching the loop in which the checkpoint was made. Resume with the script "
                "that saved it, or start a new run."
            )
        self._ended = True
        self._stopping.begin_saving()
        self._ending.end_finished(reason if self._begun else "The script ended without a training step.")

    def _missed(self) -> bool:
        return self.start.from_sequence is not None and not self._begun

    def _on_exit(self, code: Any = None, /) -> NoReturn:
        """Replace `sys.exit`, because nothing else reports its code."""
        in_main = threading.current_thread() is threading.main_thread()
        if os.getpid() == self._pid and in_main and self._exit is None:
            in_loop = self._session is not None and self._session.in_loop
            self._exit = (code, in_loop)
            if in_loop and self._session is not None:  # now, because a `finally` may change the weights
                if self._stopping.told() is not None:
                    self._session.save_last_edge("signal")
                else:
                    self._session.save_last_edge("stop" if code in _NO_ERROR else "exception")
        self._leave(code)

    def _on_exception(self, kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
        """Replace `sys.excepthook`."""
        if os.getpid() != self._pid or self._ended:
            self._hook(kind, error, frames)
            return
        if isinstance(error, RelightError) and getattr(error, "traceback", None) is None:
            sys.stderr.write(f"relight: {error}{_where(frames)}\n")
        else:
            self._hook(kind, error, frames)
        self._end_by(error)

    def _end_by(self, error: BaseException) -> None:
        if self._ended:
            return
        self._ended = True
        self._stopping.together = None  # the other ranks may be elsewhere
        told = self._stopping.told()
        stop = self._stopping.raised or self._stopping.check(0.0) or told
        if isinstance(error, KeyboardInterrupt):
            stop = stop or Stop("Stopped by Ctrl-C", why="signal")
        elif not is_worker_death(error):
            stop = told if self._stopping.is_raised_by_handler(error) else None
        if stop is not None:
            self._ending.end_stopped(stop)
        else:
            if self.resumed_at_pass_end and isinstance(error, (NameError, ZeroDivisionError)):
                error.add_note(_EMPTY_LOOP)
                sys.stderr.write(f"relight: {_EMPTY_LOOP}\n")
            self._ending.end_crashed(error, printed=True)

    def _at_exit(self) -> None:
        if os.getpid() != self._pid:
            return
        if not self._ended:
            self._end_at_exit()
        sys.stdout.flush()
        leave(0, lifeline=self._launch.lifeline)

    def _end_at_exit(self) -> None:
        last = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
        stop = self._stopping.raised
        try:
            if stop is not None and not self._done:
                self._ended = True
                self._ending.end_stopped(stop)
            elif isinstance(last, BaseException) and not isinstance(last, SystemExit):
                self._end_by(last)  # another excepthook handled it
            elif (stop := self._find_signal()) is not None:
                self._ended = True
                self._ending.end_stopped(stop)
            elif self._exit is not None and not self._done:
                self._end_by_exit(*self._exit)
            else:
                self._finish(self._word_end())
        except TrainingStopped as stopped:
            self._ended = True
            self._ending.end_stopped(stopped.stop)
        except BaseException as error:
            self._ended = True
            self._ending.end_crashed(error)

    def _find_signal(self) -> Stop | None:
        """Return the stop if a signal that the script handles itself is why its loops have not come to their end."""
        session = self._session
        ended = session is not None and not session.in_loop and not self.note_leaving(early=False)
        return None if ended or self._done else self._stopping.told()

    def _end_by_exit(self, code: Any, in_loop: bool) -> None:
        if code in _NO_ERROR:
            if not in_loop:
                self._finish()
                return
            self._ended = True
            self._ending.end_stopped(Stop("The script called sys.exit()"))
            return
        self._ended = True
        said = f": {code}" if isinstance(code, str) else f" with code {code}"
        steps = self._session.steps_done if self._session is not None else 0
        self._ending.end_failed(f"The script called sys.exit{said} at step {steps}.")

    def _word_end(self) -> str:
        if self._done or self._session is None:
            return "The training is done."
        total = self._session.steps_total
        steps = self._session.steps_done
        if total and steps < total:
            return f"The script ended at step {steps} of {total}."
        return "The training is done."


def _where(frames: TracebackType | None) -> str:
    """Return the last line of the script's own code in a traceback."""
    own = str(Path(__file__).parents[2])
    lines = [frame for frame in traceback.extract_tb(frames) if not frame.filename.startswith(own)]
    return f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines else ""
