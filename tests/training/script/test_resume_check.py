"""A resume compares the steps that it trains again with what was computed there before, and says what came of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec
import pytest

from relight.overview.attempts import summarize_attempts
from relight.overview.summary import summarize_run
from relight.runs.record_file import read_record, read_record_or_none, write_record
from relight.runs.records import ResumeCheck, ScriptRecord
from tests.training.conftest import TrainedRun

pytestmark = pytest.mark.processes

Make = Callable[..., TrainedRun]

# It kills itself at step 25 of its first attempt; the writer finishes the checkpoint of step 20 all the same.
SCRIPT = """
import os, random, signal, sys, time

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

import relight

leak, deaths = sys.argv[1], [int(step) for step in sys.argv[2:]]
run = relight.init(seed=1, checkpoint_every_s=0, checkpoint_every_steps=20)
attempt = len(os.listdir(run.folder / "attempts"))
data = TensorDataset(torch.randn(96, 16), torch.randint(0, 4, (96,)))
loader = run.loader(data, batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.2), nn.ReLU(), nn.Linear(32, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
run.track(model=model, optimizer=optimizer)
own = 0

def train(x, y):
    global own
    own += 1
    loss = nn.functional.cross_entropy(model(x), y)
    if leak == "weights":
        loss = loss * (1 + time.monotonic() % 1)
    if leak == "generators" and attempt == 2:
        random.random()
    if leak == "rates":
        optimizer.param_groups[0]["lr"] = 1e-3 / own
    np.random.rand()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss

def end(loss):
    if deaths and attempt <= len(deaths) and run.steps_done == deaths[attempt - 1] - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    run.step(loss=loss, seconds=time.monotonic())

if leak == "batch":
    def endless():
        while True:
            yield from loader

    batches = endless()
    for step in run.steps(48):
        if attempt == 2 and not own:
            next(batches)
        end(train(*next(batches)))
else:
    for epoch in run.epochs(4):
        for x, y in loader:
            end(train(x, y))
"""


def check(run: TrainedRun, attempt: int) -> ResumeCheck:
    return read_record(run.layout.attempt(attempt).resume_check, ResumeCheck)


def test_an_exact_resume_is_verified_and_every_screen_says_so(make_script: Make) -> None:
    run = make_script(SCRIPT, "none", "26", "24")
    for attempt in (1, 2):
        assert run.run(reason="launch" if attempt == 1 else "resume") == -9, run.log
    assert read_record_or_none(run.layout.attempt(2).resume_check, ResumeCheck) is None, "it died before the end of it"
    assert run.resume() == 0, run.log
    found = check(run, 3)
    assert (found.verdict, found.equal_steps, found.against, found.first_difference) == ("exact", 5, 1, None)
    assert found.sentence == "Resume verified: 5 steps computed the same values as attempt 1."
    assert found.sentence in run.log
    summary = summarize_run(run.layout)
    assert summary.resume_check == found
    assert summary.notes == ()
    notes = [attempt.notes for attempt in summarize_attempts(run.layout, status=summary.status, reason="")]
    assert notes == [(), (), (found.sentence,)]


@pytest.mark.parametrize("leak", ["batch", "generators", "rates", "weights"])
def test_an_inexact_resume_is_told_at_its_first_step_with_what_differs_first(make_script: Make, leak: str) -> None:
    run = make_script(SCRIPT, leak, "26")
    assert run.run() == -9, run.log
    assert run.resume() == 0, run.log
    found = check(run, 2)
    assert (found.verdict, found.part, found.first_difference) == ("different", leak, 21), found.sentence
    assert (found.equal_steps, found.against) == (0, 1)
    assert found.sentence.startswith("This resume is not exact. Step 21 is not what attempt 1 computed: ")
    assert run.log.count(found.sentence) == 1
    assert found.sentence in summarize_run(run.layout).notes
    if leak == "weights":
        assert "and loss was" in found.sentence


def test_what_an_edited_config_or_another_environment_explains_is_no_warning(make_script: Make) -> None:
    run = make_script(SCRIPT, "weights", "26")
    assert run.run() == -9, run.log
    path = run.layout.attempt(1).script
    write_record(path, msgspec.structs.replace(read_record(path, ScriptRecord), config={"lr": 3}))
    assert run.resume() == 0, run.log
    found = check(run, 2)
    assert (found.verdict, found.part) == ("changed", "weights")
    assert "the config has changed" in found.sentence
    assert f"WARNING {found.sentence}" not in run.log and found.sentence in run.log


def test_a_branch_and_a_first_attempt_are_compared_with_nothing(make_script: Make) -> None:
    run = make_script(SCRIPT, "weights", "26")
    assert run.run() == -9, run.log
    assert run.run(reason="branch", from_sequence=run.checkpoints()[-1].sequence, from_step=20) == 0, run.log
    for attempt in (1, 2):
        assert not run.layout.attempt(attempt).resume_check.exists()


def test_a_run_folder_that_holds_no_witness_is_resumed_without_a_word(make_script: Make) -> None:
    run = make_script(SCRIPT, "weights", "26")
    assert run.run() == -9, run.log
    run.layout.attempt(1).witness.write_bytes(b"RLWT" + bytes(1000))
    assert run.resume() == 0, run.log
    assert not run.layout.attempt(2).resume_check.exists()
    assert not [line for line in run.log.splitlines() if logging.getLevelName(logging.WARNING) in line]
