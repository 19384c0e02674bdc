"""The supervisor of a run: starts and watches the trainer, samples the machine, and records how each attempt ended."""

from __future__ import annotations

import logging
import signal
import time
import traceback

import msgspec

from relight.errors import DamagedFile, RelightError
from relight.runs.evidence import PastAttempt, gather_evidence
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock
from relight.runs.log import read_log_tail
from relight.runs.process_identity import current_process, is_alive
from relight.runs.progress import read_progress
from relight.runs.record_file import encode_record, read_record, read_record_or_none, write_record
from relight.runs.records import (
    AttemptExit,
    AttemptProcesses,
    AttemptStart,
    Outcome,
    ProcessIdentity,
    RunRecord,
    TrainerOutcome,
)
from relight.runs.reserved_file import ReservedFile
from relight.runs.stop_request import read_stop_request, reserve_stop_request
from relight.supervision.attempt_start import begin_attempt
from relight.supervision.escalation import StopEscalation
from relight.supervision.exit_record import StopAsked, describe_exit
from relight.supervision.inbox import SignalInbox
from relight.supervision.launcher import Launcher, Trainer
from relight.supervision.memory_pressure import OutOfMemoryWatch
from relight.supervision.mirror_keeper import MirrorKeeper
from relight.supervision.orphans import find_lock_holders
from relight.supervision.ranks import judge_ranks
from relight.supervision.removal import RemovalWatch
from relight.supervision.restart_policy import RestartDecision, decide_restart
from relight.supervision.system_metrics import SystemMetrics

POLL_S = 0.1
"""Interval between checks for a stop request. The death of a trainer that is a child process wakes the supervisor."""
SYSTEM_PATIENCE_S = 60.0
"""Time for the trainer to end after the supervisor received SIGTERM. A shutdown may kill both earlier."""
LOCK_HOLDERS_S = 60.0
"""How long a restart waits for other processes that hold the run's lock."""
MEMORY_WATCH_S = 5.0
RECORD_RETRY_S = 1.0
SLURM_WARNING = "SIGUSR1"
"""What `#SBATCH --signal` asks Slurm to send; a supervisor outside of a job does not listen to it."""
EXIT_RECORD_BYTES = 64 << 10
"""Disk space reserved for the exit record with its traceback, so that it can be written when the disk is full."""
_LAST_LINE_CHARACTERS = 300

_log = logging.getLogger(__name__)


class Supervisor:
    """Runs attempt `number` of a run and the attempts that the restart policy adds, under the run's lock.

    Create one per process, in its main thread.
    """

    def __init__(
        self, layout: RunLayout, number: int, *, lock: RunLock, launcher: Launcher, inbox: SignalInbox | None = None
    ) -> None:
        self._layout = layout
        self._first = number
        self._attempt = layout.attempt(number)
        self._lock = lock
        self._launcher = launcher
        self._inbox = inbox or SignalInbox()
        self._identity = current_process()
        self._escalation = StopEscalation()
        self._removal = RemovalWatch(layout)
        self._mirror = MirrorKeeper(layout)
        self._removed = False
        self._is_script = False
        self._sentence = ""
        self._received: str | None = None

    def run(self) -> None:
        """Supervise until no attempt is left to run."""
        stop_request = reserve_stop_request(self._layout)
        try:
            self._write_processes(None)
            self._run_attempts()
        except Exception as error:
            if not self._attempt.exit.exists():
                self._write_exit(self._failed(error))
            raise
        finally:
            stop_request.release()

    @property
    def received(self) -> str | None:
        """Name of the signal that ended the last attempt; None if it ended otherwise, or a person had asked first."""
        return self._received

    def _run_attempts(self) -> None:
        delay_s = 0.0
        while True:
            metrics = SystemMetrics(self._layout, self._attempt)
            ReservedFile(self._attempt.exit, room_bytes=EXIT_RECORD_BYTES).reserve()
            record = self._run_attempt(metrics, delay_s=delay_s)
            if self._removed:
                metrics.close()
                return
            decision = self._decide_restart(record)
            if decision.reason and not decision.restart:
                record = msgspec.structs.replace(record, reason=f"{record.reason} {decision.reason}".strip())
            self._write_exit(record)
            metrics.close()
            if not decision.restart or not self._begin_restart(decision):
                return
            delay_s = decision.delay_s

    def _run_attempt(self, metrics: SystemMetrics, *, delay_s: float) -> AttemptExit:
        """Run the trainer to its end and return the exit record."""
        self._wait(delay_s)
        if self._escalation.requested:
            return self._ended_early("stopped", f"{self._sentence} Its trainer had not started yet.")
        try:
            trainer = self._start_trainer()
        except (OSError, RelightError) as error:
            return self._ended_early("crashed", f"The trainer could not be started: {error}")
        try:
            self._write_processes(trainer.identity)
            metrics.start(trainer.pid)
            return self._watch(trainer)
        except BaseException:
            # A bug in the supervisor. The checkpoint writer has its own session and still finishes the staged snapshot.
            trainer.send(signal.SIGKILL)
            raise

    def _start_trainer(self) -> Trainer:
        task = read_record(self._layout.record, RunRecord).task
        self._is_script = task.kind == "script"
        return self._launcher.start(task, self._attempt)

    def _watch(self, trainer: Trainer) -> AttemptExit:
        memory = OutOfMemoryWatch()
        refresh_at = time.monotonic() + MEMORY_WATCH_S
        while (end := trainer.poll()) is None:
            self._listen(POLL_S)
            now = time.monotonic()
            self._mirror.look(at=now)
            due = self._escalation.next_signal(at=now)
            if due is not None:
                trainer.send(due)
            if not self._removed and self._removal.is_gone(self._attempt, at=now):
                self._removed = True
                trainer.send(signal.SIGKILL)
            if now >= refresh_at:
                memory.refresh()
                refresh_at = now + MEMORY_WATCH_S
        self._listen(0.0)  # a request that arrived together with the end still counts
        asked = StopAsked(self._sentence, tuple(self._escalation.sent), self._received)
        stop = asked if self._escalation.requested else None
        joined = not self._is_script or self._attempt.script.exists()
        start = read_record_or_none(self._attempt.start, AttemptStart)
        outcome, prefix = read_record_or_none(self._attempt.outcome, TrainerOutcome), ""
        if start is not None and start.world_size > 1:
            verdict = judge_ranks(self._layout, self._attempt.number, start.world_size, end=end, asked=stop is not None)
            end, outcome, prefix = verdict.end, verdict.outcome, verdict.prefix
        record = describe_exit(
            self._attempt.number,
            end,
            outcome=outcome,
            progress=read_progress(self._attempt.progress),
            stop=stop,
            out_of_memory=memory.evidence(),
            is_script=self._is_script,
            joined=joined,
            last_line="" if joined else self._read_last_line(),
        )
        if self._received == SLURM_WARNING and record.outcome == "stopped":
            why = f"Slurm had sent {SLURM_WARNING}: another job preempts it, or its time limit is near."
            record = msgspec.structs.replace(record, stop_signal=SLURM_WARNING, reason=f"{record.reason} {why}")
        crashed = record.outcome == "crashed"
        return msgspec.structs.replace(record, reason=f"{prefix}{record.reason}") if prefix and crashed else record

    def _read_last_line(self) -> str:
        """Return the last line that the trainer printed, or an empty string."""
        try:
            lines = read_log_tail(self._attempt.log, lines=20).split("\n")
        except (OSError, DamagedFile):
            return ""
        return next((line.strip()[:_LAST_LINE_CHARACTERS] for line in reversed(lines) if line.strip()), "")

    def _wait(self, duration_s: float) -> None:
        """Wait, or until a stop is requested. Listens at least once."""
        until = time.monotonic() + duration_s
        self._listen(0.0)
        while not self._escalation.requested and (left_s := until - time.monotonic()) > 0:
            self._listen(min(POLL_S, left_s))

    def _listen(self, timeout_s: float) -> None:
        """Wait for a signal or the death of a child, then process the stop requests for this attempt."""
        for number in self._inbox.wait(timeout_s):
            self._received = self._received or (None if self._sentence else number.name)
            self._sentence = self._sentence or (
                f"Stopped because its supervisor received {number.name} (from a shutdown, a preemption or a person)."
            )
            self._escalation.end(at=time.monotonic(), patience_s=SYSTEM_PATIENCE_S)
        request = read_stop_request(self._layout)
        # A request for an earlier attempt of this supervisor came while it was about to restart the run.
        if request is not None and self._first <= request.attempt <= self._attempt.number:
            self._sentence = self._sentence or (
                "Stopped immediately by request." if request.now else "Stopped by request."
            )
            self._escalation.request(request, at=time.monotonic())

    def _decide_restart(self, record: AttemptExit) -> RestartDecision:
        if self._escalation.requested:
            return RestartDecision(restart=False)
        *before, this = gather_evidence(self._layout).history
        return decide_restart([*before, PastAttempt(start=this.start, exit=record)])

    def _begin_restart(self, decision: RestartDecision) -> bool:
        """Begin the next attempt of the same run. Return False when it cannot begin, or a stop was requested."""
        self._wait_for_writer()
        if self._escalation.requested:
            return False
        from relight.supervision.checkpoint_choice import choose_newest

        this = read_record_or_none(self._attempt.start, AttemptStart)
        number = self._attempt.number + 1
        try:
            choice = choose_newest(self._layout)
            attempt = begin_attempt(
                self._layout,
                AttemptStart(
                    attempt=number,
                    time_s=time.time(),
                    reason="restart",
                    from_sequence=choice.sequence,
                    from_step=choice.step,
                    notes=(decision.reason, *choice.notes),
                    max_restarts=this.max_restarts if this else 0,
                    gpus=this.gpus if this else msgspec.UNSET,
                    nproc=this.nproc if this else msgspec.UNSET,
                ),
            )
        except (OSError, RelightError) as error:
            _log.warning("Run %s could not be restarted: %s", self._layout.run_id, error)
            return False
        self._attempt = attempt
        self._write_processes(None)
        return True

    def _wait_for_writer(self) -> None:
        """Wait until the dead trainer's last checkpoint is durable, or until a stop is requested."""
        writer = read_record_or_none(self._attempt.writer, ProcessIdentity)
        while is_alive(writer) and not self._escalation.requested:
            self._listen(POLL_S)
        # A writer that replaced a dead one may not be on record, but it holds the lock, as this process does. Another
        # program that keeps the lock file open, such as a backup, must not delay the restart forever.
        until = time.monotonic() + LOCK_HOLDERS_S
        while not self._escalation.requested and time.monotonic() < until and find_lock_holders(self._layout):
            self._listen(POLL_S)

    def _ended_early(self, outcome: Outcome, reason: str) -> AttemptExit:
        start = read_record_or_none(self._attempt.start, AttemptStart)
        return AttemptExit(
            attempt=self._attempt.number,
            time_s=time.time(),
            outcome=outcome,
            step=start.from_step if start else 0,
            reason=reason,
            stop_signal=self._received if outcome == "stopped" else None,
        )

    def _failed(self, error: Exception) -> AttemptExit:
        """Return the exit record for an attempt that ended because the supervisor itself failed."""
        ended = self._ended_early("crashed", f"Its supervisor failed: {type(error).__name__}: {error}")
        progress = read_progress(self._attempt.progress)
        return msgspec.structs.replace(
            ended,
            step=max(ended.step, progress.step if progress else 0),
            error=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error)),
        )

    def _write_processes(self, trainer: ProcessIdentity | None) -> None:
        # Not fsynced: after a power cut, none of these processes is alive.
        record = AttemptProcesses(supervisor=self._identity, trainer=trainer)
        write_record(self._attempt.processes, record, durable=False)

    def _write_exit(self, record: AttemptExit) -> None:
        """Write the exit record. Retry while the disk rejects it: without the record the end stays unexplained."""
        warned = False
        exit_file = ReservedFile(self._attempt.exit, room_bytes=EXIT_RECORD_BYTES)
        while True:
            try:
                exit_file.write(encode_record(record))
                exit_file.release()
                return
            except OSError as error:
                if not warned:
                    warned = True
                    _log.warning(
                        "The exit record cannot be written yet (%s); Relight keeps trying. Its content: %s",
                        error,
                        record,
                    )
                if not self._layout.folder.is_dir():
                    return  # the run was removed
            if self._inbox.wait(RECORD_RETRY_S):
                return
