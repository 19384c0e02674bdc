"""Trainings of two ranks: killed, stopped and resumed, from the launcher and under torchrun."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import soak
from integration.conftest import QUICK, Workshop
from relight.checkpoints.store import CheckpointStore
from relight.metrics.series import read_series
from relight.overview.summary import summarize_run
from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, read_record_or_none
from relight.runs.records import AttemptProcesses, AttemptStart, ProcessIdentity, ResumeCheck
from relight.runs.status import RunStatus
from relight.supervision.ranks import LiveRanks
from relight.supervision.resume import resume_run

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("ranks"), pytest.mark.timeout(600)]

CONFIG = {**QUICK, "epochs": 3, "samples": 157, "nap_s": 0.02, "checkpoint_every_s": None, "checkpoint_every_steps": 3}
"""20 steps an epoch, the last one with five samples, of which rank 0 gets three."""
SLOW = {**CONFIG, "epochs": 100_000, "nap_s": 0.1, "checkpoint_every_steps": 10}
VICTIMS = ("rank 0", "rank 1", "ranks", "agent", "supervisor", "everything")

SCRIPT = """\
import os
import time
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
import relight

run = relight.init(config={"nap": 0.02}, seed=1, checkpoint_every_steps=10)
dist.init_process_group("gloo")
torch.manual_seed(dist.get_rank())
points = torch.randn(67, 3, generator=torch.Generator().manual_seed(2))
data = TensorDataset(points, points.sum(1, keepdim=True))
loader = run.loader(DataLoader(data, batch_size=4, sampler=DistributedSampler(data)))
model = DistributedDataParallel(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.Linear(4, 1)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
run.track(model=model, optimizer=optimizer)
for epoch in run.epochs(4):
    for x, y in loader:
        loss = (model(x) - y).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(0 if os.path.exists("fast") else 0.1)
        run.step(loss=loss)
    run.evaluated(error=loss.item())
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[soak.Reference]:
    """The uninterrupted run of two ranks."""
    folder = tmp_path_factory.mktemp("reference")
    yield soak.Reference(folder, CONFIG, nproc=2)
    soak.end_everything(folder)


def _ranks(layout: RunLayout) -> list[ProcessIdentity]:
    return LiveRanks(layout, layout.latest_attempt(), 2).find()


def _kill(layout: RunLayout, victim: str) -> None:
    processes = read_record(layout.attempt(layout.latest_attempt()).processes, AttemptProcesses)
    assert processes.trainer is not None
    ranks = [each.pid for each in _ranks(layout)]
    assert len(ranks) == 2
    pids = {
        "rank 0": ranks[:1],
        "rank 1": ranks[1:],
        "ranks": ranks,
        "agent": [processes.trainer.pid],
        "supervisor": [processes.supervisor.pid],
        "everything": [processes.supervisor.pid, processes.trainer.pid, *ranks],
    }[victim]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def _wait_between_checkpoints(layout: RunLayout) -> None:
    """Wait until both ranks have taken steps that a resume takes again: with a checkpoint at every tenth step."""
    soak.wait_for(
        lambda: (step := summarize_run(layout).step) > 10 and 2 <= step % 10 <= 5, why="a step between two checkpoints"
    )


def _wait_for_death(layout: RunLayout) -> None:
    soak.wait_for(lambda: not summarize_run(layout).status.is_live, why="the right status")
    soak.wait_for(lambda: not _ranks(layout), why="the end of all ranks")


def _checks(layout: RunLayout) -> list[ResumeCheck]:
    """Return what every rank's comparison with the attempt before came to."""
    last = layout.latest_attempt()
    found = [read_record_or_none(layout.of_rank(rank).attempt(last).resume_check, ResumeCheck) for rank in (0, 1)]
    return [check for check in found if check is not None]


def test_a_killed_rank_ends_the_attempt_and_its_restart_is_exact(workshop: Workshop) -> None:
    layout = workshop.launch(SLOW, nproc=2, max_restarts=1)
    _wait_between_checkpoints(layout)
    _kill(layout, "rank 1")
    exit_record = layout.attempt(1).exit
    soak.wait_for(exit_record.exists, why="the end of the attempt")
    assert "Rank 1 of 2: Killed with SIGKILL" in exit_record.read_text()
    soak.wait_for(lambda: layout.latest_attempt() == 2 and len(_checks(layout)) == 2, why="verified steps")
    assert [check.verdict for check in _checks(layout)] == ["exact", "exact"]
    workshop.wait_for_step(layout, summarize_run(layout).step + 5)
    assert workshop.relight("stop", layout.run_id).returncode == 0
    stopped = summarize_run(layout)
    assert (stopped.status, stopped.durable_step) == (RunStatus.STOPPED, stopped.step)
    assert not _ranks(layout)
    steps = read_series(layout.metrics, "train/loss").steps.tolist()
    assert steps == list(range(1, stopped.step + 1))


@pytest.mark.thorough
def test_a_script_of_two_ranks_started_with_torchrun_resumes_with_the_launcher(
    workshop: Workshop, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"],
        cwd=tmp_path,
        env={**os.environ, "RELIGHT_RUNS": str(workshop.folder), "GLOO_SOCKET_IFNAME": "lo"},
        start_new_session=True,
    )
    try:
        (layout,) = soak.wait_for(lambda: list_layouts(workshop.folder), why="a run")
        _wait_between_checkpoints(layout)
        for rank in _ranks(layout):
            os.kill(rank.pid, signal.SIGKILL)
        _wait_for_death(layout)
    finally:
        process.wait(60)
    (tmp_path / "fast").touch()
    resume_run(layout)
    assert read_record(layout.attempt(2).start, AttemptStart).world_size == 2
    summary = workshop.finish(layout)
    assert summary.step == 4 * 9
    assert [check.verdict for check in _checks(layout)] == ["exact", "exact"]
    store = CheckpointStore(layout.checkpoints)
    with store.open(store.find("latest")) as reader:
        assert "model.0.weight" in reader.tensor_names  # and not "model.module.0.weight"


@pytest.mark.thorough
def test_two_torchruns_as_on_two_machines_join_one_run(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "fast").touch()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", node, "--nproc-per-node",
             "1", "--master-addr", "127.0.0.1", "--master-port", str(port), "train.py"],
            cwd=tmp_path,
            env={**os.environ, "RELIGHT_RUNS": str(workshop.folder), "GLOO_SOCKET_IFNAME": "lo"},
        )
        for node in "01"
    ]  # fmt: skip
    assert [process.wait(300) for process in processes] == [0, 0]
    (layout,) = list_layouts(workshop.folder)
    summary = workshop.finish(layout)
    assert summary.step == 4 * 9
    assert [report.step for report in summary.ranks or ()] == [4 * 9, 4 * 9]


@pytest.mark.thorough
def test_torchrun_starts_killed_ranks_again_in_the_same_run_and_leaves_a_stopped_one_alone(
    workshop: Workshop, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.replace("else 0.1", "else 0.6"))
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
         "--nproc-per-node", "2", "--max-restarts", "3", "train.py"],
        cwd=tmp_path,
        env={
            **os.environ, "RELIGHT_RUNS": str(workshop.folder), "GLOO_SOCKET_IFNAME": "lo",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        },
        start_new_session=True,
    )  # fmt: skip
    try:
        (layout,) = soak.wait_for(lambda: list_layouts(workshop.folder), why="a run")
        _wait_between_checkpoints(layout)
        os.kill(_ranks(layout)[1].pid, signal.SIGKILL)
        soak.wait_for(lambda: len(_checks(layout)) == 2, why="verified steps")
        assert [check.verdict for check in _checks(layout)] == ["exact", "exact"]
        start = read_record(layout.attempt(2).start, AttemptStart)
        assert (start.reason, start.from_step, start.world_size) == ("restart", 10, 2)
        assert workshop.relight("stop", layout.run_id).returncode == 0
        assert process.wait(120) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    stopped = summarize_run(layout)
    assert (stopped.status, stopped.attempt, stopped.durable_step) == (RunStatus.STOPPED, 2, stopped.step)
    assert [each.run_id for each in list_layouts(workshop.folder)] == [layout.run_id]


@pytest.mark.thorough
@pytest.mark.parametrize("victim", VICTIMS)
def test_whatever_is_killed_a_run_of_two_ranks_ends_in_the_same_state(
    workshop: Workshop, reference: soak.Reference, victim: str
) -> None:
    layout = workshop.launch(CONFIG, nproc=2)
    for step in (7, 25):
        workshop.wait_for_step(layout, step)
        _kill(layout, victim)
        _wait_for_death(layout)
        resume_run(layout)
    workshop.finish(layout)
    reference.compare(layout)


@pytest.mark.thorough
def test_three_ranks_resume_exactly(workshop: Workshop) -> None:
    layout = workshop.launch(SLOW, nproc=3, max_restarts=1)
    _wait_between_checkpoints(layout)
    os.kill(LiveRanks(layout, 1, 3).find()[2].pid, signal.SIGKILL)
    soak.wait_for(lambda: layout.latest_attempt() == 2 and len(_checks(layout)) == 2, why="verified steps")
    assert [check.verdict for check in _checks(layout)] == ["exact", "exact"]


@pytest.mark.thorough
def test_a_run_trains_each_sample_once_whatever_the_number_of_ranks(workshop: Workshop) -> None:
    layout = workshop.launch(SLOW, nproc=2)
    for world_size in (1, 2):
        workshop.wait_for_step(layout, summarize_run(layout).step + 5)
        assert workshop.relight("stop", layout.run_id).returncode == 0
        resume_run(layout, nproc=world_size)
        workshop.wait_for_step(layout, summarize_run(layout).step + 5)
        assert "the same samples in the same order" in workshop.log(layout)
    assert workshop.relight("stop", layout.run_id).returncode == 0
    summary = summarize_run(layout)
    assert read_series(layout.metrics, "train/loss").steps.tolist() == list(range(1, summary.step + 1))
