"""A script that is killed at chosen points and resumed ends with the same state as an uninterrupted one."""

from __future__ import annotations

import signal
from collections.abc import Callable

import numpy as np
import pytest

from relight.metrics.series import read_series
from tests.training.conftest import TrainedRun

pytestmark = pytest.mark.processes

COMMON = '''
import os, random, signal, sys, time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

import relight

options = dict(argument.split("=") for argument in sys.argv[1:])
places = options.get("die", "").split(",")


def at(*place):
    """Die here, once."""
    name = ":".join(map(str, place))
    if name == options.get("term") and not Path(name).exists():
        Path(name).touch()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    if name in places and not Path(name).exists():
        Path(name).touch()
        os.kill(os.getpid(), signal.SIGKILL)


class Noisy(Dataset):
    def __init__(self, points, labels):
        self.points, self.labels = points, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.points[index] + 0.01 * random.gauss(0, 1) + 0.01 * torch.randn(()), self.labels[index]


generator = torch.Generator().manual_seed(1)
points = torch.randn(50, 6, generator=generator)
labels = (points.sum(1) > 0).long()
run = relight.init(
    {"a": 1}, seed=5, checkpoint_every_s=0, checkpoint_every_steps=int(options.get("every", 1)), keep_latest=9,
    max_steps=int(options.get("most", 0)),
)
model = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 2))
'''

EPOCHS = (
    COMMON
    + """
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
step_schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.1 * step))
plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
own = np.random.default_rng(3)
best = {"accuracy": 0.0}
workers = int(options.get("workers", 0))
# A look at the data, and its mean: passes outside of all loops.
train = run.loader(Noisy(points[:40], labels[:40]), batch_size=8, shuffle=True, num_workers=workers)
validation = run.loader(TensorDataset(points[40:], labels[40:]), batch_size=5)
next(iter(train))
mean = sum(batch.mean() for batch, _ in validation)
# The optimizer comes before its model: it waits.
run.track(optimizer=optimizer, step_schedule=step_schedule)
run.track(model=model, plateau=plateau, own=own, best=best, absent=None)
accumulate = int(options.get("accumulate", 1))
for epoch in run.epochs(3):
    model.train()
    at("head", epoch)
    order = torch.randperm(5) + random.random() + np.random.rand()
    micro = 0
    for x, y in train:
        if train.batch == int(options.get("look_at", -1)):
            with torch.no_grad():
                model.eval()
                total = sum(F.cross_entropy(model(x), y).item() for x, y in validation)
                model.train()
            run.evaluated(middle=total)
        loss = F.cross_entropy(model(x + mean + 0.01 * order.sum()), y) / accumulate
        loss.backward()
        micro += 1
        at("batch", epoch, train.batch)
        if micro % accumulate and train.batch < len(train):
            continue
        optimizer.step()
        step_schedule.step()
        optimizer.zero_grad()
        noise = own.random()
        run.step(loss=loss * accumulate, noise=noise, rate=optimizer.param_groups[0]["lr"])
        at("edge", epoch, train.batch)
        if epoch == 1 and train.batch == int(options.get("break_at", -1)):
            break
    model.eval()
    right = total = 0
    with torch.no_grad():
        for number, (x, y) in enumerate(validation):
            at("validation", epoch, number)
            right += (model(x + 0.1 * torch.rand(())).argmax(1) == y).sum().item()
    accuracy = right / 10 + 1e-3 * epoch
    run.evaluated(accuracy=accuracy)
    at("evaluated", epoch)
    plateau.step(-accuracy)
    best["accuracy"] = max(best["accuracy"], accuracy)
    at("end", epoch)
tracked = run._driver.session.best.value
assert best["accuracy"] == tracked or "look_at" in options, (best, tracked)
run.finish()
"""
)

MICRO = (
    COMMON
    + """
inputs = torch.randn(40, 6)
train = run.loader(TensorDataset(inputs, inputs.sum(1).round().long() % 3), batch_size=4, shuffle=True)
model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.Linear(8, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
if options["track"] == "all":
    run.track(model=model, optimizer=optimizer)
elif options["track"] == "model":
    run.track(model=model)
for epoch in run.epochs(3):
    for x, y in train:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        if (epoch, train.batch) == (1, 5) and "term" in options and not Path("once").exists():
            Path("once").touch()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(3.5)  # longer than a step that a signal interrupts
        if train.batch % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
        run.step(loss=loss)
"""
)

STEPS = (
    COMMON
    + """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
run.track(net=model, optimizer=optimizer)


def get_batch(part):
    low, high = (0, 40) if part == "train" else (40, 50)
    index = torch.randint(low, high, (8,))
    return points[index], labels[index]


for step in run.steps(12):
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * (1 - step / 12)
    if step % 4 == 0:
        model.eval()
        with torch.no_grad():
            x, y = get_batch("validation")
            run.evaluated(loss=F.cross_entropy(model(x), y))
        model.train()
        at("evaluated", step)
    for micro in range(2):
        x, y = get_batch("train")
        (F.cross_entropy(model(x), y) / 2).backward()
        at("micro", step, micro)
    optimizer.step()
    at("moved", step)
    optimizer.zero_grad()
    run.step(loss=step, rate=group["lr"])
    at("edge", step)
"""
)

FULL_BATCH = (
    COMMON
    + """
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
run.track(model=model, optimizer=optimizer)
for epoch in run.epochs(6):
    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(points), labels)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    run.step(loss=loss)
    at("after", epoch)
"""
)

NESTED = (
    COMMON
    + """
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
first = run.loader(TensorDataset(points[:40], labels[:40]), batch_size=8, shuffle=True)
second = run.loader(TensorDataset(points[:30], labels[:30]), batch_size=8, shuffle=True, drop_last=True)
run.track(model=model, optimizer=optimizer)


def train(x, y, name):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    run.step({f"{name}/loss": loss})


for phase in run.epochs(2):
    for x, y in first:
        train(x, y, "first")
        at("first", phase, first.batch)
    for (x, y), (x2, y2) in zip(first, second):
        train(x + x2[:1], y, "both")
        at("both", phase, first.batch)
    at("between", phase)
    stream = iter(second)
    for step in run.steps(4):
        try:
            x, y = next(stream)
        except StopIteration:
            stream = iter(second)
            x, y = next(stream)
        train(x, y, "stream")
        at("stream", phase, step)
for epoch in run.epochs(2):
    for x, y in second:
        train(x, y, "late")
        at("late", epoch, second.batch)
"""
)

Make = Callable[..., TrainedRun]


def _die_and_finish(run: TrainedRun, deaths: int) -> None:
    assert run.run() == -signal.SIGKILL, run.log
    for _ in range(deaths - 1):
        assert run.resume() == -signal.SIGKILL, run.log
    assert run.resume() == 0, run.log


def _assert_alike(run: TrainedRun, twin: TrainedRun, *names: str) -> None:
    for name in names:
        ours, theirs = (read_series(one.layout.metrics, name) for one in (run, twin))
        assert ours.steps.tolist() == theirs.steps.tolist(), name
        assert len(ours.steps)
        np.testing.assert_array_equal(ours.values, theirs.values)
    assert run.final_digest() == twin.final_digest()


@pytest.mark.parametrize(
    ("options", "deaths"),
    [
        (
            [],
            ["head:0", "batch:1:3", "edge:1:4", "validation:1:1", "evaluated:1", "head:2", "end:2"],
        ),
        (["workers=2"], ["edge:1:2", "validation:1:0"]),
        (["accumulate=2", "every=3"], ["batch:0:4", "edge:2:5"]),
        (["look_at=3", "break_at=4"], ["edge:1:3", "validation:1:0"]),
    ],
)
def test_a_script_killed_anywhere_in_its_epochs_ends_as_if_it_had_not_been(
    make_script: Make, options: list[str], deaths: list[str]
) -> None:
    twin = make_script(EPOCHS, *options, name="twin")
    assert twin.run() == 0, twin.log
    run = make_script(EPOCHS, *options, f"die={','.join(deaths)}")
    _die_and_finish(run, len(deaths))
    _assert_alike(run, twin, "train/loss", "train/noise", "train/rate", "validation/accuracy")


@pytest.mark.parametrize(
    ("source", "deaths", "names"),
    [
        (STEPS, ["evaluated:4", "moved:7"], ["train/rate", "validation/loss"]),
        (FULL_BATCH, ["after:3"], ["train/loss"]),
        (
            NESTED,
            ["first:0:2", "both:0:3", "stream:1:3", "late:1:3"],
            ["train/first/loss", "train/both/loss", "train/stream/loss", "train/late/loss"],
        ),
    ],
)
def test_other_loops_are_found_again_too(make_script: Make, source: str, deaths: list[str], names: list[str]) -> None:
    twin = make_script(source, name="twin")
    assert twin.run() == 0, twin.log
    run = make_script(source, f"die={','.join(deaths)}")
    _die_and_finish(run, len(deaths))
    _assert_alike(run, twin, *names)
    progress = run.progress
    assert progress is not None
    if source is not NESTED:  # Relight cannot know how many steps follow after a loop
        assert progress.step == progress.steps_total


def test_a_signal_inside_the_validation_saves_the_last_step_and_the_validation_is_repeated(make_script: Make) -> None:
    twin = make_script(EPOCHS, name="twin")
    assert twin.run() == 0, twin.log
    run = make_script(EPOCHS, "term=validation:1:1")
    assert run.run() == 130, run.log
    newest = run.checkpoints()[-1]
    assert (newest.step, newest.reason, newest.epoch) == (10, "signal", 2)
    assert run.resume() == 0, run.log
    _assert_alike(run, twin, "train/loss", "validation/accuracy")


def test_a_signal_between_two_updates_waits_for_the_edge_and_saves_the_gradients_gathered_so_far(
    make_script: Make,
) -> None:
    twin = make_script(MICRO, "track=all", "every=99", name="twin")
    assert twin.run() == 0, twin.log
    run = make_script(MICRO, "track=all", "every=99", "term=1")
    assert run.run() == 130, run.log
    newest = run.checkpoints()[-1]
    assert (newest.step, newest.reason) == (15, "signal")
    assert run.resume() == 0, run.log
    _assert_alike(run, twin, "train/loss")


@pytest.mark.parametrize("track", ["all", "model", "nothing"])
def test_a_training_whose_last_step_lies_between_two_updates_ends(make_script: Make, track: str) -> None:
    run = make_script(MICRO, f"track={track}", "every=99", "most=14")
    assert run.run(timeout_s=60) == 0, run.log
    newest = run.checkpoints()[-1]
    assert (newest.step, newest.reason) == (14, "final")


def test_no_periodic_checkpoint_lies_behind_the_last_batch_of_a_loop(make_script: Make) -> None:
    run = make_script(EPOCHS + "print([loss.item()])\n")
    assert run.run() == 0, run.log
    with_batches_left = []
    for info in run.checkpoints():
        with run.store.open(info) as reader:
            levels, _ = reader.state["parts"]["loader"]["state"]["place"]
            if levels[-1][0] == "batches":
                with_batches_left.append(levels[-1][3] < 40)
    assert with_batches_left and all(with_batches_left)


def test_what_moves_behind_the_step_is_told_once(make_script: Make) -> None:
    run = make_script(STEPS.replace('    at("edge", step)', "    torch.rand(1)"))
    assert run.run() == 0, run.log
    assert run.log.count("After run.step(), this iteration drew random numbers") == 1
    run = make_script(STEPS, name="well")
    assert run.run() == 0, run.log
    assert "After run.step()" not in run.log
