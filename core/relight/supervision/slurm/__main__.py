"""`python -m relight.supervision.slurm RUN_FOLDER`: supervises a run on the first node of its job.

The first start of a job trains the attempt that was submitted. When Slurm starts the job again, or you submit its
script yourself, the run continues in a new attempt from its newest checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path

import msgspec

from relight.errors import RelightError
from relight.runs.evidence import gather_evidence
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock
from relight.runs.record_file import read_record, read_record_or_none, write_record
from relight.runs.records import AttemptExit, AttemptStart, SlurmJob
from relight.runs.stop_request import read_stop_request
from relight.slurm.job import find_job, requeue
from relight.supervision.attempt_start import begin_attempt
from relight.supervision.checkpoint_choice import choose_newest
from relight.supervision.inbox import SignalInbox
from relight.supervision.job_end import wait_for_others
from relight.supervision.launcher import Launcher
from relight.supervision.local_launcher import LocalLauncher
from relight.supervision.restart_policy import SAME_STEP_LIMIT, count_crashes_at_the_last_step
from relight.supervision.slurm.step_launcher import StepLauncher, has_lost_node
from relight.supervision.stop import record_stop_in_queue
from relight.supervision.supervisor import Supervisor

LOCK_WAIT_S = 180.0
"""A file server may keep the lock of a node that has died for a while."""
_ENDED_BY_SLURM_S = 120.0

_log = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Train the run until it ends, or until Slurm wants the nodes back; return the job's exit code."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    inbox = SignalInbox(ending=(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
    layout, job = RunLayout(Path(arguments[0])), int(os.environ["SLURM_JOB_ID"])
    try:
        return _train(layout, job, inbox)
    except RelightError as error:
        _log.error("%s", error)
        return error.exit_code


def _train(layout: RunLayout, job: int, inbox: SignalInbox) -> int:
    plan = read_record(layout.slurm, SlurmJob)
    with RunLock.acquire(layout, timeout_s=LOCK_WAIT_S) as lock:
        if plan.job != job:  # its script was submitted by hand
            write_record(layout.slurm, msgspec.structs.replace(plan, job=job))
        number = _find_attempt(layout, job)
        if number is None:
            return 0
        launcher: Launcher = LocalLauncher(layout, lock=lock)
        if plan.nodes > 1:
            launcher = StepLauncher(layout, job=job, nodes=plan.nodes)
        supervisor = Supervisor(layout, number, lock=lock, launcher=launcher, inbox=inbox)
        supervisor.run()
    wait_for_others(layout)
    last = layout.latest_attempt()
    ended = read_record_or_none(layout.attempt(last).exit, AttemptExit)
    lost = ended is not None and ended.outcome == "crashed" and plan.nodes > 1 and _should_follow(layout, plan.nodes)
    wanted_back = supervisor.received is not None and (ended is None or ended.outcome == "stopped")
    if (wanted_back or lost) and find_job(job, owner=os.getuid(), fresh=True).state == "RUNNING":
        # A job that was ended with scancel is not running any more.
        _log.info("Attempt %d has ended: %s Back into the queue.", last, ended.reason if ended else "")
        requeue(job)
        time.sleep(_ENDED_BY_SLURM_S)
    return {"finished": 0, "stopped": 0}.get(ended.outcome, 3) if ended is not None else 3


def _find_attempt(layout: RunLayout, job: int) -> int | None:
    """Return the attempt that was submitted, or begin the next one; None if there is nothing more to train."""
    number = layout.latest_attempt()
    attempt = layout.attempt(number)
    if not attempt.processes.exists() and not attempt.exit.exists():
        return number
    ended = read_record_or_none(attempt.exit, AttemptExit)
    started_before = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    if ended is not None and ended.outcome == "finished":
        _log.info("Run %s has finished.", layout.run_id)
        return None
    stopped = ended.outcome == "stopped" and ended.stop_signal is None if ended is not None else False
    if started_before and (stopped or read_stop_request(layout, attempt=number) is not None):
        _log.info("Run %s was stopped. Resume it with: relight resume %s", layout.run_id, layout.run_id)
        if ended is None:
            record_stop_in_queue(layout, number)
        return None
    before, choice = read_record(attempt.start, AttemptStart), choose_newest(layout)
    how = f"Slurm started job {job} again" if started_before else f"Job {job} was submitted by hand"
    begun = begin_attempt(
        layout,
        AttemptStart(
            attempt=number + 1,
            time_s=time.time(),
            reason="resume",
            from_sequence=choice.sequence,
            from_step=choice.step,
            notes=(f"{how}, after attempt {number}.", *choice.notes),
            max_restarts=before.max_restarts,
            nproc=before.nproc,
        ),
    )
    return begun.number


def _should_follow(layout: RunLayout, nodes: int) -> bool:
    """Return whether a lost node may explain the crash: not if the run has often crashed at this very step."""
    alike = count_crashes_at_the_last_step(gather_evidence(layout).history)
    return has_lost_node(layout, layout.latest_attempt(), nodes=nodes) and alike < SAME_STEP_LIMIT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
