"""A real Slurm for tests: one controller and several node daemons on this machine, gone with the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import soak

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")

CONF = """\
ClusterName=relight
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge/socket
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=0
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
SlurmdTimeout=10
SlurmctldTimeout=10
ReturnToService=2
SlurmdParameters=config_overrides
{nodes}
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=off
"""


def find_obstacle() -> str:
    """Say why no Slurm can be started here; "" if one can."""
    if os.geteuid() != 0:
        return "starting a Slurm needs root"
    # Debian keeps the daemons where only root looks.
    missing = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    return f"not installed: {', '.join(missing)} (slurmctld slurmd slurm-client munge)" if missing else ""


_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Cluster:
    """Nodes n1, n2…, each with one daemon; the partition `high` preempts `low`."""

    def __init__(self, folder: Path, *, nodes: int) -> None:
        self._folder = folder
        self._nodes = [f"n{number}" for number in range(1, nodes + 1)]
        for name in ("state", "log", "run", "munge", *(f"spool-{node}" for node in self._nodes)):
            (folder / name).mkdir(parents=True)
        self._munge: subprocess.Popen[bytes] | None = None
        self.conf = folder / "slurm.conf"
        ports = _find_free_ports(nodes + 1)
        host = socket.gethostname().partition(".")[0]
        lines = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=1000"
            for node, port in zip(self._nodes, ports[1:], strict=True)
        ]
        self.conf.write_text(CONF.format(host=host, folder=folder, port=ports[0], nodes="\n".join(lines)))

    def start(self) -> None:
        """Start all daemons and wait until the nodes are idle."""
        munge = self._folder / "munge"
        key = munge / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._munge = subprocess.Popen(
            ["munged", "--foreground", "--force", f"--socket={munge}/socket", f"--key-file={key}",
             f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"],
            env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        soak.wait_for((munge / "socket").exists, why="munge's socket")
        self.run("slurmctld", "-c", "-f", str(self.conf))
        for node in self._nodes:
            self.start_node(node)
        soak.wait_for(lambda: self.run("sinfo", "-hNp", "low", "-o", "%T").split() == ["idle"] * len(self._nodes),
                      why="idle nodes")  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to find this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.conf), "PATH": _PATH}

    def run(self, *words: str) -> str:
        """Run a command of Slurm and return what it prints."""
        return subprocess.run(
            words, env=self.environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self.run("slurmd", "-N", node, "-f", str(self.conf))

    def kill_node(self, node: str) -> None:
        """End everything on a node at once, as a power cut does."""
        daemon = int((self._folder / "run" / f"slurmd-{node}.pid").read_text())
        for pid in [daemon, *self._find_steps(node)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def state(self, job: int) -> str:
        """Return Slurm's word for the state of a job."""
        return self.run("squeue", "-ht", "all", "-j", str(job), "-o", "%T").strip()

    def start_now(self, job: int) -> None:
        """Spare the two minutes that Slurm lets a requeued job wait."""
        soak.wait_for(lambda: self.state(job) == "PENDING", why="the job to go back into the queue")
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def stop(self) -> None:
        """End all daemons and everything that they have started."""
        for node in self._nodes:
            with contextlib.suppress(OSError):
                self.kill_node(node)
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((self._folder / "run" / "slurmctld.pid").read_text()), signal.SIGKILL)
        if self._munge is not None:
            self._munge.kill()
            self._munge.wait()

    def _find_steps(self, node: str) -> list[int]:
        """Return the processes that Slurm has started on the node, with all their descendants."""
        import psutil

        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                ours = process.environ()
                if ours.get("SLURMD_NODENAME") == node and ours.get("SLURM_CONF") == str(self.conf):
                    started_by = [each.pid for each in process.parents() if each.name().startswith("slurmstepd")]
                    found += [process.pid, *started_by]
        return found


def _find_free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Let a cluster of two nodes run, of which the commands of this process speak."""
    made = Cluster(folder, nodes=2)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SLURM_CONF", "PATH"):
            patch.setenv(name, made.environment[name])
        try:
            made.start()
            yield made
        finally:
            made.stop()
