"""The outcome says how a script ended, and its state is saved whenever that can be done exactly."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from relight.runs.record_file import read_record
from relight.runs.records import SavingState, ScriptRecord
from tests.training.conftest import TrainedRun

pytestmark = pytest.mark.processes

SCRIPT = """
import os, subprocess, sys, time
from argparse import Namespace

import torch
from torch import nn

import relight

what = sys.argv[1]
args = Namespace(lr=0.1, name="x")
if what == "nothing":
    raise SystemExit
run = relight.init(args, seed=1, checkpoint_every_s=0, checkpoint_every_steps=0)
print("lr", args.lr, "resumed", run.resumed)
if what == "twice":
    relight.init()
if what == "leave":
    sys.exit(0)
if what == "slow":
    print("waiting", flush=True)
    time.sleep(60)
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr)
run.track(model=model, optimizer=optimizer)
if what == "outside":
    run.step(loss=1)
if what == "child" and os.fork() == 0:
    try:
        run.step(loss=1)
    except relight.RelightError as error:
        print("the child:", error, flush=True)
    os._exit(0)
if what == "subprocess":
    code = "import os; print('left:', [name for name in os.environ if name.startswith('RELIGHT_')])"
    print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
for epoch in run.epochs(3):
    for step in run.steps(5):
        model(torch.randn(4, 2)).pow(2).mean().backward()
        if (epoch, step) == (1, 2):
            if what == "raise":
                raise ValueError("the script broke")
            if what == "update":
                optimizer.register_step_post_hook(lambda *_: 1 / 0)
            if what == "exit":
                sys.exit("it will not go on")
            if what == "quit":
                sys.exit()
            if what == "os":
                os._exit(0)
            if what == "wait":
                print("waiting", flush=True)
                time.sleep(60)
        optimizer.step()
        optimizer.zero_grad()
        run.step(loss=epoch + step / 10)
    run.evaluated(error=1.0 / (1 + epoch))
    if what == "break" and epoch == 1:
        break
    if what == "validation" and epoch == 1:
        print("waiting", flush=True)
        time.sleep(60)
with torch.no_grad():
    model.weight.fill_(7)
if what == "late":
    raise RuntimeError("after the training")
if what == "explicit":
    run.finish()
    run.finish()
    print("finished already")
"""

Make = Callable[..., TrainedRun]


@pytest.mark.parametrize(
    ("what", "code", "outcome", "step", "reason", "saved"),
    [
        ("whole", 0, "finished", 15, "The training is done.", "final"),
        ("explicit", 0, "finished", 15, "The training is done.", "final"),
        ("break", 0, "finished", 10, "The script ended at step 10 of 15.", "final"),
        ("leave", 0, "finished", 0, "The script ended without a training step.", None),
        ("raise", 1, "crashed", 7, "ValueError: the script broke", "exception"),
        ("update", 1, "crashed", 7, "ZeroDivisionError: division by zero", "best"),
        ("exit", 1, "crashed", 7, "The script called sys.exit: it will not go on at step 7.", "exception"),
        ("quit", 0, "stopped", 7, "The script called sys.exit() at step 7.", "stop"),
        ("late", 1, "crashed", 15, "RuntimeError: after the training", "final"),
        ("twice", 1, "crashed", 0, "relight.init() was called twice", None),
        ("outside", 1, "crashed", 0, "run.step() was called outside of", None),
    ],
)
def test_each_way_out_has_its_outcome(
    make_script: Make, what: str, code: int, outcome: str, step: int, reason: str, saved: str | None
) -> None:
    run = make_script(SCRIPT, what)
    assert run.run() == code, run.log
    said = run.outcome
    assert (said.outcome, said.step) == (outcome, step), run.log
    assert said.reason.startswith(reason)
    checkpoints = run.checkpoints()
    assert (checkpoints[-1].reason if checkpoints else None) == saved
    if saved == "final":  # code after the loops is not part of the training
        with run.store.open(checkpoints[-1]) as reader:
            assert bytes(reader.read("model.weight"))[:4] != b"\0\0\xe0\x40"
    if outcome == "crashed" and "Error: " in reason:
        assert said.traceback is not None and "Traceback" in said.traceback
        assert run.log.count("Traceback") == 1
    if what in ("twice", "outside"):
        assert "Traceback" not in run.log
        assert "line" in run.log


@pytest.mark.parametrize(("what", "step"), [("wait", 7), ("validation", 10)])
def test_a_signal_saves_the_last_finished_step_wherever_the_script_is(make_script: Make, what: str, step: int) -> None:
    run = make_script(SCRIPT, what)
    run.start()
    run.wait_until(lambda: "waiting" in run.log)
    run.signal(signal.SIGTERM)
    assert run.processes[-1].wait(60) == 130, run.log
    said = run.outcome
    assert (said.outcome, said.step) == ("stopped", step)
    assert said.reason.startswith("Stopped by SIGTERM at step")
    assert [info.step for info in run.checkpoints()][-1:] == ([step] if step else [])
    again = make_script(SCRIPT, "whole", name="twin")
    assert again.run() == 0, again.log
    run.script = [run.script[0], "whole"]  # type: ignore[index]
    assert run.resume() == 0, run.log
    assert run.final_digest() == again.final_digest()


def test_what_ends_without_a_word_leaves_no_outcome(make_script: Make) -> None:
    run = make_script(SCRIPT, "os")
    assert run.run() == 0
    assert not run.layout.attempt(1).outcome.exists()


def test_children_of_the_script_cannot_write_into_its_run(make_script: Make) -> None:
    run = make_script(SCRIPT, "child")
    assert run.run() == 0, run.log
    assert "the child: run.step() was called in a child process" in run.log
    run = make_script(SCRIPT, "subprocess", name="b")
    assert run.run() == 0, run.log
    assert "left: []" in run.log


def test_what_the_launch_sets_reaches_the_script_and_its_record(make_script: Make) -> None:
    run = make_script(SCRIPT, "whole", lr="0.5", **{"relight.max_steps": "4", "keep_latest": 5})
    assert run.run() == 0, run.log
    assert "lr 0.5 resumed False" in run.log
    said = read_record(run.layout.attempt(1).script, ScriptRecord)
    assert said.config == {"lr": 0.5, "name": "x"}
    assert (said.settings["max_steps"], said.settings["keep_latest"]) == (4, 5)
    assert (run.outcome.outcome, run.outcome.step, run.checkpoints()[-1].reason) == ("finished", 4, "final")
    wrong = make_script(SCRIPT, "whole", name="b", lrr="0.5")
    assert wrong.run() == 1
    assert wrong.outcome.reason == "The script's config has no 'lrr': did you mean 'lr'?"
    wrong = make_script(SCRIPT, "whole", name="c", lr="fast")
    assert wrong.run() == 1
    assert wrong.outcome.reason == "lr=fast must be a number; the script's own value is 0.1."


def test_the_first_evaluation_says_what_the_best_is(make_script: Make) -> None:
    run = make_script(SCRIPT, "whole")
    assert run.run() == 0, run.log
    said = read_record(run.layout.attempt(1).script, ScriptRecord)
    assert (said.best_metric, said.higher_is_better) == ("validation/error", False)
    best = [info for info in run.checkpoints() if info.score is not None]
    assert best[-1].metrics["validation/error"] == pytest.approx(1 / 3)


CHANGED = """
import torch

import relight

run = relight.init(seed=1, checkpoint_every_steps=1)
loader = run.loader(torch.utils.data.TensorDataset(torch.randn(8, 2)), batch_size=2)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
run.track(model=model, optimizer=optimizer, schedule=schedule)
for epoch in run.epochs(2):
    for (x,) in loader:
        model(x).mean().backward()
        optimizer.step()
        schedule.step()
        run.step()
    if epoch == 0:
        break
"""


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("Adam(", "SGD(", "The optimizer is SGD now, but was Adam"),
        ("Adam(", "AdamW(", "The optimizer is AdamW now, but was Adam"),
        ("CosineAnnealingLR(optimizer, 100)", "StepLR(optimizer, 5)", "The schedule is StepLR now, but was Cosine"),
    ],
)
def test_another_optimizer_or_schedule_is_refused_by_a_resume(
    make_script: Make, before: str, after: str, said: str
) -> None:
    run = make_script(CHANGED)
    assert run.run() == 0, run.log
    assert run.script is not None
    Path(run.script[0]).write_text(CHANGED.replace(before, after))
    assert run.resume() == 1
    assert said in run.outcome.reason
    assert "Traceback" not in run.log


def test_a_script_that_tracks_nothing_is_told_so_at_its_first_step_and_at_its_end(make_script: Make) -> None:
    run = make_script(CHANGED.replace("run.track(model=model, optimizer=optimizer, schedule=schedule)", ""))
    assert run.run() == 0, run.log
    assert run.log.count("Nothing is tracked") == 1
    assert run.outcome.outcome == "finished"
    assert "Nothing is tracked, so the checkpoints contain no weights" in run.outcome.reason


def test_values_without_names_are_refused_with_what_to_write(make_script: Make) -> None:
    run = make_script(CHANGED.replace("run.step()", "run.step(torch.ones(()))"))
    assert run.run() == 1
    assert "Write run.step(loss=loss)" in run.outcome.reason


def test_a_zip_whose_first_loader_begins_anew_is_refused_with_the_order_that_works(make_script: Make) -> None:
    source = CHANGED.replace("    for (x,) in loader:", "    for (x,), _ in zip(again(), other):").replace(
        "model = ",
        "other = run.loader(torch.utils.data.TensorDataset(torch.randn(80, 2)), batch_size=2)\n\n\n"
        "def again():\n    while True:\n        yield from loader\n\n\nmodel = ",
        1,
    )
    run = make_script(source)
    assert run.run() == 1
    assert "put the loader with the most batches first" in run.outcome.reason
    run = make_script(
        source.replace("for (x,), _ in zip(again(), other)", "for _, (x,) in zip(other, again())"), name="other"
    )
    assert run.run() == 0, run.log


def test_a_model_that_has_changed_is_refused_with_the_names_of_its_tensors(make_script: Make) -> None:
    run = make_script(SCRIPT, "break")
    assert run.run() == 0, run.log
    assert run.script is not None
    path = Path(run.script[0])
    path.write_text(SCRIPT.replace("nn.Linear(2, 1)", "nn.Linear(3, 1)"))
    assert run.resume() == 1
    assert "weight" in run.outcome.reason and "Traceback" not in run.log
    path.write_text(SCRIPT.replace("run.track(model=model, ", "run.track(net=model, "))
    assert run.resume() == 1
    assert run.outcome.reason.startswith("The checkpoint has no 'net', only 'model', 'optimizer'")


PACED = """
import relight

run = relight.init(seed=1, max_loss_s=60, max_overhead=0.5)
for step in run.steps(3):
    run.step(loss=1.0)
"""


def test_a_script_is_paced_by_its_budget_and_a_launch_can_change_it(make_script: Make) -> None:
    run = make_script(PACED, max_overhead="0.25")
    assert run.run() == 0
    attempt = run.layout.attempt(1)
    settings = read_record(attempt.script, ScriptRecord).settings
    assert (settings["max_loss_s"], settings["max_overhead"], settings["checkpoint_every_s"]) == (60.0, 0.25, None)
    pace = read_record(attempt.saving, SavingState).pace
    assert pace is not None
    assert (pace.max_loss_s, pace.max_overhead) == (60.0, 0.25)
