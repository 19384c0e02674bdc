"""Starting a new run, once per token."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import msgspec

from relight.errors import RelightError, RunBusy
from relight.mirror.address import MirrorAddress, check_place
from relight.mirror.report import set_mirror
from relight.runs.catalog import create_run
from relight.runs.record_file import write_record
from relight.runs.records import AttemptStart, PreparedTask, SlurmJob, name_nproc
from relight.runs.trash import sweep_in_background
from relight.supervision.attempt_start import Launched, OwnSupervisor, start_first_attempt


def launch_run(
    folder: Path,
    prepared: PreparedTask,
    *,
    name: str | None = None,
    token: str | None = None,
    max_restarts: int = 0,
    nproc: int = 1,
    gpus: tuple[int, ...] = (),
    mirror: MirrorAddress | None = None,
    slurm: SlurmJob | None = None,
    run_id: str | None = None,
    own: OwnSupervisor | None = None,
) -> Launched:
    """Create a run in the runs folder and start its first attempt.

    A second call with the same `token` returns the same run, which starts only once, even when both calls come at the
    same moment from two processes. `nproc` processes train it, under torchrun if several, on the cards `gpus`; () are
    all cards. With `slurm` it is submitted as a job instead of starting here, and `nproc` is for each node. After a
    crash it restarts automatically, up to `max_restarts` times. With `mirror` its checkpoints are copied there while it
    trains. `run_id` is its id, and with `own` the caller supervises it. Raises RelightError when the folder cannot be
    written or no supervisor can be started.
    """
    if mirror is not None:
        check_place(mirror, folder)
    layout, created = create_run(folder, prepared, name=name, token=token, run_id=run_id)
    start = AttemptStart(
        attempt=1, time_s=time.time(), reason="launch", max_restarts=max_restarts, token=run_id or token,
        nproc=name_nproc(nproc * (slurm.nodes if slurm is not None else 1)), gpus=gpus or msgspec.UNSET,
    )  # fmt: skip

    def prepare() -> AttemptStart:
        if mirror is not None:
            set_mirror(layout, mirror)
        if slurm is not None:
            write_record(layout.slurm, slurm)
        return start

    try:
        launched = start_first_attempt(layout, prepare, own=own)
    except RunBusy:
        raise
    except RelightError:
        if created and not layout.latest_attempt():  # for example a full disk: leave no run behind
            shutil.rmtree(layout.folder, ignore_errors=True)
        raise
    sweep_in_background(folder)
    return launched
