"""Loops as people write them end as if they had not been killed, or the log says what a resume cannot enter."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from relight.metrics.series import read_series
from relight.runs.stop_request import request_stop
from tests.training.conftest import TrainedRun

pytestmark = pytest.mark.processes

Make = Callable[..., TrainedRun]

# Forty samples in batches of eight: five batches in an epoch, three epochs.
BEGIN = """
import itertools, os, random, signal, sys
from itertools import islice

import numpy as np
import torch
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import relight

place, workers, *deaths = sys.argv[1:]
run = relight.init(seed=3, checkpoint_every_s=0, checkpoint_every_steps=2, keep_latest=9)
attempt = len(os.listdir(run.folder / "attempts"))
death = int(deaths[attempt - 1]) if attempt <= len(deaths) else -1
data = TensorDataset(torch.randn(40, 6), torch.randint(0, 2, (40,)))
held_out = TensorDataset(torch.randn(12, 6), torch.randint(0, 2, (12,)))
model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.9)
loader = run.loader(data, batch_size=8, shuffle=True, num_workers=int(workers))
run.track(model=model, optimizer=optimizer, schedule=schedule)


def die(here):
    if here == place and run.steps_done == death:
        os.kill(os.getpid(), signal.SIGKILL)


def loss_of(x, y):
    die("before the update")
    return nn.functional.cross_entropy(model(x), y)


def move(loss):
    optimizer.step()
    die("after the update")
    schedule.step()
    optimizer.zero_grad()
    run.step(loss=loss)
    die("after the edge")


def train(batch):
    loss = loss_of(*batch)
    loss.backward()
    move(loss)


def validate():
    model.eval()
    with torch.no_grad():
        right = 0
        for x, y in DataLoader(held_out, batch_size=4, shuffle=True):
            die("in the validation")
            right += (model(x).argmax(1) == y).sum().item()
    model.train()
    run.evaluated(accuracy=right / 12)


def cycle(loader):
    while True:
        for batch in loader:
            yield batch


def prefetch(loader):
    for batch in loader:
        yield batch
"""

EXACT = {
    "the plain loop": """
for epoch in run.epochs(3):
    for batch in loader:
        train(batch)
    validate()
""",
    "enumerate with accumulation and a smaller last group": """
for epoch in run.epochs(6):
    for i, (x, y) in enumerate(loader):
        loss = loss_of(x, y) / 2
        loss.backward()
        if (i + 1) % 2 == 0 or i + 1 == len(loader):
            move(loss)
    validate()
""",
    "enumerate from 1": """
for epoch in run.epochs(6):
    for i, (x, y) in enumerate(loader, start=1):
        loss = loss_of(x, y) / 2
        loss.backward()
        if i % 2 == 0 or i == len(loader):
            move(loss)
""",
    "enumerate that adds the batches itself": """
for epoch in run.epochs(6):
    for i, (x, y) in enumerate(loader, start=loader.batch):
        loss = loss_of(x, y) / 2
        loss.backward()
        if (i + 1) % 2 == 0 or i + 1 == len(loader):
            move(loss)
""",
    "a progress bar around enumerate around a progress bar, left early": """
for epoch in track(run.epochs(4), total=4, disable=True):
    for i, batch in track(enumerate(track(loader, disable=True)), total=5, disable=True):
        train(batch)
        if i == 3:
            break
    validate()
""",
    "a function for the epoch": """
def train_epoch(loader, epoch):
    for i, batch in enumerate(loader):
        train(batch)
        if epoch == 1 and i == 2:
            return

for epoch in run.epochs(4):
    train_epoch(loader, epoch)
    validate()
""",
    "a class with its own loops": """
class Trainer:
    def __init__(self, loader):
        self.loader = loader

    def fit(self, epochs):
        for self.epoch in run.epochs(epochs):
            self.train()
            validate()

    def train(self):
        for index, batch in enumerate(self.loader):
            self.step(batch)

    def step(self, batch):
        train(batch)

Trainer(loader).fit(3)
""",
    "an endless generator made before the loop": """
batches = cycle(loader)
for step in run.steps(15):
    train(next(batches))
""",
    "an endless generator made by yield from": """
def endless():
    while True:
        yield from loader

batches = endless()
for step in run.steps(15):
    if step % 4 == 3:
        validate()
    train(next(batches))
""",
    "next, and again after StopIteration": """
batches = iter(loader)
for step in run.steps(15):
    try:
        batch = next(batches)
    except StopIteration:
        batches = iter(loader)
        batch = next(batches)
    train(batch)
""",
    "a part of the epoch at a time": """
for epoch in run.epochs(2):
    for part in range(2):
        for batch in loader:
            train(batch)
    validate()
""",
    "two loaders in a zip": """
other = run.loader(held_out, batch_size=2, shuffle=True)
for epoch in run.epochs(3):
    for (x, y), (x2, _) in zip(loader, other):
        train((x + x2[:1], y))
    validate()
""",
    "pretraining, then fine-tuning with a new optimizer": """
for epoch in run.epochs(1):
    for batch in loader:
        train(batch)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
run.track(tuner=optimizer)
for epoch in run.epochs(2):
    for batch in loader:
        train(batch)
    validate()
""",
    "a validation with persistent workers": """
held = DataLoader(held_out, batch_size=6, num_workers=1, persistent_workers=True)
for epoch in run.epochs(3):
    for batch in loader:
        train(batch)
    run.evaluated(loss=sum(nn.functional.cross_entropy(model(x), y).item() for x, y in held))
""",
    "an evaluation in the middle of the epoch": """
for epoch in run.epochs(3):
    for i, batch in enumerate(loader):
        if i % 2:
            validate()
        train(batch)
""",
}

# What it says of a loop that can be resumed only between its epochs.
COARSE = {
    "islice": (
        """
for epoch in run.epochs(4):
    for batch in islice(loader, 4):
        train(batch)
    validate()
""",
        "`islice(loader, 4)`",
    ),
    "zip with a range": (
        """
for epoch in run.epochs(4):
    for _, batch in zip(range(4), loader):
        train(batch)
    validate()
""",
        "`zip(range(4), loader)`",
    ),
    "next in a loop of its own": (
        """
for epoch in run.epochs(4):
    batches = iter(loader)
    for _ in range(4):
        train(next(batches))
    validate()
""",
        "`for … in range(4)`",
    ),
    "a generator of the script's": (
        """
for epoch in run.epochs(3):
    for batch in prefetch(loader):
        train(batch)
    validate()
""",
        "`for … in prefetch(loader)`",
    ),
    "steps counted in a while loop": (
        """
step = 0
for _ in run.epochs(1):
    while step < 15:
        for batch in loader:
            train(batch)
            step += 1
            if step == 15:
                break
""",
        "`while step < 15`",
    ),
    "steps counted by enumerate": (
        """
for _ in run.epochs(1):
    for step, batch in enumerate(cycle(loader)):
        train(batch)
        if step + 1 == 15:
            break
""",
        "`for … in enumerate(cycle(loader))`",
    ),
}


@pytest.mark.parametrize("made", ["iter(loader)", "cycle(loader)"])
def test_a_batch_that_is_fetched_ahead_is_refused_at_the_first_step(make_script: Make, made: str) -> None:
    source = f"""
batches = {made}
ahead = next(batches)
for step in run.steps(12):
    loss = loss_of(*ahead)
    ahead = next(batches)
    move(loss)
"""
    run = make_script(BEGIN + source, "", "0")
    assert run.run() == 1, run.log
    assert "A batch of 'loader1' was fetched before the loop" in run.log
    assert run.step == 0


def test_batches_that_itertools_repeats_are_noticed_when_the_first_pass_ends(make_script: Make) -> None:
    source = "batches = itertools.cycle(loader)\nfor step in run.steps(12):\n    train(next(batches))\n"
    run = make_script(BEGIN + source, "", "0")
    assert run.run() == 0, run.log
    assert run.log.count("Use a generator with `while True: yield from loader`") == 1


WARNING = "a resume cannot continue in the middle of this loop, so checkpoints are made only between epochs"


def assert_ends_as_undisturbed(make_script: Make, source: str, *options: str, deaths: tuple[str, ...]) -> TrainedRun:
    twin = make_script(source, *options, name="twin")
    assert twin.run() == 0, twin.log
    run = make_script(source, *options, *deaths)
    assert run.run() == -signal.SIGKILL, run.log
    for _ in deaths[1:]:
        assert run.resume() == -signal.SIGKILL, run.log
    assert run.resume() == 0, run.log
    for name in ("train/loss", "validation/accuracy"):
        ours, theirs = (read_series(one.layout.metrics, name) for one in (run, twin))
        assert ours.steps.tolist() == theirs.steps.tolist(), name
        np.testing.assert_array_equal(ours.values, theirs.values)
    assert run.final_digest() == twin.final_digest()
    return run


@pytest.mark.parametrize(
    ("shape", "place", "workers"),
    [
        (shape, place, workers)
        for number, shape in enumerate(EXACT)
        for place, workers in [
            (("before the update", "after the update", "after the edge")[number % 3], "02"[number % 4 == 1])
        ]
    ],
)
def test_a_loop_killed_twice_in_one_epoch_ends_as_if_it_had_not_been(
    make_script: Make, shape: str, place: str, workers: str
) -> None:
    run = assert_ends_as_undisturbed(make_script, BEGIN + EXACT[shape], place, workers, deaths=("7", "8"))
    assert WARNING not in run.layout.attempt(1).log.read_text() + run.log


@pytest.mark.thorough
@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("place", ["before the update", "after the update", "after the edge", "in the validation"])
@pytest.mark.parametrize("shape", EXACT)
def test_a_loop_killed_anywhere_ends_as_if_it_had_not_been(
    make_script: Make, shape: str, place: str, workers: str
) -> None:
    if place == "in the validation" and "validate()" not in EXACT[shape]:
        pytest.skip("this loop validates otherwise or not at all")
    deaths = ("8", "8") if place == "in the validation" and "epochs" not in EXACT[shape] else ("7", "8")
    if place == "in the validation":
        deaths = next(pair for key, pair in _VALIDATED.items() if key in EXACT[shape])
    run = assert_ends_as_undisturbed(make_script, BEGIN + EXACT[shape], place, workers, deaths=deaths)
    assert WARNING not in run.layout.attempt(1).log.read_text() + run.log


_VALIDATED = {"if i == 3": ("4", "8"), "move(loss)": ("3", "6"), "part in range": ("10",), "epoch == 1": ("5", "8"),
              "step % 4": ("3", "7"), "if i % 2": ("6", "8"), "tuner": ("10", "15"), "": ("5", "10")}  # fmt: skip
"""Steps after which a shape validates."""


@pytest.mark.parametrize("shape", COARSE)
def test_a_loop_that_no_resume_can_enter_is_named_at_once_and_resumes_between_epochs(
    make_script: Make, shape: str
) -> None:
    source, named = COARSE[shape]
    run = assert_ends_as_undisturbed(make_script, BEGIN + source, "after the edge", "0", deaths=("6", "7"))
    log = run.layout.attempt(1).log.read_text()
    assert log.count(WARNING) == 1
    line = next(line for line in log.splitlines() if WARNING in line)
    assert named in line and ".py, line " in line


@pytest.mark.parametrize("shape", ["the plain loop", "an endless generator made before the loop"])
def test_a_training_stopped_before_its_first_step_resumes_from_step_0(make_script: Make, shape: str) -> None:
    twin = make_script(BEGIN + EXACT[shape], "", "0", name="twin")
    assert twin.run() == 0, twin.log
    run = make_script(BEGIN + EXACT[shape], "", "0")
    trainer = run.start()
    request_stop(run.layout)  # long before it has imported what it needs
    assert trainer.wait(60) == 130, run.log
    assert [info.step for info in run.checkpoints()] == [0]
    assert run.resume() == 0, run.log
    assert run.final_digest() == twin.final_digest()


SECTION = (Path(__file__).parents[3] / "docs" / "scripts.md").read_text().split("## Your loop looks like this")[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", SECTION.split("\n## ")[0], re.MULTILINE | re.DOTALL)
PIECES = """

def loss_of(batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x), y)


def train_on(batch):
    optimizer.zero_grad()
    loss = loss_of(batch)
    loss.backward()
    optimizer.step()
    schedule.step()
    return loss


optimizer.register_step_post_hook(lambda *_: die("after the update"))


def use_smaller_rate():
    for group in optimizer.param_groups:
        group["lr"] = 0.001


class Average:
    def __init__(self):
        self.values = [parameter.detach().clone() for parameter in model.parameters()]

    @torch.no_grad()
    def update(self):
        for value, parameter in zip(self.values, model.parameters()):
            value.lerp_(parameter, 0.1)

    @torch.no_grad()
    def swap(self):
        for value, parameter in zip(self.values, model.parameters()):
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)


average = Average()
run.track(**{f"average{number}": value for number, value in enumerate(average.values)})


def endless(loader):
    while True:
        yield from loader


"""


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_loop_of_the_guide_is_exact_as_it_is_written(make_script: Make, number: int) -> None:
    assert len(BLOCKS) >= 7
    run = assert_ends_as_undisturbed(
        make_script, BEGIN + PIECES + BLOCKS[number], "after the update", "0", deaths=("7", "8")
    )
    assert WARNING not in run.log
