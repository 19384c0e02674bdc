"""Loops as people write them, each with the lines that make a script of it. A script kills itself, for a test.

Its arguments: the place where it dies, the number of data workers, and for each attempt the step after which that is.
"""

from __future__ import annotations

import re
from pathlib import Path

# Forty samples in batches of eight: five batches in an epoch, three epochs.
BEGIN = """
import itertools, os, queue, random, signal, sys, threading, time
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
    "a rate that is set at the top of each step": """
own = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
run.track(own=own)
batches = cycle(loader)
for step in run.steps(15):
    own.param_groups[0]["lr"] = 0.05 / (2 + step)
    if step % 4 == 3 or not step:
        validate()
    loss = loss_of(*next(batches))
    loss.backward()
    own.step()
    move(loss)
""",
    "averaged weights with a schedule of their own": """
average = torch.optim.swa_utils.AveragedModel(model)
later = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.005, anneal_epochs=2)
run.track(average=average, later=later)
for epoch in run.epochs(3):
    for batch in loader:
        train(batch)
    average.update_parameters(model)
    later.step()
    validate()
torch.optim.swa_utils.update_bn(loader, average)
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

FOREIGN = "was not passed to run.loader(), so after a resume they start over"
WARNING = "a resume cannot continue in the middle of this loop, so checkpoints are made only between epochs"
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
    "a thread that fetches ahead": (
        """
def fetch(batches):
    for batch in loader:
        time.sleep(random.SystemRandom().random() / 100)
        batches.put(batch)
    batches.put(None)

def fetched():
    batches = queue.Queue(3)
    threading.Thread(target=fetch, args=(batches,), daemon=True).start()
    while (batch := batches.get()) is not None:
        yield batch

for epoch in run.epochs(3):
    for batch in fetched():
        train(batch)
    validate()
""",
        "`for … in fetched()`",
    ),
    "chunks of batches": (
        """
def chunked(source):
    source = iter(source)
    while part := list(islice(source, 2)):
        yield part

for epoch in run.epochs(5):
    for part in chunked(loader):
        for x, y in part:
            loss = loss_of(x, y)
            loss.backward()
        move(loss)
    validate()
""",
        "`for … in chunked(loader)`",
    ),
}


SECTION = (Path(__file__).parents[3] / "docs" / "scripts.md").read_text().split("## Your loop looks like this")[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```", SECTION.split("\n## ")[0], re.MULTILINE | re.DOTALL)
PIECES = """

def loss_of(batch):
    x, y = batch
    die("before the update")
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
