"""What Slurm says about a job, from `squeue`, and the few things to ask of it. Needs no accounting."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from relight.errors import RelightError

NO_SBATCH = (
    "sbatch was not found, so nothing can be submitted to Slurm from this machine. Log in to a node of the cluster, or "
    "train here with --on here."
)
ASK_EVERY_S = 3.0
"""All jobs of a user are asked for at once and remembered that long: the controller serves a whole cluster."""
_TIMEOUT_S = 20.0
_FIELDS = "%i|%T|%N|%r|%Z"
_WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
_WORKING = ("RUNNING", "CONFIGURING", "SUSPENDED", "STAGE_OUT", "SIGNALING", "RESIZING", "STOPPED")
_REASONS = {
    "Priority": "other jobs go first",
    "Resources": "waiting for free nodes",
    "BeginTime": "not before its time; a job that starts again waits about two minutes",
    "JobHeldUser": "held: release it with scontrol release",
    "JobHeldAdmin": "held by an administrator",
    "Dependency": "waiting for another job",
    "PartitionTimeLimit": "its --time is longer than its partition allows",
    "QOSMaxJobsPerUserLimit": "you have as many jobs as you may",
    "ReqNodeNotAvail": "a node that it needs is not available",
}


@dataclass(frozen=True)
class JobReport:
    """A job as Slurm shows it. `state` is Slurm's word; "" if Slurm cannot be asked here."""

    job: int
    state: str = ""
    nodes: str = ""
    reason: str = ""
    folder: str = ""
    """From where it was submitted."""
    gone: bool = False
    """Slurm answers, and does not know the job: it ended a while ago."""

    @property
    def waiting(self) -> bool:
        """Whether it waits for its nodes, for the first time or again."""
        return self.state in _WAITING

    @property
    def working(self) -> bool:
        """Whether it has its nodes."""
        return self.state in _WORKING

    @property
    def ended(self) -> bool:
        """Whether it will do nothing any more, as far as Slurm says."""
        return self.gone or (bool(self.state) and not self.waiting and not self.working and self.state != "COMPLETING")

    @property
    def sentence(self) -> str:
        """What the job is doing, for a person."""
        name = f"Slurm job {self.job}"
        if self.waiting:
            known = _REASONS.get(self.reason)
            why = f" ({self.reason}: {known})" if known else f" ({self.reason})" if self.reason != "None" else ""
            return f"{name} is waiting{why}."
        if self.working:
            return f"{name} runs on {self.nodes}." if self.nodes else f"{name} is starting."
        if self.gone:
            return f"Slurm no longer knows job {self.job}."
        if not self.state:
            return f"It was submitted as Slurm job {self.job}, but Slurm cannot be asked here."
        return f"{name} has ended: {self.state}."


class Queue:
    """Remembers what Slurm has said for some seconds. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[int, tuple[float, dict[int, JobReport] | None]] = {}
        self._newest: dict[int, int] = {}
        """The largest number of a job that each user had when Slurm was asked last."""

    def find(self, job: int, *, owner: int, fresh: bool = False) -> JobReport:
        """Return what Slurm says about a job of the user with that id. Never raises."""
        with self._lock:
            at, jobs = self._asked.get(owner, (float("-inf"), None))
            newest = self._newest.get(owner, 0)  # numbers grow: a larger one may have been submitted since
            if fresh or time.monotonic() - at >= ASK_EVERY_S or job > newest:
                jobs = _ask(owner)
                self._asked[owner] = time.monotonic(), jobs
                self._newest[owner] = max(newest, job, *(jobs or ()))
        if jobs is None:
            return JobReport(job)
        # A cluster may hide the jobs of other users.
        return jobs.get(job) or JobReport(job, gone=owner == os.getuid())


_queue = Queue()


def find_job(job: int, *, owner: int, fresh: bool = False) -> JobReport:
    """Return what Slurm says about a job of the user with that id, at most some seconds old unless `fresh`."""
    return _queue.find(job, owner=owner, fresh=fresh)


def is_installed() -> bool:
    """Return whether jobs can be submitted from this machine."""
    return shutil.which("sbatch") is not None


def submit(script: Path) -> int:
    """Submit a script from its own folder and return the job's number. Raises `RelightError` with Slurm's words."""
    # Options may also come from variables such as SBATCH_PARTITION. What a job around this process was given may not.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or _is_setup(name)
    }
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", script.name], cwd=script.parent, env=environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise RelightError(NO_SBATCH) from None
    except subprocess.TimeoutExpired:
        raise RelightError("sbatch did not answer within 60 s. Look with squeue whether it took the job.") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.replace("sbatch: error:", "").split()) or f"exit code {done.returncode}"
        raise RelightError(f"Slurm did not take the job: {said}")
    return int(done.stdout.strip().partition(";")[0])


def requeue(job: int) -> None:
    """Let Slurm start the job again: it ends this job's processes. Raises `RelightError`."""
    _command("scontrol", "requeue", str(job))


def cancel(job: int) -> None:
    """End the job, also one that is waiting. Raises `RelightError`."""
    _command("scancel", str(job))


def kill_steps(job: int) -> None:
    """Kill what `srun` has started in the job, on every node. Never raises."""
    with contextlib.suppress(RelightError):
        for step in _command("squeue", "--noheader", "--steps", "--jobs", str(job), "--format=%i").split():
            if step.rpartition(".")[2].isdigit():
                _command("scancel", "--signal=KILL", step)


def _is_setup(name: str) -> bool:
    return name in ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_TIME_FORMAT")


def _ask(owner: int) -> dict[int, JobReport] | None:
    try:
        text = _command("squeue", "--noheader", "--states=all", f"--user={owner}", f"--format={_FIELDS}")
    except RelightError:
        return None
    jobs = {}
    for line in text.splitlines():
        name, _, rest = line.partition("|")
        state, nodes, reason, folder = (*rest.split("|", 3), "", "", "")[:4]
        if name.isdigit():
            jobs[int(name)] = JobReport(int(name), state, nodes, reason, folder)
    return jobs


def _command(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RelightError(f"{words[0]} did not work: {error}") from error
    if done.returncode != 0:
        raise RelightError(f"{' '.join(words)}: {' '.join(done.stderr.split())}")
    return done.stdout
