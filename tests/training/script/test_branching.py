"""A branch trains with what its script sets, from its first step, whatever the place it continues from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from relight.checkpoints.typed_json import decode_state, encode_state
from relight.metrics.series import read_series
from relight.training.script.branching import Branch, MadeOptions
from relight.training.script.position import ScriptPosition
from relight.training.script.state import ScriptState
from relight.training.state.state_errors import StateMismatch
from relight.training.state.state_tree import decode_tree
from relight.training.state.training_state import CapturedState
from tests.training.conftest import TrainedRun
from tests.training.state.held_tensors import HeldTensors


class Scheduled:
    """A script's model, optimizer and schedule, without its loops."""

    def __init__(
        self,
        make: Callable[[Any, int], Any],
        total: int,
        *,
        lr: float = 0.1,
        freeze: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        torch.manual_seed(1)
        self.model = nn.Linear(3, 1)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name not in freeze)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr, momentum=0.9, **options)
        made = make(self.optimizer, total)
        self.schedules = made if isinstance(made, list) else [made]
        self.state = ScriptState(ScriptPosition())
        self.state.add("model", self.model)
        self.state.add("optimizer", self.optimizer)
        for number, schedule in enumerate(self.schedules):
            self.state.add(f"schedule{number}", schedule)

    @property
    def rate(self) -> tuple[Any, ...]:
        group = self.optimizer.param_groups[0]
        return tuple(float(group[key]) for key in ("lr", "momentum", "weight_decay"))

    def train(self, steps: int) -> list[tuple[Any, ...]]:
        rates = []
        for _ in range(steps):
            rates.append(self.rate)
            self.optimizer.zero_grad()
            self.model(torch.ones(2, 3)).sum().backward()
            self.optimizer.step()
            for schedule in self.schedules:
                schedule.step(*([1.0] if isinstance(schedule, lr_scheduler.ReduceLROnPlateau) else []))
        return rates

    def capture(self) -> CapturedState:
        self.state.epoch_start.record()
        self.state.record_edge({"step": 0})
        captured = self.state.capture(at_edge=True)
        assert captured is not None
        tensors = {name: tensor.clone() for name, tensor in captured.tensors.items()}
        return CapturedState(decode_state(encode_state(captured.tree)), tensors)

    def restore(self, saved: CapturedState, *, branch: bool = True) -> None:
        """Restore as `Restoration` does: each object where it is tracked, and everything again at the place."""
        read, parts = HeldTensors(saved.tensors), saved.tree["parts"]
        made = MadeOptions(decode_tree(parts["script:built"]["state"], read))
        child = Branch(made) if branch else None
        for name in self.state.names:
            if name in parts:
                self.state.restore_part(name, parts[name], read, branch=child)
        self.state.note_loops(child)
        if not branch:
            self.state.warn_of_changes(made)
        own = {name: part for name, part in parts.items() if name in self.state.names}
        self.state.restore_again(own, read, branch=child, again=True)


SEQUENCE = lr_scheduler.SequentialLR
LONGER: dict[str, Callable[[Any, int], Any]] = {
    "cosine": lr_scheduler.CosineAnnealingLR,
    "sequential": lambda o, n: SEQUENCE(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.CosineAnnealingLR(o, n - 4)], [4]
    ),
    "warmup by a function": lambda o, n: SEQUENCE(
        o,
        [lr_scheduler.LambdaLR(o, lambda s: (s + 1) / 4), lr_scheduler.LambdaLR(o, lambda s: 1 - s / (n - 3))],
        [3],
    ),
    "chained": lambda o, n: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.1, total_iters=4), lr_scheduler.PolynomialLR(o, n)]
    ),
    "polynomial": lr_scheduler.PolynomialLR,
    "one cycle": lambda o, n: lr_scheduler.OneCycleLR(o, 0.1, total_steps=n),
    "linear": lambda o, n: lr_scheduler.LinearLR(o, 1.0, 0.0, total_iters=n),
    "function": lambda o, n: lr_scheduler.LambdaLR(o, lambda s: max(0.0, 1 - s / n)),
    "factors": lambda o, n: lr_scheduler.MultiplicativeLR(o, lambda s: 1 - 1 / n),
    "multi step": lambda o, n: lr_scheduler.MultiStepLR(o, [n // 2, 3 * n // 4]),
    "step": lambda o, n: lr_scheduler.StepLR(o, n // 3),
    "exponential": lambda o, n: lr_scheduler.ExponentialLR(o, 0.01 ** (1 / n)),
    "warm restarts": lr_scheduler.CosineAnnealingWarmRestarts,
    "cyclic": lambda o, n: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=n // 4),
}


@pytest.mark.parametrize("done", [7, 12])
@pytest.mark.parametrize("kind", LONGER)
def test_a_longer_schedule_continues_on_the_longer_curve(kind: str, done: int) -> None:
    reference = Scheduled(LONGER[kind], 24).train(24)
    parent = Scheduled(LONGER[kind], 12)
    parent.train(done)
    child = Scheduled(LONGER[kind], 24)
    child.restore(parent.capture())
    assert child.train(24 - done) == reference[done:]


@pytest.mark.parametrize("kind", LONGER)
def test_a_branch_with_another_rate_is_on_its_own_curve_and_one_without_changes_on_the_parents(kind: str) -> None:
    parent = Scheduled(LONGER[kind], 12)
    parent.train(7)
    saved = parent.capture()
    same, lower = Scheduled(LONGER[kind], 12), Scheduled(LONGER[kind], 12, lr=0.01, weight_decay=0.5)
    same.restore(saved)
    lower.restore(saved)
    assert same.train(5) == parent.train(5)
    reference = Scheduled(LONGER[kind], 12, lr=0.01, weight_decay=0.5).train(12)[7:]
    np.testing.assert_allclose(lower.train(5), reference)


def test_a_shorter_schedule_that_has_ended_by_then_is_refused() -> None:
    parent = Scheduled(LONGER["one cycle"], 24)
    parent.train(20)
    with pytest.raises(StateMismatch, match="'schedule0' differs from the parent's and cannot continue from there"):
        Scheduled(LONGER["one cycle"], 12).restore(parent.capture())


def test_a_longer_schedule_beside_another_one_is_refused_but_not_if_only_the_rate_changes() -> None:
    def make(optimizer: Any, total: int) -> Any:
        plateau = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
        return [lr_scheduler.CosineAnnealingLR(optimizer, total), plateau]

    parent = Scheduled(make, 12)
    parent.train(6)
    saved = parent.capture()
    with pytest.raises(StateMismatch, match="another schedule changes the same rate"):
        Scheduled(make, 24).restore(saved)
    child = Scheduled(make, 12, lr=0.01)
    child.restore(saved)
    assert child.rate[0] == pytest.approx(parent.rate[0] / 10)


def test_another_schedule_starts_fresh_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    parent = Scheduled(LONGER["cosine"], 12)
    parent.train(11)
    child = Scheduled(LONGER["step"], 12)
    with caplog.at_level(logging.INFO, logger="relight"):
        child.restore(parent.capture())
    assert child.train(12) == Scheduled(LONGER["step"], 12).train(12)
    assert [record.getMessage() for record in caplog.records] == [
        "The schedule0 differs from the parent's CosineAnnealingLR, so it starts fresh."
    ]


def test_a_rate_of_zero_at_the_beginning_of_a_branch_is_said(caplog: pytest.LogCaptureFixture) -> None:
    parent = Scheduled(LONGER["polynomial"], 12)
    parent.train(12)
    child = Scheduled(LONGER["polynomial"], 12)
    child.restore(parent.capture())
    child.state.warn_of_zero_rates()
    assert "The learning rate of 'optimizer' is 0 at this step" in caplog.text


def test_a_resume_of_a_script_with_other_settings_keeps_the_saved_ones_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    parent = Scheduled(LONGER["sequential"], 12)
    parent.train(7)
    child = Scheduled(LONGER["sequential"], 24, weight_decay=0.5)
    child.restore(parent.capture(), branch=False)
    assert "'optimizer' with other settings now: weight_decay 0.5 instead of 0" in caplog.text
    assert "'schedule0' with other settings now: T_max 20 instead of 8. A resume continues" in caplog.text
    assert child.train(5) == parent.train(5)
    caplog.clear()
    again = Scheduled(LONGER["sequential"], 12)
    again.restore(parent.capture(), branch=False)
    assert not caplog.records


def test_a_branch_freezes_what_its_script_freezes_and_keeps_what_the_parent_unfroze() -> None:
    parent = Scheduled(LONGER["step"], 12)
    saved = parent.capture()
    child = Scheduled(LONGER["step"], 12, freeze=("bias",))
    child.restore(saved)
    assert [parameter.requires_grad for parameter in child.model.parameters()] == [True, False]
    frozen = Scheduled(LONGER["step"], 12, freeze=("bias",))
    frozen.model.bias.requires_grad_(True)
    child = Scheduled(LONGER["step"], 12, freeze=("bias",))
    child.restore(frozen.capture())
    assert [parameter.requires_grad for parameter in child.model.parameters()] == [True, True]


SCRIPT = """
import sys
import torch
from torch import nn
import relight

options = dict(argument.split("=") for argument in sys.argv[1:])
lr, wd = float(options.get("lr", 0.1)), float(options.get("wd", 0))
how = options["how"]
run = relight.init(seed=0, checkpoint_every_s=0, checkpoint_every_steps=2, keep_latest=99)
model = nn.Linear(3, 1)
made = {"lr": lr, "weight_decay": wd} if how in ("made", "times", "ahead") else {"lr": 0.5}
kind = getattr(torch.optim, options.get("kind", "SGD"))
optimizer = kind(model.parameters(), **made, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
loader = run.loader(torch.utils.data.TensorDataset(torch.randn(16, 3)), batch_size=4)
run.track(model=model, optimizer=optimizer)
group = optimizer.param_groups[0]
if how == "before":
    group["lr"], group["weight_decay"] = lr, wd
for epoch in run.epochs(int(options.get("epochs", 4))):
    if how == "head":
        group["lr"], group["weight_decay"] = lr * 0.5**epoch, wd
    if how == "times":
        group["lr"] *= 0.5
    for x, in loader:
        optimizer.zero_grad()
        model(x).sum().backward()
        optimizer.step()
        rate = group["lr"]
        if how == "ahead":
            group["lr"] = lr * 0.5 ** run.steps_done
        run.step(rate=rate, decay=group["weight_decay"])
        run._driver.session._cutter.drain(60)  # each checkpoint is needed
        if how == "before" and loader.batch == 4:
            group["lr"] *= 0.5
"""
HALVED = {"made": [1.0] * 20, "before": [0.5 ** (step // 4) for step in range(20)]}
HALVED["head"] = HALVED["before"]
HALVED["ahead"] = [0.5 ** max(0, step - 1) for step in range(20)]  # set in each step, for the next one
HALVED["times"] = [0.5 ** (step // 4 + 1) for step in range(20)]


@pytest.mark.processes
@pytest.mark.parametrize("how", HALVED)
def test_what_a_branch_sets_counts_from_its_first_step_at_each_place(
    make_script: Callable[..., TrainedRun], how: str
) -> None:
    parent = make_script(SCRIPT, f"how={how}", name="parent")
    assert parent.run() == 0, parent.log
    sequences = {info.step: info.sequence for info in parent.checkpoints()}
    assert {4, 6, 16} <= sequences.keys()
    for step in (4, 6, 16):
        for arguments, lr, wd in ((["lr=0.01", "wd=0.5"], 0.01, 0.5), ([], 0.1, 0.0)):
            parent.script = [*(parent.script or [])[:1], f"how={how}", "epochs=5", *arguments]
            assert parent.run(reason="branch", from_sequence=sequences[step], from_step=step) == 0, parent.log
            rates = read_series(parent.layout.metrics, "train/rate")
            decays = read_series(parent.layout.metrics, "train/decay")
            assert rates.steps.tolist() == list(range(1, 21))
            assert rates.values.tolist()[step:] == pytest.approx([lr * share for share in HALVED[how][step:]])
            assert decays.values.tolist()[step:] == [wd] * (20 - step)


@pytest.mark.processes
def test_another_optimizer_starts_fresh_in_the_middle_of_an_epoch(make_script: Callable[..., TrainedRun]) -> None:
    parent = make_script(SCRIPT, "how=made", name="parent")
    assert parent.run() == 0, parent.log
    sequences = {info.step: info.sequence for info in parent.checkpoints()}
    parent.script = [*(parent.script or [])[:1], "how=made", "kind=AdamW", "lr=0.02", "wd=0.3"]
    assert parent.run(reason="branch", from_sequence=sequences[6], from_step=6) == 0, parent.log
    assert parent.log.count("The optimizer differs from the parent's SGD, so it starts fresh.") == 1
    assert read_series(parent.layout.metrics, "train/rate").values.tolist()[6:] == [0.02] * 10
    with parent.store.open(parent.checkpoints()[-1]) as reader:
        options = reader.state["parts"]["optimizer"]["groups"][0]["options"]
    assert "momentum" not in options and options["weight_decay"] == 0.3
