"""Weights that are not those of the last step edge are never saved as that edge, however they were moved."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.training.conftest import TrainedRun

pytestmark = pytest.mark.processes

Make = Callable[..., TrainedRun]

SCRIPT = """
import contextlib, os, signal, sys, time

import torch
from torch import nn
from torch.utils.data import TensorDataset

import relight

how, what = sys.argv[1:]
run = relight.init(seed=1, checkpoint_every_s=0, checkpoint_every_steps=3, keep_latest=9)
data = TensorDataset(torch.randn(40, 6), torch.randint(0, 2, (40,)))
loader = run.loader(data, batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.2), nn.Linear(16, 2))
average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
run.track(model=model, optimizer=optimizer, **{"ema_" + k.replace(".", "_"): v for k, v in average.items()})

def swap():
    for name, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        if how == "data":
            parameter.data.copy_(average[name])
        elif how == "memory":
            parameter.data = average[name].clone()
        else:
            with torch.no_grad():
                parameter.copy_(average[name])
        average[name].copy_(kept)

for epoch in run.epochs(3):
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        for name, parameter in model.named_parameters():
            average[name].lerp_(parameter.detach(), 0.1)
        run.step(loss=loss)
    with run.evaluating() if how == "declared" else contextlib.nullcontext():
        swap()
        if epoch == 1 and not run.resumed:
            if what == "raise inside":
                raise ValueError("a broken picture")
            if what == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(4)  # longer than a signal waits for the next edge
        swap()
    if epoch == 1 and not run.resumed and what == "raise behind":
        raise ValueError("a broken plot")
    run.evaluated(accuracy=epoch)
"""


@pytest.mark.parametrize("how", ["copy", "data", "memory", "declared"])
def test_an_exception_while_averaged_weights_are_swapped_in_falls_back_to_the_newest_checkpoint(
    make_script: Make, how: str
) -> None:
    twin = make_script(SCRIPT, how, "nothing", name="twin")
    assert twin.run() == 0, twin.log
    run = make_script(SCRIPT, how, "raise inside")
    assert run.run() == 1, run.log
    assert run.checkpoints()[-1].step < 10
    assert "Step 10 cannot be saved, because weights have changed since: 0.weight" in run.log
    assert "with run.evaluating()" in run.log
    assert run.resume() == 0, run.log
    assert run.final_digest() == twin.final_digest()


def test_a_signal_while_weights_are_swapped_waits_for_the_next_edge(make_script: Make) -> None:
    twin = make_script(SCRIPT, "copy", "nothing", name="twin")
    assert twin.run() == 0, twin.log
    run = make_script(SCRIPT, "copy", "signal")
    assert run.run() == 130, run.log
    assert "Weights have changed since the last step edge, so the stop waits" in run.log
    assert run.checkpoints()[-1].step == 10
    assert run.resume() == 0, run.log
    assert run.final_digest() == twin.final_digest()


@pytest.mark.parametrize("how", ["declared", "copy"])
def test_behind_a_declared_swap_the_last_edge_can_be_saved_again(make_script: Make, how: str) -> None:
    twin = make_script(SCRIPT, how, "nothing", name="twin")
    assert twin.run() == 0, twin.log
    run = make_script(SCRIPT, how, "raise behind")
    assert run.run() == 1, run.log
    declared = how == "declared"
    assert (run.checkpoints()[-1].step == 10) is declared, (
        "only Relight's own look at the weights shows that they are back"
    )
    assert run.resume() == 0, run.log
    assert run.final_digest() == twin.final_digest()


def test_weights_that_the_script_sets_after_its_loops_are_the_final_ones(make_script: Make) -> None:
    run = make_script(SCRIPT + "\nswap()\n", "copy", "nothing")
    assert run.run() == 0, run.log
    assert run.checkpoints()[-1].reason == "final"
    assert signal.Signals.SIGTERM.name not in run.log
