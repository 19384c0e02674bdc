"""Your own torchrun on two machines: killed, cut off, and continued."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import soak
from integration.nodes import INTERFACE, Machine, Network, find_obstacle
from relight.metrics.series import read_series
from relight.overview.summary import RunSummary, summarize_run
from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, read_record_or_none
from relight.runs.records import AttemptExit, AttemptStart
from relight.runs.status import RunStatus

pytestmark = [
    pytest.mark.processes,
    pytest.mark.thorough,
    pytest.mark.xdist_group("nodes"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(find_obstacle()), reason=find_obstacle()),
]

SCRIPT = """\
import os
import re
import time
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
import relight

run = relight.init(seed=1, checkpoint_every_steps=5)
dist.init_process_group("gloo")
world_size = dist.get_world_size()
points = torch.randn(66, 3, generator=torch.Generator().manual_seed(2))
data = TensorDataset(points, points.sum(1, keepdim=True), torch.arange(66))
loader = run.loader(DataLoader(data, batch_size=4 // world_size, sampler=DistributedSampler(data)))
model = DistributedDataParallel(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
run.track(model=model, optimizer=optimizer)
with open(f"trained-{os.uname().nodename}-{os.getpid()}-{time.time_ns()}", "w", buffering=1) as trained:
    for epoch in run.epochs(2):
        for x, y, index in loader:
            loss = (model(x) - y).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            time.sleep(0 if os.path.exists("fast") else float(os.environ.get("NAP", "0.25")))
            print(run.steps_done, *index.tolist(), file=trained)
            run.step(loss=loss)
        run.evaluated(error=loss.item())
"""
STEPS = 2 * 17
"""66 samples in batches of four, twice."""


class Cluster:
    """Two machines with a folder that both of them see, and the runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        (folder / "train.py").write_text(SCRIPT)
        self.network = Network(folder / "machines", machines=2)
        self.first, self.second = self.network.machines

    def torchrun(self, machine: Machine, *words: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start torchrun on a machine."""
        return machine.start(
            [sys.executable, "-m", "torch.distributed.run", *words, "train.py"],
            log=self.folder / f"{machine.name}.log", folder=self.folder,
            environment={
                "RELIGHT_RUNS": str(self.runs), "GLOO_SOCKET_IFNAME": INTERFACE, "OMP_NUM_THREADS": "1", **variables
            },
        )  # fmt: skip

    def torchrun_everywhere(self, **variables: str) -> list[subprocess.Popen[bytes]]:
        """Start torchrun on both machines, one rank on each, as docs/ranks.md says."""
        return [
            self.torchrun(
                machine, "--nnodes", "2", "--node-rank", str(number), "--master-addr", self.first.address,
                "--master-port", "29400", "--nproc-per-node", "1", **variables,
            )
            for number, machine in enumerate(self.network.machines)
        ]  # fmt: skip

    def elastic(self, machine: Machine) -> subprocess.Popen[bytes]:
        """Start an elastic torchrun on a machine: the first one is where they meet."""
        is_first = machine is self.first
        patience = (
            "join_timeout=120,last_call_timeout=10,keep_alive_interval=2,keep_alive_max_attempt=5,read_timeout=15"
        )
        return self.torchrun(
            machine, "--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-id", "job",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{self.first.address}:29400",
            "--local-addr", machine.address, "--rdzv-conf", f"is_host={int(is_first)},{patience}",
            TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1", NAP="2",
        )  # fmt: skip

    def find_run(self) -> RunLayout:
        """Return the only run."""
        (layout,) = soak.wait_for(lambda: list_layouts(self.runs), why=f"a run\n{self.log()}")
        return layout

    def wait_for_step(self, step: int) -> RunSummary:
        """Wait until the run has taken that step."""
        layout = self.find_run()

        def reached() -> RunSummary | None:
            summary = summarize_run(layout)
            return summary if summary.status is RunStatus.RUNNING and summary.step >= step else None

        found: RunSummary = soak.wait_for(reached, why=f"step {step}\n{self.log()}")
        return found

    def wait_for_ranks(self, number: int) -> AttemptStart:
        """Wait until so many ranks have trained two steps of an attempt, and return its start."""
        layout = self.find_run()

        def reached() -> AttemptStart | None:
            start = read_record_or_none(layout.attempt(layout.latest_attempt()).start, AttemptStart)
            summary = summarize_run(layout)
            trained = start is not None and summary.attempt == start.attempt and summary.step >= start.from_step + 2
            return start if trained and start is not None and start.world_size == number else None

        found: AttemptStart = soak.wait_for(reached, why=f"{number} ranks\n{self.log()}", timeout_s=240)
        return found

    def wait_for_status(self, status: RunStatus) -> RunSummary:
        """Wait until the run has that status."""
        layout = self.find_run()
        soak.wait_for(lambda: summarize_run(layout).status is status, why=f"{status}\n{self.log()}", timeout_s=180)
        return summarize_run(layout)

    def hurry(self) -> None:
        """Let the steps take no time from now on."""
        (self.folder / "fast").touch()

    def log(self) -> str:
        """Return the end of what the machines have printed."""
        logs = [self.folder / f"{machine.name}.log" for machine in self.network.machines]
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in logs if log.exists())

    def compare_samples(self) -> None:
        """Assert that the last attempt at each step trained four samples, and that each epoch has every sample once."""
        last: dict[int, tuple[float, set[int]]] = {}
        for path in sorted(self.folder.glob("trained-*"), key=lambda path: int(path.name.rpartition("-")[2])):
            begun = int(path.name.rpartition("-")[2])
            for line in path.read_text().splitlines():
                step, *samples = map(int, line.split())
                before = last.get(step)
                # The ranks of one round begin within a second.
                same_round = before is not None and begun - before[0] < 1_500_000_000
                last[step] = (begun, {*samples, *(before[1] if same_round and before is not None else ())})
        for epoch in range(2):
            each = Counter(sample for step in range(17 * epoch, 17 * epoch + 17) for sample in last[step][1])
            assert each == Counter(range(66))

    def remove(self) -> None:
        """End everything."""
        self.network.remove()
        soak.end_everything(self.runs)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the final state of the uninterrupted run on two machines."""
    made = Cluster(tmp_path_factory.mktemp("twin"))
    made.hurry()
    try:
        assert [process.wait(200) for process in made.torchrun_everywhere()] == [0, 0], made.log()
        layout = made.find_run()
        summary = summarize_run(layout)
        assert (summary.status, summary.step) == (RunStatus.FINISHED, STEPS)
        assert [report.host for report in summary.ranks or ()] == ["n1", "n2"]
        made.compare_samples()
        return soak.digest(layout)
    finally:
        made.remove()


def _assert_finished(cluster: Cluster, twin: str | None, *, attempts: int) -> None:
    layout = cluster.find_run()
    summary = summarize_run(layout)
    assert (summary.status, summary.step) == (RunStatus.FINISHED, STEPS), f"{summary.reason}\n{cluster.log()}"
    assert layout.latest_attempt() == attempts
    assert read_series(layout.metrics, "train/loss").steps.tolist() == list(range(1, STEPS + 1))
    cluster.compare_samples()
    if twin is not None:
        assert soak.digest(layout) == twin


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_machine_ends_the_run_and_torchrun_continues_it_from_its_id(
    cluster: Cluster, twin: str, lost: int
) -> None:
    processes = cluster.torchrun_everywhere()
    cluster.wait_for_step(8)
    machines = cluster.network.machines
    machines[lost].kill()
    assert processes[1 - lost].wait(60) == 1
    layout = cluster.find_run()
    if lost:
        summary = cluster.wait_for_status(RunStatus.CRASHED)
        assert "rank 1 on n2" in summary.reason
    machines[lost].boot()
    cluster.hurry()
    again = cluster.torchrun_everywhere(RELIGHT_RESUME=layout.run_id)
    assert [process.wait(200) for process in again] == [0, 0], cluster.log()
    start = read_record(layout.attempt(2).start, AttemptStart)
    assert (start.reason, start.world_size) == ("resume", 2)
    assert start.from_step >= 5
    _assert_finished(cluster, twin, attempts=2)


def test_a_cut_cable_ends_the_ranks_on_both_machines(cluster: Cluster, twin: str) -> None:
    processes = cluster.torchrun_everywhere()
    cluster.wait_for_step(8)
    cluster.network.cut(cluster.second)
    assert [process.wait(200) for process in processes] == [1, 1]
    summary = cluster.wait_for_status(RunStatus.CRASHED)
    # Each of the two has lost the other; the one that noticed it first says so.
    assert re.search("The connection to rank (1 on n2|0 on n1) is lost", summary.reason), summary.reason
    cluster.network.mend(cluster.second)
    cluster.hurry()
    again = cluster.torchrun_everywhere(RELIGHT_RESUME="train")
    assert [process.wait(200) for process in again] == [0, 0], cluster.log()
    _assert_finished(cluster, twin, attempts=2)


def test_a_lost_machine_leaves_an_elastic_run_and_comes_back(cluster: Cluster) -> None:
    first, second = cluster.elastic(cluster.first), cluster.elastic(cluster.second)
    before = cluster.wait_for_ranks(2)
    cluster.second.kill()
    second.wait(20)
    alone = cluster.wait_for_ranks(1)
    assert alone.reason == "restart"
    again = f"torchrun started the ranks again after attempt {before.attempt}: 1 rank, on n1."
    assert (alone.attempt, alone.notes[0]) == (before.attempt + 1, again)
    cluster.second.boot()
    second = cluster.elastic(cluster.second)
    together = cluster.wait_for_ranks(2)
    layout = cluster.find_run()
    assert together.from_step == read_record(layout.attempt(alone.attempt).exit, AttemptExit).step  # nothing is lost
    cluster.hurry()
    assert [process.wait(200) for process in (first, second)] == [0, 0], cluster.log()
    _assert_finished(cluster, None, attempts=together.attempt)
