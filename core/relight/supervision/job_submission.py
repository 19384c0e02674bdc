"""Submitting a run to Slurm: its supervisor lives in the job, and `python -m relight.supervision.slurm` starts it."""

from __future__ import annotations

import sys

import msgspec

from relight.errors import RelightError
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, read_record_or_none, write_record
from relight.runs.records import SlurmJob
from relight.slurm.job import submit
from relight.slurm.script import write_job_script


class NotSubmitted(RelightError):
    """Slurm did not take the job."""


def is_for_slurm(layout: RunLayout) -> bool:
    """Return whether Slurm starts the run's trainings."""
    return layout.slurm.exists()


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
