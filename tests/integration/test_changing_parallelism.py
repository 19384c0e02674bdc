"""Trainings that go on in another way than they began: DDP, `fully_shard`, or a mesh of two dimensions; other ranks.

All numbers are small multiples of powers of two, so that every sum is exact in any order: whatever a resume changes,
the weights at the end must be the same. The training dies between two updates, when its ranks have gathered gradients
that they have not exchanged yet, or when they have.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from safetensors.numpy import load_file

from integration.conftest import Workshop
from relight.checkpoints.export import export_weights
from relight.checkpoints.store import CheckpointStore
from relight.overview.summary import summarize_run
from relight.runs.catalog import list_layouts
from relight.runs.layout import RunLayout
from tests.compiler import loading_compiler
from tests.patience import stretch

pytestmark = [
    pytest.mark.processes,
    pytest.mark.thorough,
    pytest.mark.xdist_group("ranks"),
    pytest.mark.timeout(600),
]

SCRIPT = """\
import contextlib
import glob
import os
import signal
import time
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
import relight

WAY, DIES_AT, EXCHANGE = os.environ["WAY"], int(os.environ["DIES_AT"]), os.environ["EXCHANGE"]
RANKS, RANK = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3, 8, bias=False)
        self.other = nn.Linear(3, 7)
        self.frozen = nn.Linear(3, 5, bias=False).requires_grad_(False)
        for number, each in enumerate(self.parameters()):
            nn.init.constant_(each, number + 1)

    def forward(self, x):
        return self.one(x).sum(1) + 2 * self.other(x).sum(1) + self.frozen(x).sum(1)


run = relight.init(seed=1, checkpoint_every_steps=DIES_AT or 5)
if RANKS > 1:
    dist.init_process_group("gloo")
points = torch.arange(96 * 3).reshape(96, 3) % 7 - 3.0
sampler = DistributedSampler(points, shuffle=False) if RANKS > 1 else None
loader = run.loader(DataLoader(TensorDataset(points), batch_size=8 // RANKS, sampler=sampler))
model = Net()
if WAY == "ddp":
    model = DistributedDataParallel(model)
elif WAY != "plain":
    shape, names = ((2, RANKS // 2), ("copies", "rows")) if WAY == "hsdp" else ((RANKS,), ("rows",))
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    fully_shard(model.other, mesh=mesh)
    fully_shard(model, mesh=mesh)
optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.5, momentum=0.5)
run.track(model=model, optimizer=optimizer)
for epoch in run.epochs(1):
    for step, (x,) in enumerate(loader, 1):
        last = step % 3 == 0
        if WAY in ("fsdp", "hsdp"):
            model.set_requires_gradient_sync(last or EXCHANGE != "not")
            model.set_requires_all_reduce(last or EXCHANGE == "whole")
        alone = WAY == "ddp" and not last and EXCHANGE == "not"
        with model.no_sync() if alone else contextlib.nullcontext():
            loss = model(x).mean()
            loss.backward()
        if last:
            optimizer.step()
            optimizer.zero_grad()
        run.step(loss=loss)
        if DIES_AT == step:
            while not glob.glob(f"{os.environ['RUNS']}/*/checkpoints/manifests/*-s{step}-*"):
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
"""
STEPS = 12


@pytest.fixture(scope="module", autouse=True)
def compiler() -> Iterator[None]:
    with loading_compiler():
        yield


def _train(workshop: Workshop, way: str, ranks: int, *, dies_at: int = 0, exchange: str = "not") -> RunLayout:
    """Train, or resume, until the training dies at that step, or to the end.

    `exchange` says how gradients are exchanged before the last backward pass of an update: "not", "half" or "whole".
    """
    folder = workshop.folder.parent / "script"
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(SCRIPT)
    os.environ |= {"WAY": way, "DIES_AT": str(dies_at), "EXCHANGE": exchange, "RUNS": str(workshop.folder)}
    begun = list_layouts(workshop.folder)
    command = ["resume", begun[0].run_id] if begun else ["run", "train.py"]
    done = workshop.relight(*command, "--nproc", str(ranks), cwd=folder, timeout_s=stretch(180))
    (layout,) = list_layouts(workshop.folder)
    assert done.returncode == (3 if dies_at else 0), done.stdout + done.stderr + workshop.log(layout)
    return layout


def _weights(layout: RunLayout) -> dict[str, Any]:
    """Return the final weights."""
    assert summarize_run(layout).step == STEPS
    store = CheckpointStore(layout.checkpoints)
    path = layout.folder.parent.parent / "weights.safetensors"
    export_weights(store, store.find("latest"), path)
    return {name: weight.tolist() for name, weight in load_file(path).items()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights at the end of a training in one process."""
    return _weights(_train(Workshop(tmp_path_factory.mktemp("plain") / "runs"), "plain", 1))


@pytest.mark.parametrize(
    ("before", "after", "exchange"),
    [
        (("ddp", 2), ("ddp", 2), "not"),
        (("ddp", 2), ("fsdp", 4), "not"),
        (("ddp", 2), ("fsdp", 2), "whole"),
        (("ddp", 4), ("plain", 1), "not"),
        (("fsdp", 2), ("ddp", 2), "not"),
        (("fsdp", 2), ("plain", 1), "not"),
        (("fsdp", 2), ("hsdp", 4), "whole"),
        (("hsdp", 4), ("fsdp", 2), "not"),
        (("hsdp", 4), ("hsdp", 4), "not"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]}-{value[1]}",
)
def test_a_training_goes_on_in_another_way(
    workshop: Workshop, expected: dict[str, Any], before: tuple[str, int], after: tuple[str, int], exchange: str
) -> None:
    _train(workshop, *before, dies_at=5, exchange=exchange)
    assert _weights(_train(workshop, *after, exchange=exchange)) == expected


def test_half_exchanged_gradients_are_not_saved_and_the_log_says_so(
    workshop: Workshop, expected: dict[str, Any]
) -> None:
    layout = _train(workshop, "hsdp", 4, exchange="half")
    assert _weights(layout) == expected
    assert workshop.log(layout).count("gradients wait for their all-reduce") == 1
    assert {info.step % 3 for info in CheckpointStore(layout.checkpoints).list().checkpoints} == {0}
