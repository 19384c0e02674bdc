"""Whatever a training holds besides plain modules and optimizers is part of the state, or is refused by name."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from relight.checkpoints.typed_json import canonical_json, decode_state, encode_state
from relight.errors import TaskError, UnsupportedState
from relight.training.state.rng import seed_everything
from relight.training.state.state_errors import StateMismatch
from relight.training.state.training_state import CapturedState, TrainingState
from tests.training.state.held_tensors import HeldTensors

Build = Callable[[], tuple[dict[str, Any], Callable[[int], Any]]]
"""Builds a training: what is tracked by name, and what does one step."""


class Net(nn.Module):
    def __init__(self, wrap: Callable[[nn.Module], nn.Module] = lambda layer: layer) -> None:
        super().__init__()
        self.first = wrap(nn.Linear(4, 6))
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(6, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(F.relu(self.norm(self.first(x)))))


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(8, 4, generator=generator), torch.randint(0, 3, (8,), generator=generator)


def simple(model: nn.Module, *, optimizer: Any = None, **tracked: Any) -> Any:
    """Return the tracked objects and the step function of a training with one model and one optimizer."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.01)

    def step(number: int) -> None:
        x, y = batch(number)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return {"model": model, "optimizer": optimizer, **tracked}, step


class Saved:
    """A captured state in the form that the disk holds."""

    def __init__(self, captured: CapturedState | None) -> None:
        assert captured is not None
        self.json = canonical_json(encode_state(captured.tree))
        self.tensors = {name: tensor.clone() for name, tensor in captured.tensors.items()}

    @property
    def read(self) -> HeldTensors:
        return HeldTensors(self.tensors)

    @property
    def tree(self) -> dict[str, Any]:
        tree: dict[str, Any] = decode_state(self.json)
        return tree


def start(build: Build, *, seed: int) -> tuple[TrainingState, Callable[[int], Any]]:
    seed_everything(seed)
    tracked, step = build()
    state = TrainingState()
    for name, value in tracked.items():
        state.track(name, value)
    return state, step


def assert_exact(build: Build, *, cut: int = 3, total: int = 6) -> Saved:
    """Train `total` steps, once in one go and once with a resume into new objects after `cut` steps, and compare."""
    state, step = start(build, seed=0)
    state.record_edge({"step": 0})
    for number in range(total):
        step(number)
        state.record_edge({"step": number + 1})
        if number + 1 == cut:
            middle = Saved(state.capture(at_edge=True))
    whole = Saved(state.capture(at_edge=True))

    state, step = start(build, seed=99)
    state.restore(middle.tree, middle.read)
    state.restore_rng(middle.tree, middle.read)
    state.record_edge({"step": cut})
    assert_same(Saved(state.capture(at_edge=True)), middle)
    for number in range(cut, total):
        step(number)
        state.record_edge({"step": number + 1})
    assert_same(Saved(state.capture(at_edge=True)), whole)
    return middle


def assert_same(ours: Saved, theirs: Saved) -> None:
    assert ours.json == theirs.json
    assert set(ours.tensors) == set(theirs.tensors)
    for name, tensor in ours.tensors.items():
        other = theirs.tensors[name]
        assert tensor.dtype == other.dtype, name
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8)), name


def test_generators_of_ones_own_go_on_where_they_were() -> None:
    def build() -> Any:
        own = {
            "torch": torch.Generator().manual_seed(3),
            "python": random.Random(3),
            "legacy": np.random.RandomState(3),
            **{
                bits: np.random.Generator(getattr(np.random, bits)(3))
                for bits in ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
            },
        }
        model = Net()
        tracked, _ = simple(model, **own)

        def step(number: int) -> None:
            x, y = batch(number)
            noise = torch.rand((), generator=own["torch"]) + own["python"].gauss(0, 1) + own["legacy"].randn()
            noise += sum(own[name].normal() + int(own[name].integers(9, dtype=np.int32)) for name in list(own)[3:])
            tracked["optimizer"].zero_grad()
            F.cross_entropy(model(x + noise), y).backward()
            tracked["optimizer"].step()

        return tracked, step

    assert_exact(build)


def test_a_generator_of_another_kind_than_the_saved_one_is_refused() -> None:
    state = TrainingState()
    state.track("noise", np.random.default_rng(1))
    state.record_edge({})
    saved = Saved(state.capture(at_edge=True))
    for other in (random.Random(1), np.random.Generator(np.random.Philox(1))):
        state = TrainingState()
        state.track("noise", other)
        with pytest.raises(StateMismatch, match="does not fit 'noise'"):
            state.restore(saved.tree, saved.read)
    with pytest.raises(TaskError, match="'entropy' is a SystemRandom"):
        TrainingState().track("entropy", random.SystemRandom())


@pytest.mark.parametrize("tracked", [True, False])
def test_a_tensor_that_is_trained_and_belongs_to_no_module_is_saved(
    tracked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def build() -> Any:
        model, scale = Net(), nn.Parameter(torch.rand(3))
        optimizer = torch.optim.Adam([*model.parameters(), scale], lr=0.01)

        def step(number: int) -> None:
            x, y = batch(number)
            optimizer.zero_grad()
            F.cross_entropy(model(x) * scale, y).backward()
            optimizer.step()

        return {"model": model, "optimizer": optimizer, **({"scale": scale} if tracked else {})}, step

    middle = assert_exact(build)
    assert ("scale.value" if tracked else "optimizer:parameter.unnamed.0.5") in middle.tensors
    assert ("optimizer.scale.exp_avg" in middle.tensors) == tracked
    assert ("trains 1 tensors that belong to no tracked module" in caplog.text) != tracked

    def build_larger() -> Any:
        model, scale = Net(), nn.Parameter(torch.rand(1, 3))
        optimizer = torch.optim.Adam([*model.parameters(), scale], lr=0.01)
        return {"model": model, "optimizer": optimizer, **({"scale": scale} if tracked else {})}, None

    state, _ = start(build_larger, seed=0)
    with pytest.raises(StateMismatch, match=r"float32 \[1, 3\]"):
        state.restore(middle.tree, middle.read)


def test_a_tensor_that_the_loop_changes_is_that_of_the_last_edge() -> None:
    running = torch.zeros(3)
    state = TrainingState()
    state.track("running", running)
    running += 1
    state.record_edge({})
    running += 1
    saved = Saved(state.capture(at_edge=False))
    state.restore(saved.tree, saved.read)
    assert running.tolist() == [1, 1, 1]


def build_accumulating(*, zero: bool = True) -> Any:
    """Build a training with a step edge after each backward pass and an update after every second one."""
    model = Net()
    scale = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([*model.parameters(), scale], lr=0.1, momentum=0.9)

    def step(number: int) -> bool:
        x, y = batch(number)
        (F.cross_entropy(model(x) * scale, y) / 2).backward()
        if number % 2:
            optimizer.step()
            optimizer.zero_grad(set_to_none=zero)
        return bool(number % 2)

    return {"model": model, "optimizer": optimizer}, step


@pytest.mark.parametrize("cut", [3, 4])
def test_gradients_that_are_still_being_gathered_belong_to_the_state(cut: int) -> None:
    def train(state: TrainingState, step: Callable[[int], bool], numbers: range) -> None:
        for number in numbers:
            state.accumulating = not step(number)
            state.record_edge({"step": number + 1})

    state, step = start(build_accumulating, seed=0)
    state.record_edge({"step": 0})
    train(state, step, range(cut))
    middle = Saved(state.capture(at_edge=True))
    assert any(name.startswith("gradient:") for name in middle.tensors) == (cut == 3)
    assert any(name.endswith(".gradient") for name in middle.tensors) == (cut == 3)
    assert (state.capture(at_edge=False) is None) == (cut == 3)  # the next backward pass changes the gradients in place
    train(state, step, range(cut, 7))
    whole = Saved(state.capture(at_edge=True))

    state, step = start(build_accumulating, seed=9)
    state.restore(middle.tree, middle.read)
    state.restore_rng(middle.tree, middle.read)
    state.record_edge({"step": cut})
    assert_same(Saved(state.capture(at_edge=True)), middle)
    train(state, step, range(cut, 7))
    assert_same(Saved(state.capture(at_edge=True)), whole)


class LateBuffers(nn.Module):
    """A module with buffers that are empty at first, are added later, or grow."""

    def __init__(self, *, size: int = 0) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.register_buffer("late", None)
        self.register_buffer("grown", torch.zeros(size))
        self.register_buffer("passing", torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.late is None:
            self.late = torch.full((3,), 0.5)
        if not hasattr(self, "unknown"):
            self.register_buffer("unknown", torch.ones(2), persistent=False)
        self.unknown *= 1.01
        self.grown = torch.cat([self.grown, x[:1, 0].detach()])
        self.passing = torch.cat([self.passing, x[:1, 1].detach()])
        return self.layer(x) * (self.late + self.grown.sum() + self.passing.sum() + self.unknown.sum())


def test_buffers_that_come_later_or_grow_are_put_back() -> None:
    middle = assert_exact(lambda: simple(LateBuffers()))
    assert middle.tensors["model.grown"].shape == (3,)
    state, _ = start(lambda: simple(LateBuffers(size=2)), seed=0)
    with pytest.raises(StateMismatch, match=r"grown \(float32 \[3\] in the checkpoint, float32 \[2\] now\)"):
        state.restore(middle.tree, middle.read)  # the model is built differently, as after a change of its code


def test_a_buffer_that_has_just_come_makes_the_middle_of_a_step_inexact_and_the_next_edge_whole() -> None:
    state, step = start(lambda: simple(LateBuffers()), seed=0)
    state.record_edge({})
    step(0)
    assert state.capture(at_edge=False) is None
    state.record_edge({})
    before = Saved(state.capture(at_edge=True))
    state.record_edge({})
    assert_same(Saved(state.capture(at_edge=False)), before)


def test_a_module_that_gets_parameters_while_it_is_trained_is_refused_with_their_names() -> None:
    model = Net()
    state, _ = start(lambda: simple(model), seed=0)
    model.head = nn.Linear(3, 3)
    state.record_edge({})
    with pytest.raises(UnsupportedState, match=r"parameters of 'model' have changed .* \(head.bias, head.weight\)"):
        state.capture(at_edge=True)


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


@pytest.mark.parametrize("kind", ["spectral_norm", "weight_norm", "orthogonal"])
def test_parametrized_weights_go_on_exactly(kind: str) -> None:
    assert_exact(lambda: simple(Net(getattr(parametrizations, kind))))


def test_older_norms_and_pruned_weights_go_on_exactly() -> None:
    assert_exact(lambda: simple(Net(nn.utils.spectral_norm)))
    assert_exact(lambda: simple(Net(lambda layer: prune.random_unstructured(layer, "weight", 0.3))))


def test_a_lazy_model_takes_its_shapes_from_the_checkpoint() -> None:
    assert_exact(lambda: simple(Lazy()))
    state, _ = start(lambda: simple(Lazy()), seed=0)
    state.record_edge({})
    with pytest.raises(UnsupportedState, match=r"'model.first.weight' of a lazy module has no shape yet"):
        state.capture(at_edge=True)


def test_extra_state_and_memory_formats_go_on_exactly() -> None:
    class Extra(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 3, 3, padding=1).to(memory_format=torch.channels_last)
            self.calls = 0

        def get_extra_state(self) -> dict[str, Any]:
            return {"calls": self.calls, "of": torch.tensor([self.calls])}

        def set_extra_state(self, state: dict[str, Any]) -> None:
            self.calls = state["calls"]

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            image = x[:, :, None, None].expand(-1, -1, 3, 3).contiguous(memory_format=torch.channels_last)
            return self.conv(image).mean((2, 3)) * self.calls

    assert_exact(lambda: simple(Extra()))


def test_the_average_of_a_model_counts_on() -> None:
    for options in ({}, {"multi_avg_fn": get_ema_multi_avg_fn(0.9)}, {"use_buffers": True}):

        def build(options: dict[str, Any] = options) -> Any:
            model = Net()
            average = AveragedModel(model, **options)
            tracked, step = simple(model, average=average)

            def both(number: int) -> None:
                step(number)
                average.update_parameters(model)

            return tracked, both

        assert int(assert_exact(build).tensors["average.n_averaged"]) == 3


def test_a_loss_scale_that_has_grown_and_shrunk_goes_on() -> None:
    def build() -> Any:
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)

        def step(number: int) -> None:
            x, y = batch(number)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y) * (torch.inf if number == 1 else 1)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

        return {"model": model, "optimizer": optimizer, "scaler": scaler}, step

    middle = assert_exact(build)
    assert middle.tree["parts"]["scaler"]["state"]["scale"] == 2.0**9
    assert middle.tree["parts"]["scaler"]["state"]["_growth_tracker"] == 1


def test_accumulators_and_early_stopping_of_ones_own_go_on() -> None:
    class Stopping:
        def __init__(self) -> None:
            self.best, self.patience, self.history = float("inf"), 0, []
            self.confusion, self.count, self.mean = np.zeros((3, 3), dtype=np.int64), torch.zeros(()), np.float32(0)

        def update(self, value: float) -> None:
            self.patience = 0 if value < self.best else self.patience + 1
            self.best = min(self.best, value)
            self.history.append(value)
            self.confusion[len(self.history) % 3, self.patience % 3] += 1
            self.count += 1
            self.mean = np.float32(np.mean(self.history))

        def state_dict(self) -> dict[str, Any]:
            return vars(self)

        def load_state_dict(self, state: dict[str, Any]) -> None:
            vars(self).update(state)

    def build() -> Any:
        model, stopping = Net(), Stopping()
        tracked, step = simple(model, stopping=stopping)

        def both(number: int) -> None:
            step(number)
            stopping.update(float(model.last.weight.detach().sum()))
            tracked["optimizer"].param_groups[0]["lr"] = 0.01 * (1 + float(stopping.mean) + stopping.patience)

        return tracked, both

    assert_exact(build)


class Shadow:
    """A typical user-written weight average: a list of large tensors that change in place."""

    def __init__(self) -> None:
        self.tensors = [torch.zeros(300_000), torch.zeros(3)]

    def state_dict(self) -> dict[str, Any]:
        return {"tensors": self.tensors, "decay": 0.9}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tensors = state["tensors"]


def test_large_tensors_of_an_object_are_not_copied_at_every_edge_and_never_saved_torn() -> None:
    shadow = Shadow()
    state = TrainingState()
    state.track("shadow", shadow)
    state.record_edge({})
    shadow.tensors[1] += 1
    saved = Saved(state.capture(at_edge=False))
    assert saved.tensors["shadow.tensors.1"].tolist() == [0, 0, 0]
    shadow.tensors[0] += 1
    assert state.capture(at_edge=False) is None
    state.record_edge({})
    shadow.tensors[0] = torch.ones(300_000) * 5  # another tensor in its place
    assert float(Saved(state.capture(at_edge=False)).tensors["shadow.tensors.0"][0]) == 1
    captured = state.capture(at_edge=False)
    assert captured is not None


def test_what_a_checkpoint_cannot_hold_is_refused_with_its_name_after_the_first_step() -> None:
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1, momentum=0.9)
    state, _ = start(lambda: ({"model": table, "optimizer": optimizer}, None), seed=0)
    table(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    state.record_edge({})
    with pytest.raises(UnsupportedState, match=r"'optimizer.weight.momentum_buffer' is torch.sparse_coo"):
        state.capture(at_edge=True)


def test_sparse_gradients_with_dense_state_go_on_exactly() -> None:
    def build() -> Any:
        table = nn.Embedding(5, 3, sparse=True)
        optimizer = torch.optim.SparseAdam(table.parameters(), lr=0.1)

        def step(number: int) -> None:
            optimizer.zero_grad()
            F.cross_entropy(table(torch.tensor([number % 5, 2])), torch.tensor([0, 1])).backward()
            optimizer.step()

        return {"model": table, "optimizer": optimizer}, step

    assert_exact(build)


def test_two_models_with_an_optimizer_each_and_late_parameter_groups_go_on_exactly() -> None:
    def build() -> Any:
        painter, critic = Net(), Net()
        first = torch.optim.Adam(painter.first.parameters(), lr=0.01)
        first.add_param_group({"params": [*painter.norm.parameters(), *painter.last.parameters()], "lr": 0.02})
        second = torch.optim.Adam(critic.parameters(), lr=torch.tensor(0.01))

        def step(number: int) -> None:
            x, y = batch(number)
            for optimizer in (first, second):
                optimizer.zero_grad()
            (F.cross_entropy(painter(x), y) - F.mse_loss(critic(x), painter(x))).backward()
            for optimizer in (first, second):
                optimizer.step()

        return {"painter": painter, "critic": critic, "first": first, "second": second}, step

    assert_exact(build)


@pytest.mark.parametrize("rate", [0.1, None])
def test_schedules_inside_schedules_and_objects_as_lambdas_go_on_exactly(rate: Any) -> None:
    class Decay:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, step: int) -> float:
            self.calls += 1
            return 0.9**step / self.calls

    def in_sequence(optimizer: torch.optim.Optimizer) -> lr_scheduler.SequentialLR:
        warmup, decay = (
            lr_scheduler.LambdaLR(optimizer, lambda s: 0.1 * (s + 1)), lr_scheduler.CosineAnnealingLR(optimizer, 6),
        )  # fmt: skip
        return lr_scheduler.SequentialLR(optimizer, [warmup, decay], [2])

    for make in (
        lambda o: lr_scheduler.LambdaLR(o, Decay()),
        lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, mode="exp_range", gamma=0.9, cycle_momentum=False),
        lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, scale_fn=lambda x: 0.9**x, cycle_momentum=False),
        in_sequence,
    ):

        def build(make: Any = make) -> Any:
            model = Net()
            optimizer = torch.optim.AdamW(
                model.parameters(), lr=torch.tensor(0.1) if rate is None else rate, foreach=False
            )
            scheduler = make(optimizer)
            (group,) = optimizer.param_groups
            if isinstance(group["lr"], torch.Tensor) and group["lr"] is group["initial_lr"]:
                pytest.skip("SequentialLR of this PyTorch overwrites the first rate where the rate is a tensor")
            tracked, step = simple(model, optimizer=optimizer, scheduler=scheduler)

            def both(number: int) -> None:
                step(number)
                scheduler.step()

            return tracked, both

        assert_exact(build)
