"""A training of several ranks, one on each card, of which one is killed: it ends as if nothing had happened.

With several cards the ranks use NCCL, for DDP and for `fully_shard`. On one card, two ranks share it and use gloo, for
DDP alone: NCCL refuses two ranks on one card, and gloo cannot scatter what is on a card.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from gpu.conftest import REHEARSAL
from gpu.trainings import kill_and_compare
from relight.runs.layout import RunLayout
from relight.supervision.ranks import LiveRanks
from tests.compiler import loading_compiler

pytestmark = [pytest.mark.gpu, pytest.mark.processes]

CARDS = torch.cuda.device_count()
SCRIPT = """\
import os
import sys
import time
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
import relight

kind, steps = sys.argv[1], int(sys.argv[2])
run = relight.init(seed=1, checkpoint_every_steps=20)
cards, rank = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
device = torch.device("cuda", rank % cards) if cards else torch.device("cpu")
if cards:
    torch.cuda.set_device(device)
dist.init_process_group("nccl" if cards > 1 else "gloo")
points = torch.randn(8 * dist.get_world_size() * steps, 16, generator=torch.Generator().manual_seed(2))
data = TensorDataset(points, points.sum(1, keepdim=True))
loader = run.loader(DataLoader(data, batch_size=8, sampler=DistributedSampler(data)))
model = nn.Sequential(nn.Linear(16, 33), nn.ReLU(), nn.Dropout(0.1), nn.Linear(33, 1)).to(device)
if kind == "fsdp":
    fully_shard(model)
else:
    model = DistributedDataParallel(model, find_unused_parameters=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
run.track(model=model, optimizer=optimizer)
for epoch in run.epochs(1):
    for x, y in loader:
        loss = (model(x.to(device)) - y.to(device)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(0.01)
        run.step(loss=loss)
"""


@pytest.fixture(scope="module", autouse=True)
def compiler() -> Iterator[None]:
    with loading_compiler():
        yield


@pytest.mark.parametrize("kind", ["ddp", "fsdp"] if REHEARSAL or CARDS > 1 else ["ddp"])
def test_a_killed_rank_changes_nothing(
    runs: Path, device: torch.device, kind: str, record_property: Callable[[str, object], None]
) -> None:
    nproc = max(2, CARDS)
    steps = 200 if device.type == "cpu" else 1000
    script = runs.parent / "train.py"
    script.write_text(SCRIPT)

    figures = kill_and_compare(
        runs, str(script), "--nproc", str(nproc), last=("--", kind, str(steps)), steps=steps,
        find_victim=lambda alive: LiveRanks(RunLayout(runs / alive.run), 1, nproc).find()[-1].pid,
    )  # fmt: skip
    record_property("figures", f"{nproc} ranks, {figures}")
