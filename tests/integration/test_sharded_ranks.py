"""Trainings that `fully_shard` has split over their ranks: killed and resumed, on as many ranks as before or others."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import soak
from integration.conftest import Workshop
from relight.checkpoints.store import CheckpointStore
from relight.metrics.series import read_series
from relight.mirror.address import parse_mirror
from relight.mirror.fetching import fetch_run
from relight.overview.summary import summarize_run
from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, read_record_or_none
from relight.runs.records import AttemptProcesses, MirrorState, ProcessIdentity
from relight.supervision.ranks import LiveRanks
from relight.supervision.resume import resume_run
from tests.compiler import loading_compiler

pytestmark = [
    pytest.mark.processes,
    pytest.mark.thorough,
    pytest.mark.xdist_group("ranks"),
    pytest.mark.timeout(600),
]

NET = """\
import os
import time
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

RANKS = int(os.environ.get("WORLD_SIZE", "1"))


class Net(nn.Module):
    \"\"\"Has 7 rows, which no number of ranks divides, 1 row, tied weights and buffers.\"\"\"

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 7)
        self.tied = nn.Linear(7, 7, bias=False)
        self.again = nn.Linear(7, 7, bias=False)
        self.again.weight = self.tied.weight
        self.drop = nn.Dropout(0.1)
        self.norm = nn.BatchNorm1d(7)
        self.last = nn.Linear(7, 1)

    def forward(self, x):
        return self.last(self.norm(self.drop(self.again(torch.relu(self.tied(self.first(x)))))))


def build():
    torch.manual_seed(3)
    model = Net()
    if RANKS > 1:
        fully_shard(model.first)
        fully_shard(model)
    return model, torch.optim.AdamW(model.parameters(), lr=0.05)
"""
SCRIPT = """\
from net import *
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
import relight

run = relight.init(seed=1, checkpoint_every_steps=4)
dist.init_process_group("gloo")
points = torch.randn(68, 3, generator=torch.Generator().manual_seed(2))
data = TensorDataset(points, points.sum(1, keepdim=True))
loader = run.loader(DataLoader(data, batch_size=4, sampler=DistributedSampler(data)))
model, optimizer = build()
run.track(model=model, optimizer=optimizer)
for epoch in run.epochs(4):
    for x, y in loader:
        loss = (model(x) - y).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(0 if os.path.exists("fast") else 0.2)
        run.step(loss=loss)
    model.eval()
    with torch.no_grad():
        error = (model(points) - points.sum(1, keepdim=True)).pow(2).mean()
    model.train()
    run.evaluated(error=error.item())
"""
STEPS = 4 * 9
CHAIN = """\
import sys
from pathlib import Path
from net import *
from relight.checkpoints.encoded_snapshot import encode_snapshot
from relight.checkpoints.snapshot_header import RankShare, SnapshotHeader
from relight.checkpoints.store import CheckpointStore
from relight.training.state.snapshot import copy_tensors, describe_tensors
from relight.training.state.stored_tensors import StoredTensors
from relight.training.state.training_state import TrainingState

step, rank = int(sys.argv[2]), int(os.environ.get("RANK", "0"))
if RANKS > 1:
    dist.init_process_group("gloo")
model, optimizer = build()
state = TrainingState()
state.track("model", model)
state.track("optimizer", optimizer)
store = CheckpointStore(Path(sys.argv[1]))
if step > 1:
    with store.open(store.find("latest")) as reader:
        state.restore(reader.state, StoredTensors(reader))
        state.restore_rng(reader.state, StoredTensors(reader))
else:
    for _ in range(3):
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
state.record_edge({"step": 1})
captured = state.capture(at_edge=True)
if rank == 0:
    store.reserve_sequence(step=step)
if RANKS > 1:
    dist.barrier()
kept = {name: one for name, one in captured.tensors.items() if rank == 0 or name in captured.slices}
specs = describe_tensors(kept, captured.slices)
header = SnapshotHeader(
    step=step, epoch=0, reason="periodic", time_s=1.0, tensors=specs, state=captured.tree if rank == 0 else None,
    token=f"{step:08x}", share=RankShare(rank, RANKS, step) if RANKS > 1 else None,
)
buffers = [memoryview(bytearray(spec.nbytes)) for spec in specs]
copy_tensors(kept, buffers)
if rank:
    store.contribute(encode_snapshot(header), buffers)
else:
    store.commit(header, buffers)
if RANKS > 1:
    dist.barrier()
    dist.destroy_process_group()
"""


DIES_BEFORE_ITS_PART_IS_WHOLE = """\
import os
import signal
from relight.checkpoints.writer_client import WriterClient

if os.environ["RANK"] == "1":
    WriterClient.submit = lambda client: os.kill(os.getpid(), signal.SIGKILL)
"""
IS_LOST_WITH_ITS_LAST_PART = """\
import os
import signal
from relight.checkpoints.writer_client import WriterClient
from relight.training.ranks.ranked_cutter import RankedCutter

def cut_without_a_writer(cutter, header, tensors, cut=RankedCutter.cut):
    if header.reason == "final":
        WriterClient.submit = lambda client: None
    cut(cutter, header, tensors)

if os.environ["RANK"] == "1":
    RankedCutter.cut = cut_without_a_writer
    RankedCutter.part = lambda cutter: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module", autouse=True)
def compiler() -> Iterator[None]:
    with loading_compiler():
        yield


def _torchrun(folder: Path, nproc: int, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(nproc), *arguments],
        cwd=folder,
        env={**os.environ, "RELIGHT_RUNS": str(folder / "runs"), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def test_the_state_is_the_same_on_any_number_of_ranks(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "chain.py").write_text(CHAIN)
    (tmp_path / "run").mkdir()
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    found = []
    for step, ranks in enumerate((2, 1, 4, 2), 1):
        arguments = ["chain.py", str(store.layout.folder), str(step)]
        if ranks == 1:
            subprocess.run([sys.executable, *arguments], cwd=tmp_path, check=True, timeout=120)
        else:
            assert _torchrun(tmp_path, ranks, *arguments).wait(180) == 0
        info = store.find("latest")
        assert info.step == step
        assert store.read_manifest(info).is_split == (ranks > 1)
        assert store.check(info) == []
        with store.open(info) as reader:
            found.append(
                {
                    name: (reader.spec(name).dtype, reader.spec(name).shape, reader.digest(name))
                    for name in reader.tensor_names
                    if not name.startswith("rng")
                }
            )
    assert "model.first.weight" in found[0] and "optimizer.first.weight.exp_avg" in found[0]
    assert found[1:] == found[:1] * 3


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The state digest of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("twin")
    _write(folder)
    (folder / "fast").touch()
    assert _torchrun(folder, 2, "train.py").wait(300) == 0
    (layout,) = list_layouts(folder / "runs")
    return soak.digest(layout)


def _write(folder: Path) -> None:
    (folder / "net.py").write_text(NET)
    (folder / "train.py").write_text(SCRIPT)


def _pids(layout: RunLayout, victim: str) -> list[int]:
    processes = read_record(layout.attempt(layout.latest_attempt()).processes, AttemptProcesses)
    ranks = [each.pid for each in LiveRanks(layout, layout.latest_attempt(), 2).find()]
    assert processes.trainer is not None and len(ranks) == 2
    return {
        "rank 0": ranks[:1],
        "rank 1": ranks[1:],
        "ranks": ranks,
        "agent": [processes.trainer.pid],
        "supervisor": [processes.supervisor.pid],
        "everything": [processes.supervisor.pid, processes.trainer.pid, *ranks],
    }[victim]


@pytest.mark.parametrize("victim", ["rank 0", "rank 1", "ranks", "agent", "supervisor", "everything"])
def test_whatever_is_killed_a_sharded_run_ends_in_the_same_state(workshop: Workshop, twin: str, victim: str) -> None:
    folder = workshop.folder.parent / "script"
    folder.mkdir()
    _write(folder)
    launched = workshop.relight("run", "train.py", "--nproc", "2", "--detach", cwd=folder)
    assert launched.returncode == 0, launched.stderr
    (layout,) = list_layouts(workshop.folder)
    for step in (6, 15):
        workshop.wait_for_step(layout, step)
        for pid in _pids(layout, victim):
            os.kill(pid, signal.SIGKILL)
        soak.wait_for(lambda: not summarize_run(layout).status.is_live, why="the right status")
        soak.wait_for(lambda: not LiveRanks(layout, layout.latest_attempt(), 2).find(), why="the end of all ranks")
        if step == 15:
            (folder / "fast").touch()
        resume_run(layout)
    summary = workshop.finish(layout)
    assert summary.step == STEPS
    assert soak.digest(layout) == twin
    assert read_series(layout.metrics, "train/loss").steps.tolist() == list(range(1, STEPS + 1))
    assert CheckpointStore(layout.checkpoints).list().damaged == []


@pytest.mark.parametrize("death", [DIES_BEFORE_ITS_PART_IS_WHOLE, IS_LOST_WITH_ITS_LAST_PART], ids=["early", "late"])
def test_the_others_do_not_wait_for_the_part_of_a_rank_that_has_died(workshop: Workshop, death: str) -> None:
    folder = workshop.folder.parent / "script"
    folder.mkdir()
    _write(folder)
    (folder / "train.py").write_text(death + SCRIPT)
    (folder / "fast").touch()
    launched = workshop.relight("run", "train.py", "--nproc", "2", "--detach", cwd=folder)
    assert launched.returncode == 0, launched.stderr
    (layout,) = list_layouts(workshop.folder)
    soak.wait_for(layout.attempt(1).exit.exists, why="the end of the attempt")
    assert summarize_run(layout).reason.startswith("Rank 1 of 2: Killed with SIGKILL.")
    log = layout.attempt(1).log.read_text()
    assert "closing signal SIGTERM" in log
    assert "forcefully exiting" not in log, "torchrun waits for 30 s"


def test_a_script_under_ones_own_torchrun_resumes_exactly(tmp_path: Path, twin: str) -> None:
    _write(tmp_path)
    process = _torchrun(tmp_path, 2, "train.py")
    try:
        (layout,) = soak.wait_for(lambda: list_layouts(tmp_path / "runs"), why="a run")
        soak.wait_for(lambda: summarize_run(layout).step > 9, why="a step")
        for rank in LiveRanks(layout, 1, 2).find():
            os.kill(rank.pid, signal.SIGKILL)
    finally:
        process.wait(120)
    soak.wait_for(lambda: not summarize_run(layout).status.is_live, why="the right status")
    (tmp_path / "fast").touch()
    resume_run(layout)
    try:
        soak.wait_for(layout.attempt(2).exit.exists, why="the end")
        assert summarize_run(layout).step == STEPS
        assert soak.digest(layout) == twin
    finally:
        soak.end_everything(tmp_path / "runs")


def test_a_sharded_run_that_lost_its_machine_goes_on_from_its_copy(workshop: Workshop, twin: str) -> None:
    folder, copies = workshop.folder.parent / "script", workshop.folder.parent / "other disk"
    for each in (folder, copies):
        each.mkdir()
    _write(folder)
    launched = workshop.relight("run", "train.py", "--nproc", "2", "--mirror", str(copies), "--detach", cwd=folder)
    assert launched.returncode == 0, launched.stderr
    (layout,) = list_layouts(workshop.folder)

    def copied() -> MirrorState | None:
        state = read_record_or_none(layout.mirror_state, MirrorState)
        return state if state is not None and (state.copied_step or 0) >= 4 else None

    workshop.wait_for_step(layout, 2)
    writer = layout.of_rank(1).attempt(1).writer
    soak.wait_for(writer.exists, why="the writer of rank 1")
    os.kill(read_record(writer, ProcessIdentity).pid, signal.SIGKILL)
    state = soak.wait_for(copied, why="a copy")
    for pid in (*_pids(layout, "everything"), state.process.pid):
        os.kill(pid, signal.SIGKILL)
    soak.wait_for(lambda: not LiveRanks(layout, 1, 2).find(), why="the end of all ranks")
    shutil.rmtree(workshop.folder)
    (folder / "fast").touch()
    fetched = fetch_run(parse_mirror(str(copies)), layout.run_id, workshop.folder)
    assert fetched.notes == ()
    resume_run(layout, trust=True)
    assert workshop.finish(layout).step == STEPS
    assert soak.digest(layout) == twin
    there = list((copies / layout.run_id / "checkpoints" / "packs").iterdir())
    assert {pack.name.rpartition("-")[2] for pack in there} == {"r0.safetensors", "r1.safetensors"}
