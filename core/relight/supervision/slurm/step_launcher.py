"""Starting the ranks on all nodes of a job with `srun`: one torchrun agent per node."""

from __future__ import annotations

import os
import signal
import socket

from relight.runs.layout import AttemptLayout, RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import AttemptStart, TaskReference
from relight.slurm.job import kill_steps
from relight.supervision.launcher import ProcessEnd
from relight.supervision.local_launcher import TrainerProcess
from relight.supervision.ranks import LiveRanks
from relight.supervision.trainer_command import build_ranks_command

STEP_WITHIN_S = 60
"""The nodes are the job's own: `srun` waits longer only for one that Slurm takes for lost. Then the job goes back."""


class StepLauncher:
    """Starts each trainer as a step of the job. Rank 0 is on the first node, where the supervisor is."""

    def __init__(self, layout: RunLayout, *, job: int, nodes: int) -> None:
        self._layout = layout
        self._job = job
        self._nodes = nodes

    def start(self, task: TaskReference, attempt: AttemptLayout) -> StepTrainer:
        """Start the trainer of `attempt`. Raises as `LocalLauncher.start` does."""
        world_size = read_record(attempt.start, AttemptStart).world_size
        command = build_ranks_command(
            self._layout, attempt.number, task,
            nproc=world_size // self._nodes, nodes=self._nodes, meeting=f"{socket.gethostname()}:{_find_free_port()}",
        )  # fmt: skip
        cores = os.environ.get("SLURM_CPUS_PER_TASK")  # srun no longer takes it from sbatch
        step = [
            "srun", f"--nodes={self._nodes}", f"--ntasks={self._nodes}", "--ntasks-per-node=1",
            "--kill-on-bad-exit=1", f"--immediate={STEP_WITHIN_S}", "--unbuffered", "--quiet",
            *([f"--cpus-per-task={cores}"] if cores else []),
        ]  # fmt: skip
        return StepTrainer(
            self._layout,
            attempt,
            command=[*step, *command.arguments],
            folder=command.folder,
            lock_fd=None,
            ranks=LiveRanks(self._layout, attempt.number, world_size),
            job=self._job,
        )


class StepTrainer(TrainerProcess):
    """The step as its `srun`. Signals go to the ranks on this node: the ranks agree on a stop among themselves."""

    def __init__(self, *arguments: object, job: int, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._job = job

    def send(self, which: signal.Signals) -> None:
        """Send a signal; SIGKILL ends the processes on all nodes, which would outlive their `srun`."""
        if which is signal.SIGKILL:
            kill_steps(self._job)
        super().send(which)

    def poll(self) -> ProcessEnd | None:
        """Return how the step ended, or None while it lives. The memory of `srun` is not that of the training."""
        end = super().poll()
        return end and ProcessEnd(exit_code=end.exit_code, signal=end.signal)


def has_lost_node(layout: RunLayout, attempt: int, *, nodes: int) -> bool:
    """Return whether the ranks of some node ended without a word from the process that had started them."""
    each = read_record(layout.attempt(attempt).start, AttemptStart).world_size // nodes
    return not all(layout.of_rank(node * each).attempt(attempt).ranks_failure.exists() for node in range(nodes))


def _find_free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        port: int = found.getsockname()[1]
        return port
