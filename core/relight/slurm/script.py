"""The script that Slurm runs: one that you could have written, and may submit yourself."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

WARN_S = 120
"""Slurm sends SIGUSR1 that long before the time limit, or up to a minute earlier."""


def write_job_script(
    *, run: str, folder: str, python: str, nodes: int, options: Sequence[str], log: str, warn_s: int = WARN_S
) -> str:
    """Return the text of the script. `options` are the user's own, for sbatch; they come last, so they count."""
    lines = [
        "#!/bin/bash",
        f"# Trains the run {run}. `relight resume {run}` submits this file again. So can you, in this folder:",
        "#     sbatch job.sbatch",
        "",
        f"#SBATCH --job-name={run}",
        f"#SBATCH --nodes={nodes}",
        "# One process on each node starts the ranks there.",
        "#SBATCH --ntasks-per-node=1",
        "# After a preemption or a lost node, Slurm starts the job again, and it goes on with the same log.",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={log}",
        "# Before its time limit, or a preemption, the job gets SIGUSR1: it saves and goes back into the queue.",
        f"#SBATCH --signal=B:USR1@{warn_s}",
        *(["# Your own options:"] if options else []),
        *(f"#SBATCH {shlex.quote(option) if ' ' in option else option}" for option in options),
        "",
        "# The supervisor trains from the newest checkpoint, or from the beginning. `exec` lets it get the signals.",
        f"exec {shlex.quote(python)} -P -m relight.supervision.slurm {shlex.quote(folder)}",
        "",
    ]
    return "\n".join(lines)
