"""Parameter groups that a script adds in its loops (gradual unfreezing) are saved, and made again in a resume."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.training.conftest import TrainedRun

pytestmark = pytest.mark.processes

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import torch
from torch import nn
import relight

options = dict(argument.split("=") for argument in sys.argv[1:])
form, places = options["form"], options.get("die", "").split(",")


def at(*place):
    name = ":".join(map(str, place))
    if name in places and not Path(name).exists():
        Path(name).touch()
        if "term" not in options:
            os.kill(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)


run = relight.init(seed=0, checkpoint_every_s=0, checkpoint_every_steps=1, keep_latest=99)
parts = {name: nn.Linear(3, 3) for name in ("low", "middle", "head")}
for name in ("low", "middle"):
    parts[name].requires_grad_(False)
optimizer = torch.optim.AdamW(parts["head"].parameters(), 0.01)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 16)
loader = run.loader(torch.utils.data.TensorDataset(torch.randn(16, 3)), batch_size=4, shuffle=True)
if form == "unnamed":
    run.track(head=parts["head"], optimizer=optimizer, schedule=schedule)
else:
    run.track(parts=parts, optimizer=optimizer, schedule=schedule)
done = set()


def unfreeze(name, rate):
    done.add(name)
    parts[name].requires_grad_(True)
    optimizer.add_param_group({"params": parts[name].parameters(), "lr": rate, "weight_decay": 0.1})


for epoch in run.epochs(4):
    if form in ("epoch", "unnamed"):
        if epoch == 1:
            unfreeze("middle", 0.003)
        if epoch == 2:
            unfreeze("low", 0.001)
    if form == "missing" and epoch >= 1 and len(optimizer.param_groups) == 1:
        unfreeze("middle", 0.003)
    if form == "frozen" and epoch >= 1 and not parts["middle"].weight.requires_grad:
        unfreeze("middle", 0.003)
    if form == "flag" and epoch >= 1 and "middle" not in done:
        unfreeze("middle", 0.003)
    if form == "grow" and epoch == 1:
        parts["middle"].requires_grad_(True)
        optimizer.param_groups[0]["params"].extend(parts["middle"].parameters())
    if form == "drop" and epoch == 0:
        optimizer.param_groups[0]["params"].pop()
    at("head", epoch)
    for x, in loader:
        if form == "step" and run.steps_done >= 6 and "middle" not in done:
            unfreeze("middle", 0.003)
        loss = parts["head"](parts["middle"](parts["low"](x))).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        run.step(loss=loss)
        run._driver.session._cutter.drain(60)  # the resume continues from here
        at("edge", epoch, loader.batch)
"""
Make = Callable[..., TrainedRun]


@pytest.mark.parametrize(
    ("form", "places"),
    [
        ("epoch", ["edge:0:2", "head:1", "edge:1:2", "head:2", "edge:2:1", "edge:3:2"]),
        ("missing", ["edge:1:3", "head:2", "edge:3:1"]),
        ("frozen", ["head:1", "edge:1:3", "head:2", "edge:3:1"]),
        ("flag", ["edge:1:3", "edge:1:4", "edge:3:1"]),
        ("step", ["edge:1:1", "edge:1:3", "head:2"]),
        pytest.param("grow", ["head:1", "edge:1:2", "edge:2:2"], marks=pytest.mark.thorough),
        pytest.param("drop", ["edge:0:2", "edge:2:2"], marks=pytest.mark.thorough),
    ],
)
def test_a_script_that_changes_its_groups_resumes_exactly_from_everywhere(
    make_script: Make, form: str, places: list[str]
) -> None:
    twin = make_script(SCRIPT, f"form={form}", name="twin")
    assert twin.run() == 0, twin.log
    run = make_script(SCRIPT, f"form={form}", f"die={','.join(places)}")
    assert run.run() == -signal.SIGKILL, run.log
    for _ in places[1:]:
        assert run.resume() == -signal.SIGKILL, run.log
    assert run.resume() == 0, run.log
    assert run.final_digest() == twin.final_digest()


def test_a_signal_right_after_a_group_was_added_saves_the_groups_of_the_last_edge(make_script: Make) -> None:
    twin = make_script(SCRIPT, "form=frozen", name="twin")
    assert twin.run() == 0, twin.log
    run = make_script(SCRIPT, "form=frozen", "die=head:1", "term=1")
    assert run.run() == 130, run.log
    with run.store.open(run.checkpoints()[-1]) as reader:
        assert [len(group["parameters"]) for group in reader.state["parts"]["optimizer"]["groups"]] == [2]
        assert reader.state["parts"]["parts_middle"]["frozen"] == ["weight", "bias"]
    assert run.resume() == 0, run.log
    assert run.final_digest() == twin.final_digest()


@pytest.mark.parametrize("form", ["epoch", pytest.param("flag", marks=pytest.mark.thorough)])
def test_a_branch_without_changes_has_the_late_groups_too(make_script: Make, form: str) -> None:
    run = make_script(SCRIPT, f"form={form}", "die=edge:2:2,head:3")
    assert run.run() == -signal.SIGKILL, run.log
    assert run.resume() == -signal.SIGKILL, run.log
    places = [(info.step, info.sequence) for info in run.checkpoints() if info.step in (9, 10)]
    assert run.resume() == 0, run.log
    assert {step for step, _ in places} == {9, 10}
    whole = run.final_digest()
    for step, sequence in places:
        assert run.run(reason="branch", from_sequence=sequence, from_step=step) == 0, run.log
        assert run.final_digest() == whole


def test_a_late_group_that_no_resume_could_find_again_is_said_in_the_first_run(make_script: Make) -> None:
    run = make_script(SCRIPT, "form=unnamed", "die=edge:3:2", "term=1")
    assert run.run() == 130, run.log
    assert run.log.count("was given tensors in the loops that belong to no tracked module") == 1
    assert run.resume() == 1
    assert "The checkpoint does not match the parameters of the optimizer" in run.log
    assert "Traceback" not in run.log
