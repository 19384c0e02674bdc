"""A script that reacts to a signal itself is stopped by it, and trains on to the same end in a resume."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.training.conftest import TrainedRun

pytestmark = pytest.mark.processes

SCRIPT = """
import functools, os, signal, sys
from signal import SIGALRM, SIGTERM, SIGUSR1, alarm, pause, signal as install

import torch
from torch import nn
from torch.utils.data import TensorDataset

how, at, sent = sys.argv[1], int(sys.argv[2]), getattr(signal, sys.argv[3])
flag = []
epochs = 5 if how == "end" else 3


class Preempted(Exception):
    pass


class Reaction:
    def note(self, prefix, number, frame):
        flag.append(number)
        print(prefix, number, flush=True)
        if how == "exit":
            sys.exit(3)
        if how == "raise":
            raise Preempted


reaction = functools.partial(Reaction().note, "my handler")
if how == "before":
    install(sent, reaction)
    install(SIGALRM, lambda number, frame: print("my alarm", flush=True))

import relight

run = relight.init(seed=1, checkpoint_every_s=0)
if how not in ("before", "none"):
    install(sent, reaction)
if how == "before":
    alarm(1)
    pause()
model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
loader = run.loader(TensorDataset(torch.arange(80.0).reshape(20, 4) / 80), batch_size=4, shuffle=True)
run.track(model=model, optimizer=optimizer, schedule=schedule)


def train():
    for epoch in run.epochs(epochs):
        for (x,) in loader:
            if flag and how not in ("pass", "epoch", "end"):
                break
            model(x).pow(2).mean().backward()
            if not run.resumed and run.steps_done + 1 == at:
                os.kill(os.getpid(), sent)
            optimizer.step()
            optimizer.zero_grad()
            run.step(loss=1)
            if flag and how == "pass":
                return
        if flag and how in ("before", "after"):
            break
        schedule.step()
        if how == "early" and epoch == 1:
            break
        if how == "epoch" and flag or how == "end" and epoch == 3:
            break


try:
    train()
except Preempted:
    if how != "caught":
        raise
finally:
    with torch.no_grad():
        model[0].weight.fill_(7)
print("behind the loops")
if how == "finish":
    run.finish()
"""

Make = Callable[..., TrainedRun]


@pytest.fixture(scope="module")
def twin() -> dict[str, str]:
    """The digest of the run without a signal, once it is known."""
    return {}


@pytest.mark.parametrize(
    ("how", "at", "sent", "code"),
    [
        ("before", 7, "SIGTERM", 0),  # installed before relight.init; both loops are left by `break`
        ("after", 7, "SIGUSR1", 0),
        ("inner", 7, "SIGTERM", 0),  # only the loop over batches is left, in this and in all later epochs
        ("inner", 5, "SIGINT", 0),  # at the last batch of an epoch: the next epoch's loop is left before its first step
        ("epoch", 7, "SIGHUP", 0),  # `break` at the end of the epoch's body
        ("pass", 8, "SIGUSR2", 0),  # `return`, right after run.step
        ("exit", 7, "SIGTERM", 3),  # sys.exit(3) in the handler
        ("raise", 7, "SIGTERM", 1),
        ("finish", 7, "SIGTERM", 0),
    ],
)
def test_a_script_that_a_signal_makes_leave_its_loops_is_stopped_and_resumes_exactly(
    make_script: Make, twin: dict[str, str], how: str, at: int, sent: str, code: int
) -> None:
    run = make_script(SCRIPT, how, str(at), sent)
    assert run.run() == code, run.log
    said = run.outcome
    # The handlers of "exit" and "raise" end the script in the middle of the step; "epoch" trains to the epoch's end.
    step = {"exit": at - 1, "raise": at - 1, "epoch": 10}.get(how, at)
    assert (said.outcome, said.stop_signal) == ("stopped", sent), run.log
    assert said.reason.startswith(f"Stopped by {sent} at step")
    assert "my handler" in run.log
    assert (how == "before") == ("my alarm" in run.log)
    assert [info.step for info in run.checkpoints()][-1] == step, run.log
    if not twin:
        whole = make_script(SCRIPT, "none", "0", "SIGTERM", name="twin")
        assert whole.run() == 0, whole.log
        twin["digest"] = whole.final_digest()
    assert run.resume() == 0, run.log
    assert (run.outcome.outcome, run.outcome.step) == ("finished", 15), run.log
    assert run.final_digest() == twin["digest"]


@pytest.mark.parametrize(
    ("how", "at", "step", "reason"),
    [
        ("early", 0, 10, "The script ended at step 10 of 15."),
        ("epoch", 11, 15, "The training is done."),  # the `break` at the end of the last epoch ends the training
    ],
)
def test_a_script_that_stops_early_or_reaches_the_end_of_its_loops_is_finished(
    make_script: Make, how: str, at: int, step: int, reason: str
) -> None:
    run = make_script(SCRIPT, how, str(at), "SIGUSR1")
    assert run.run() == 0, run.log
    assert (run.outcome.outcome, run.outcome.step, run.outcome.reason) == ("finished", step, reason)


def test_a_signal_that_the_script_trains_on_after_does_not_change_how_it_ends(make_script: Make) -> None:
    run = make_script(SCRIPT.replace("        flag.append(number)\n", ""), "end", "3", "SIGUSR1")
    assert run.run() == 0, run.log
    assert "my handler" in run.log
    assert (run.outcome.outcome, run.outcome.step, run.outcome.stop_signal) == ("finished", 20, None)
