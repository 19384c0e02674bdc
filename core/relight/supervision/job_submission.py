"""Where a run trains: on this machine, or submitted to Slurm.

In a job the supervisor lives in the job, and `python -m relight.supervision.slurm` starts it.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

import msgspec

from relight.errors import RelightError, UsageError
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, read_record_or_none, write_record
from relight.runs.records import SlurmJob
from relight.slurm.job import NO_SBATCH, is_installed, submit
from relight.slurm.script import write_job_script

HERE = "here"
SLURM = "slurm"


class NotSubmitted(RelightError):
    """Slurm did not take the job."""


def is_for_slurm(layout: RunLayout) -> bool:
    """Return whether Slurm starts the run's trainings."""
    return layout.slurm.exists()


def read_plan(layout: RunLayout) -> SlurmJob | None:
    """Return how Slurm starts the run's trainings, without the job that was submitted; None for this machine."""
    record = read_record_or_none(layout.slurm, SlurmJob)
    return record and msgspec.structs.replace(record, job=0)


def plan_job(
    on: str | None,
    *,
    nodes: int | None = None,
    options: Sequence[str] | None = None,
    nproc: str | None = None,
    gpus: str | None = None,
    before: SlurmJob | None = None,
) -> SlurmJob | None:
    """Return how Slurm is to start a run, as a person asks for it; None for a run on this machine.

    What is None stays as `before`: the plan of the run that a branch starts from. Raises `UsageError` for what does not
    fit together, and where there is no Slurm.
    """
    chosen = on or (SLURM if before is not None else HERE)
    if chosen == HERE:
        if (nodes or 1) > 1 or options:
            raise UsageError("--nodes and --sbatch are for a run that Slurm starts: add --on slurm.")
        return None
    if chosen != SLURM:
        raise UsageError(f"--on {chosen} is not known. Use --on slurm, or --on here for this machine.")
    before = before or SlurmJob()
    if nodes is not None and nodes < 1:
        raise UsageError(f"--nodes {nodes} is not a number of nodes: use 1 or more.")
    if nproc == "auto":
        raise UsageError(
            "--nproc auto counts the GPUs of this machine, not of the nodes. Give the number of ranks on each node."
        )
    if gpus is not None:
        raise UsageError("--gpus chooses cards of this machine. Ask Slurm for them: --sbatch --gpus-per-node=4.")
    words = before.options if options is None else _split_options(options)
    if not is_installed():
        raise UsageError(NO_SBATCH)
    return SlurmJob(nodes=nodes or before.nodes, options=words)


def _split_options(options: Sequence[str]) -> tuple[str, ...]:
    try:
        words = tuple(word for each in options for word in shlex.split(each))
    except ValueError as error:
        raise UsageError(f"--sbatch {' '.join(options)!r} cannot be read: {error}.") from error
    if wrong := [word for word in words if not word.startswith("-") or "\n" in word]:
        raise UsageError(
            f"--sbatch {wrong[0]!r} is not an option of sbatch in one word. Write --partition=gpu, not --partition gpu."
        )
    return words


def count_nodes(layout: RunLayout) -> int:
    """Return on how many machines the launcher trains the run."""
    record = read_record_or_none(layout.slurm, SlurmJob)
    return record.nodes if record is not None else 1


def submit_job(layout: RunLayout) -> int:
    """Write the job's script into the run's folder, submit it, record the job and return its number."""
    before = read_record(layout.slurm, SlurmJob)
    try:
        layout.slurm_script.write_text(
            write_job_script(
                run=layout.run_id,
                folder=str(layout.folder.absolute()),
                python=sys.executable,
                nodes=before.nodes,
                options=before.options,
                log=layout.slurm_log.name,
            )
        )
        job = submit(layout.slurm_script)
    except (OSError, RelightError) as error:
        raise NotSubmitted(f"Run {layout.run_id!r} could not be submitted. {error}") from error
    write_record(layout.slurm, msgspec.structs.replace(before, job=job))
    return job
