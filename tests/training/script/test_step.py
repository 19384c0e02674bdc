"""`run.step` accepts tensors on a device and never waits for the device."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relight.metrics.series import read_series
from tests.training.conftest import TrainedRun

pytestmark = pytest.mark.processes

SCRIPT = '''
import collections

import torch
from torch import nn

import relight

asked, waited = collections.Counter(), []
WAITS = {"item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "nonzero", "to"}


class OnDevice(torch.Tensor):
    """Claims to be on a CUDA device, and counts what would make the program wait for it."""

    is_cuda = True

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        if getattr(function, "__name__", "") in WAITS:
            asked[function.__name__] += 1
        return super().__torch_function__(function, types, arguments, options or {})


class Event:
    """An event of a device that has not got there, unless somebody waits."""

    reached = False

    def record(self):
        pass

    def query(self):
        return Event.reached

    def synchronize(self):
        waited.append(1)


empty = torch.empty
torch.empty = lambda *arguments, pin_memory=False, **options: empty(*arguments, **options)
torch.cuda.Event = Event
run = relight.init(seed=1, checkpoint_every_s=0)
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1))
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
scaler = torch.amp.GradScaler("cpu", enabled=True)
run.track(model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler)
for step in run.steps(40):
    loss = torch.tensor(float(step), requires_grad=True).as_subclass(OnDevice)
    run.step(loss=loss, half=(loss / 2).half(), plain=step)
    scheduler.step()
    assert not asked and not waited, (step, asked, waited)
assert float(torch.ones(()).as_subclass(OnDevice)) and asked  # the count counts
Event.reached = True
run.finish()
'''


def test_a_step_asks_no_device_for_a_value(make_script: Callable[..., TrainedRun]) -> None:
    run = make_script(SCRIPT)
    assert run.run() == 0, run.log
    for name, share in (("loss", 1.0), ("half", 0.5), ("plain", 1.0)):
        series = read_series(run.layout.metrics, f"train/{name}")
        assert series.steps.tolist() == list(range(1, 41))
        assert series.values.tolist() == [share * step for step in range(40)]
