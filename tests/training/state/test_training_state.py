"""A state that is saved and loaded into new objects continues exactly like one that was never interrupted."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel

from relight.checkpoints.typed_json import canonical_json, decode_state, encode_state
from relight.errors import TaskError, UnsupportedState
from relight.training.state.rng import seed_everything
from relight.training.state.state_errors import StateMismatch
from relight.training.state.training_state import CapturedState, TrainingState
from tests.training.state.held_tensors import HeldTensors

Build = Callable[[], "Setup"]


class Net(nn.Module):
    """A net with all that a forward pass may change: batch statistics, dropout, a power iteration, a counter, masks."""

    def __init__(self, *, tied: bool = False, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 8))
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.3)
        self.second = nn.Linear(8, 8, bias=False)
        self.third = nn.Linear(8, 8, bias=False)
        if tied:
            self.third.weight = self.second.weight
        self.last = nn.Linear(8, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("mask", torch.ones(600_000), persistent=False)  # large, and never changes
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        hidden = self.drop(F.relu(self.norm(self.first(x))))
        hidden = self.third(torch.tanh(self.second(hidden))) * self.mask[0]
        return self.last(hidden) + 1e-3 * random.random() + 1e-3 * np.random.randn() + 1e-4 * self.calls


class Setup:
    """A model with an optimizer and a schedule, as in a user's script."""

    def __init__(
        self,
        optimizer: Callable[[Any], torch.optim.Optimizer] = lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        scheduler: Callable[[Any], Any] | None = None,
        *,
        ema: bool = False,
        frozen: bool = False,
        **net: Any,
    ) -> None:
        seed_everything(7)
        self.model = Net(**net)
        if frozen:
            self.model.second.requires_grad_(False)
            self.model.norm.eval()
        self.optimizer = optimizer([p for p in self.model.parameters() if p.requires_grad])
        self.scheduler = scheduler(self.optimizer) if scheduler else None
        self.ema = AveragedModel(self.model, use_buffers=True) if ema else None
        self.state = TrainingState()
        self.state.track("model", self.model)
        self.state.track("optimizer", self.optimizer)
        if self.scheduler is not None:
            self.state.track("scheduler", self.scheduler)
        if self.ema is not None:
            self.state.track("ema", self.ema)
        self.steps = 0
        self.state.record_edge({"step": 0})

    def forward_backward(self) -> Tensor:
        dtype = self.model.last.weight.dtype
        x = torch.randn(16, 4).to(dtype)
        loss = F.cross_entropy(self.model(x).float(), (x[:, 0] > 0).long())
        self.optimizer.zero_grad()
        loss.backward()
        return loss

    def train(self, steps: int) -> None:
        for _ in range(steps):
            loss = self.optimizer.step(self.forward_backward)  # LBFGS needs a closure
            if isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau):
                self.scheduler.step(float(loss.detach()))
            elif self.scheduler is not None:
                self.scheduler.step()
            if self.ema is not None:
                self.ema.update_parameters(self.model)
            self.optimizer.zero_grad()
            self.steps += 1
            self.state.record_edge({"step": self.steps})

    def capture(self, *, at_edge: bool = True) -> CapturedState:
        captured = self.state.capture(at_edge=at_edge)
        assert captured is not None
        return CapturedState(captured.tree, {name: tensor.clone() for name, tensor in captured.tensors.items()})

    def restore(self, saved: CapturedState, **options: Any) -> None:
        tree = decode_state(encode_state(saved.tree))  # in the form in which it comes from the disk
        self.steps = self.state.restore(tree, HeldTensors(saved.tensors), **options)["step"]
        self.state.restore_rng(tree, HeldTensors(saved.tensors))
        self.state.record_edge({"step": self.steps})


def assert_same(ours: CapturedState, theirs: CapturedState) -> None:
    assert canonical_json(encode_state(ours.tree)) == canonical_json(encode_state(theirs.tree))
    assert set(ours.tensors) == set(theirs.tensors)
    for name, tensor in ours.tensors.items():
        other = theirs.tensors[name]
        assert tensor.dtype == other.dtype, name
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)), name


def assert_exact(build: Build, *, before: int = 3, after: int = 4) -> None:
    twin = build()
    twin.train(before + after)
    first = build()
    first.train(before)
    saved = first.capture()
    second = build()
    second.train(1)  # its earlier steps must not matter
    second.restore(saved)
    assert_same(second.capture(), saved)
    second.train(after)
    assert_same(second.capture(), twin.capture())


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "adamw tensor lr": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01)),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "adadelta": torch.optim.Adadelta,
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3, history_size=4),
    "two groups": lambda p: torch.optim.AdamW([{"params": p[:3], "lr": 0.1}, {"params": p[3:], "betas": (0.5, 0.9)}]),
}
if hasattr(torch.optim, "Muon"):
    OPTIMIZERS["muon"] = lambda p: torch.optim.Muon([one for one in p if one.ndim == 2], lr=0.01)

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "step": lambda o: lr_scheduler.StepLR(o, 2),
    "multi step": lambda o: lr_scheduler.MultiStepLR(o, [2, 4, 4, 6], gamma=0.5),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "warm restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "linear": lambda o: lr_scheduler.LinearLR(o, total_iters=5),
    "constant": lambda o: lr_scheduler.ConstantLR(o, total_iters=4),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, total_iters=9),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.2, total_steps=12),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=0.5),
    "swa": lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=5),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=3), lr_scheduler.StepLR(o, 2)], milestones=[3]
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_goes_on_exactly(name: str) -> None:
    assert_exact(lambda: Setup(OPTIMIZERS[name]))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_schedule_goes_on_exactly(name: str) -> None:
    assert_exact(lambda: Setup(scheduler=SCHEDULERS[name]))


@pytest.mark.parametrize("option", [{"tied": True}, {"frozen": True}, {"ema": True}, {"dtype": torch.bfloat16}])
@pytest.mark.parametrize("optimizer", ["adamw", "lbfgs"])
def test_every_kind_of_model_goes_on_exactly(optimizer: str, option: dict[str, Any]) -> None:
    assert_exact(lambda: Setup(OPTIMIZERS[optimizer], **option))


def test_a_tensor_rate_stays_the_tensor_that_others_hold_on_to() -> None:
    saved = Setup(lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.25))).capture()
    setup = Setup(lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.5)))
    rate = setup.optimizer.param_groups[0]["lr"]
    setup.restore(saved)
    assert setup.optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == 0.25


def test_full_precision_moments_of_a_half_precision_parameter_stay_what_they_are() -> None:
    class MasterSGD(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {})

        def step(self, closure: Any = None) -> Any:
            loss = closure()
            for parameter in self.param_groups[0]["params"]:
                state = self.state[parameter]
                master = state.setdefault("master", parameter.detach().float())
                state.setdefault("trace", [torch.zeros_like(master, dtype=torch.float64)])[0].add_(parameter.grad)
                master.sub_(0.01 * state["trace"][0].float())
                with torch.no_grad():
                    parameter.copy_(master)
            return loss

    assert_exact(lambda: Setup(MasterSGD, dtype=torch.bfloat16))


def test_a_state_captured_in_the_middle_of_a_step_is_that_of_the_last_edge() -> None:
    setup = Setup(OPTIMIZERS["adamw"], scheduler=SCHEDULERS["cosine"])
    setup.train(3)
    at_edge = setup.capture()
    setup.model.eval()
    setup.model(torch.randn(4, 4))
    setup.model.train()
    setup.forward_backward()  # changes buffers, counters and generators, but not the parameters
    assert_same(setup.capture(at_edge=False), at_edge)
    with pytest.raises(AssertionError):
        live = CapturedState(
            at_edge.tree, {**at_edge.tensors, "model.norm.running_mean": setup.model.norm.running_mean}
        )
        assert_same(live, at_edge)


def test_a_step_that_moved_a_large_buffer_is_not_called_exact() -> None:
    setup = Setup()
    setup.train(2)
    setup.model.mask.add_(1)
    assert setup.state.capture(at_edge=False) is None
    assert setup.state.capture(at_edge=True) is not None


def test_names_are_those_of_the_bare_model_whatever_wraps_it() -> None:
    bare, compiled = Setup(), Setup()
    compiled.state = TrainingState()
    compiled.state.track("model", torch.compile(nn.DataParallel(compiled.model), backend="eager"))
    compiled.state.track("optimizer", compiled.optimizer)
    for setup in (bare, compiled):
        setup.train(1)
    assert set(compiled.capture().tensors) == set(bare.capture().tensors)
    compiled.restore(bare.capture())
    assert_same(compiled.capture(), bare.capture())


def test_an_attribute_that_is_called_module_keeps_its_name() -> None:
    model = nn.Module()
    model.module = nn.Linear(2, 2)
    state = TrainingState()
    state.track("model", model)
    state.record_edge({})
    captured = state.capture(at_edge=True)
    assert captured is not None
    assert "model.module.weight" in captured.tensors


def test_a_state_follows_its_parameter_when_the_order_in_the_optimizer_changes() -> None:
    def build(reverse: bool) -> tuple[TrainingState, nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))  # equal shapes, so a swap would go unnoticed
        optimizer = torch.optim.Adam(list(model.parameters())[:: -1 if reverse else 1])
        state = TrainingState()
        state.track("model", model)
        state.track("optimizer", optimizer)
        return state, model, optimizer

    state, model, optimizer = build(False)
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    state.record_edge({})
    saved = state.capture(at_edge=True)
    assert saved is not None
    other_state, other_model, other_optimizer = build(True)
    other_state.restore(saved.tree, HeldTensors(saved.tensors))
    for one, other in zip(model.parameters(), other_model.parameters(), strict=True):
        assert torch.equal(optimizer.state[one]["exp_avg"], other_optimizer.state[other]["exp_avg"])


def test_what_does_not_fit_is_one_error_with_the_names() -> None:
    saved = Setup().capture()
    other = Setup()
    other.model.extra = nn.Linear(2, 2)
    del other.model.last
    other.model.second = nn.Linear(8, 9, bias=False)
    other.state = TrainingState()
    other.state.track("model", other.model)
    with pytest.raises(StateMismatch) as caught:
        other.state.restore(
            {**saved.tree, "parts": {"model": saved.tree["parts"]["model"]}}, HeldTensors(saved.tensors)
        )
    message = str(caught.value)
    assert "missing in the checkpoint: extra.bias (float32 [2]), extra.weight (float32 [2, 2])" in message
    assert "only in the checkpoint: last.bias (float32 [2]), last.weight (float32 [2, 8])" in message
    assert "second.weight (float32 [8, 8] in the checkpoint, float32 [9, 8] now)" in message
    assert "\n" not in message


def test_a_missing_optimizer_or_schedule_is_named() -> None:
    saved = Setup(scheduler=SCHEDULERS["step"]).capture()
    with pytest.raises(StateMismatch, match="only in the checkpoint: scheduler"):
        Setup().restore(saved)


def test_a_branch_keeps_its_own_rates_and_the_parents_moments() -> None:
    parent = Setup(lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5))
    parent.train(2)
    child = Setup(lambda p: torch.optim.AdamW(p, lr=0.3, weight_decay=0.1))
    child.restore(parent.capture(), branch=True)
    assert child.optimizer.param_groups[0]["lr"] == 0.3
    assert child.optimizer.param_groups[0]["weight_decay"] == 0.1
    ours, theirs = parent.capture().tensors, child.capture().tensors
    assert torch.equal(ours["optimizer.last.bias.exp_avg"], theirs["optimizer.last.bias.exp_avg"])


def test_a_branch_with_another_optimizer_begins_it_afresh() -> None:
    parent = Setup(lambda p: torch.optim.AdamW(p, lr=0.01))
    parent.train(2)
    child = Setup(lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9))
    child.restore(parent.capture(), branch=True)
    assert not child.optimizer.state, "nothing of AdamW's is left in it"
    assert torch.equal(parent.model.last.bias, child.model.last.bias)


def test_a_users_object_is_part_of_the_state_and_recorded_at_the_edge() -> None:
    class Counter:
        def __init__(self) -> None:
            self.seen: dict[int, float] = {}

        def state_dict(self) -> dict[str, Any]:
            return {"seen": self.seen}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.seen = state["seen"]

    counter = Counter()
    state = TrainingState()
    state.track("counter", counter)
    counter.seen[1] = 0.5
    state.record_edge({})
    counter.seen[2] = 0.25
    saved = state.capture(at_edge=False)
    assert saved is not None
    tree = decode_state(encode_state(copy.deepcopy(saved.tree)))
    state.restore(tree, HeldTensors(saved.tensors))
    assert counter.seen == {1: 0.5}


def test_what_cannot_be_tracked_or_saved_is_refused_by_name() -> None:
    state = TrainingState()
    with pytest.raises(TaskError, match="'thing' is a object, which has no state_dict"):
        state.track("thing", object())
    state.track("model", nn.Linear(1, 1))
    with pytest.raises(TaskError, match="Something is already tracked as 'model'"):
        state.track("model", nn.Linear(1, 1))
    sparse = nn.Module()
    sparse.register_buffer("table", torch.eye(3).to_sparse())
    state.track("sparse", sparse)
    with pytest.raises((UnsupportedState, NotImplementedError, RuntimeError)):
        state.record_edge({})
        state.capture(at_edge=True)
