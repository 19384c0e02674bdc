"""A run that lives as long as one process: in a container, or in a job of another system than Slurm.

The same call starts the run or continues it. The process is its supervisor: when it dies, the trainer ends; SIGTERM and
SIGINT make the trainer save first.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from relight.errors import RelightError, UsageError
from relight.mirror.address import MirrorAddress, is_run_id
from relight.mirror.fetching import FetchedRun, find_or_fetch, is_copied
from relight.mirror.remote import MirrorError
from relight.runs.evidence import gather_evidence
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, read_record_or_none
from relight.runs.records import AttemptExit, PreparedTask, RunRecord
from relight.runs.run_record import compare_configs
from relight.runs.status import RunStatus, derive_status
from relight.supervision.attempt_start import Launched, OwnSupervisor
from relight.supervision.inbox import SignalInbox
from relight.supervision.job_end import wait_for_others
from relight.supervision.job_submission import is_for_slurm
from relight.supervision.launch import launch_run
from relight.supervision.local_launcher import LocalLauncher
from relight.supervision.resume import resume_run
from relight.supervision.supervisor import Supervisor

SILENCE_WAIT_S = 90.0
"""How long to wait until a run that another machine has trained counts as dead."""
FINISHED, CRASHED = 0, 3
_POLL_S = 0.2

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """The run as a person asks for it, each time with the same words."""

    run_id: str
    prepared: PreparedTask
    name: str | None = None
    max_restarts: int = 0
    nproc: int | None = None
    """None: one process, or as before."""
    gpus: tuple[int, ...] = ()
    mirror: MirrorAddress | None = None


class OwnProcess:
    """This process as the supervisor of one run. Create it in the main thread, before the run is looked for."""

    def __init__(self) -> None:
        self._inbox = SignalInbox(ending=(signal.SIGTERM, signal.SIGINT))
        self._own = OwnSupervisor()

    def begin(self, folder: Path, wish: Wish, *, tell: Tell) -> Launched | None:
        """Begin the run's next attempt, or its first; None if it has finished, which `tell` says.

        Raises `UsageError` for an id that another training has, `RunBusy` while the run is trained, and what a launch,
        a resume and a fetch raise.
        """
        if not is_run_id(wish.run_id):
            raise UsageError(f"--id {wish.run_id!r} cannot be the id of a run: use letters, digits, dashes and dots.")
        layout = _find(folder, wish, tell=tell)
        if layout is None:
            tell(f"{wish.run_id} starts in {folder / wish.run_id}")
            return launch_run(
                folder, wish.prepared, name=wish.name, max_restarts=wish.max_restarts, nproc=wish.nproc or 1,
                gpus=wish.gpus, mirror=wish.mirror, run_id=wish.run_id, own=self._own,
            )  # fmt: skip
        record = read_record(layout.record, RunRecord)
        _refuse_another(layout, record, wish.prepared)
        _wait_for_silence(layout)
        if derive_status(gather_evidence(layout)).status is RunStatus.FINISHED:
            tell(f"{layout.run_id} has finished.")
            return None
        task, again = record.task, wish.prepared.reference
        typed = (task.path, task.python) == (again.path, again.python)  # a copy from elsewhere may name other code
        return resume_run(
            layout, max_restarts=wish.max_restarts, nproc=wish.nproc, gpus=wish.gpus, trust=typed, own=self._own
        )

    def supervise(self, launched: Launched) -> int:
        """Train until the run ends; return the exit code: 0 if it has finished, or a person has stopped it."""
        layout, lock = launched.layout, self._own.lock
        if lock is None:
            raise RelightError(f"Run {layout.run_id!r} has just been started by another process.")
        with lock:
            launcher = LocalLauncher(layout, lock=lock)
            supervisor = Supervisor(layout, launched.attempt, lock=lock, launcher=launcher, inbox=self._inbox)
            supervisor.run()
        wait_for_others(layout)
        ended = read_record_or_none(layout.attempt(layout.latest_attempt()).exit, AttemptExit)
        if ended is None or ended.outcome == "crashed":
            return CRASHED
        if supervisor.received is not None and ended.outcome == "stopped":
            return 128 + signal.Signals[supervisor.received]
        return FINISHED


def _find(folder: Path, wish: Wish, *, tell: Tell) -> RunLayout | None:
    """Return the run, fetched if it is only in the mirror; None if it is new."""
    layout = RunLayout(folder / wish.run_id)
    here = layout.is_run()
    if wish.mirror is None:
        return layout if here else None
    try:
        if not here and not is_copied(wish.mirror, wish.run_id):
            return None
        found = find_or_fetch(wish.mirror, wish.run_id, folder)
    except MirrorError as error:
        if not here:
            raise
        tell(f"{error} The run in {layout.folder} is continued without it.")
        return layout
    if not isinstance(found, FetchedRun):
        return found
    tell(f"Fetched {wish.run_id} from {wish.mirror.of_run(wish.run_id)}, every byte verified.")
    for note in found.notes:
        tell(note)
    return found.layout


def _refuse_another(layout: RunLayout, record: RunRecord, prepared: PreparedTask) -> None:
    """Raise `UsageError` if the id belongs to another training."""
    if is_for_slurm(layout):
        raise UsageError(f"Slurm starts {layout.run_id!r}. Use another --id, or: relight resume {layout.run_id}")
    was, now = record.task, prepared.reference
    differs = [
        f"{what} {before!r} instead of {after!r}"
        for what, before, after in (("the task", was.name, now.name), ("arguments", was.arguments, now.arguments))
        if before != after
    ]
    changes = compare_configs(record.config, prepared.config)
    if was.kind != "script":  # an option that is new in this version has its default
        changes = {key: both for key, both in changes.items() if key in record.config and key in prepared.config}
    differs += [f"{key}={before} instead of {after}" for key, (before, after) in changes.items()]
    if differs:
        raise UsageError(
            f"There is a run {layout.run_id!r} already, with {', '.join(differs)}. Use another --id, or branch: "
            f"relight branch {layout.run_id} --from latest"
        )


def _wait_for_silence(layout: RunLayout) -> None:
    """Wait while another machine seems to train the run: one that has died looks like that for some seconds."""
    until = time.monotonic() + SILENCE_WAIT_S
    while time.monotonic() < until:
        evidence = gather_evidence(layout)
        if not evidence.foreign or not derive_status(evidence).status.is_live:
            return
        time.sleep(_POLL_S)
