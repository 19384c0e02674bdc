"""`run.track` takes what scripts have: wrappers, odd optimizers, containers. It refuses the rest with what to do."""

from __future__ import annotations

import itertools
import random
from argparse import Namespace
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import StepLR

from relight.checkpoints.typed_json import canonical_json, decode_state, encode_state
from relight.errors import TaskError
from relight.training.script.position import ScriptPosition
from relight.training.script.state import ScriptState
from relight.training.script.trackable import expand, unwrap
from relight.training.state.optimizer_state import call_before_update
from relight.training.state.state_errors import StateMismatch
from relight.training.state.training_state import CapturedState
from tests.training.state.held_tensors import HeldTensors
from tests.training.state.test_training_state import assert_same


class Script:
    """What one attempt of a script tracks, without its loops."""

    def __init__(self, **things: Any) -> None:
        self.state = ScriptState(ScriptPosition())
        for name, thing in things.items():
            for expanded, each in expand(name, thing):
                self.state.add(expanded, each)

    def capture(self) -> CapturedState:
        self.state.record_edge({"step": 0})
        captured = self.state.capture(at_edge=True)
        assert captured is not None
        tensors = {name: tensor.clone() for name, tensor in captured.tensors.items()}
        return CapturedState(decode_state(encode_state(captured.tree)), tensors)

    def restore(self, saved: CapturedState, between: Callable[[], Any] = lambda: None) -> None:
        read, parts = HeldTensors(saved.tensors), saved.tree["parts"]
        own = {name: parts[name] for name in self.state.names}
        for name, part in own.items():
            self.state.restore_part(name, part, read, branch=None)
        between()
        self.state.restore_again(own, read, branch=None, again=False)
        self.state.restore_rng(saved.tree, read)


class Prepared(Optimizer):
    """Wraps an optimizer as Accelerate does, without the constructor of `Optimizer`."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.scaler, self.syncs = optimizer, None, True

    state = property(lambda self: self.optimizer.state)
    param_groups = property(lambda self: self.optimizer.param_groups)
    defaults = property(lambda self: self.optimizer.defaults)

    def state_dict(self) -> Any:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.optimizer.load_state_dict(state)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:
        if self.syncs:
            self.optimizer.step(closure)


class PreparedSchedule:
    def __init__(self, scheduler: StepLR) -> None:
        self.scheduler = scheduler

    def step(self) -> None:
        self.scheduler.step()

    def state_dict(self) -> Any:
        return self.scheduler.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.scheduler.load_state_dict(state)


class Bare(Optimizer):
    """Never calls the constructor of `Optimizer`, and has neither hooks nor defaults."""

    def __init__(self, parameters: Any) -> None:
        self.param_groups = [{"params": list(parameters), "lr": 0.1}]
        self.state = defaultdict(dict)

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["sum"] = state.get("sum", torch.zeros_like(parameter)) + parameter.grad
                parameter.data.sub_(group["lr"] * state["sum"])


class Lookahead(Optimizer):
    """Has a `state_dict` of another form."""

    def __init__(self, parameters: Any) -> None:
        self.optimizer = SGD(parameters, 0.1, momentum=0.9)
        self.param_groups, self.slow, self.count = self.optimizer.param_groups, [], 0

    def step(self, closure: Any = None) -> None:
        parameters = self.param_groups[0]["params"]
        self.slow = self.slow or [parameter.detach().clone() for parameter in parameters]
        self.optimizer.step()
        self.count += 1
        for parameter, slow in zip(parameters, self.slow, strict=True):
            if self.count % 2 == 0:
                parameter.data.copy_(slow.lerp_(parameter.data, 0.5))

    def state_dict(self) -> Any:
        return {"fast": self.optimizer.state_dict(), "slow": self.slow, "count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.optimizer.load_state_dict(state["fast"])
        self.param_groups, self.slow, self.count = self.optimizer.param_groups, state["slow"], state["count"]


class Sam(Optimizer):
    """Keeps another optimizer, whose state its own `state_dict` leaves out."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"rho": 0.05})
        self.base_optimizer = SGD(self.param_groups, 0.1, momentum=0.9)
        self.param_groups = self.base_optimizer.param_groups

    def step(self, closure: Any = None) -> None:
        self.base_optimizer.step()

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self.base_optimizer.param_groups = self.param_groups


class ScheduleFree(Optimizer):
    """Trains on other weights than it evaluates with, and has modes."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1, "train_mode": True, "k": 0})

    def _swap(self, weight: float, *, training: bool) -> None:
        for group in self.param_groups:
            if group["train_mode"] != training:
                for parameter in group["params"]:
                    if "z" in self.state[parameter]:
                        parameter.data.lerp_(self.state[parameter]["z"], weight)
                group["train_mode"] = training

    def eval(self) -> None:
        self._swap(1 - 1 / 0.9, training=False)

    def train(self) -> None:
        self._swap(1 - 0.9, training=True)

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            assert group["train_mode"]
            group["k"] += 1
            for parameter in group["params"]:
                z = self.state[parameter].setdefault("z", parameter.detach().clone())
                parameter.data.lerp_(z, 1 / group["k"]).sub_(0.05 * parameter.grad)
                z.sub_(group["lr"] * parameter.grad)


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "prepared": lambda p: Prepared(SGD(p, 0.1, momentum=0.9)),
    "prepared twice": lambda p: Prepared(Prepared(SGD(p, 0.1, momentum=0.9))),  # type: ignore[no-untyped-call]
    "bare": Bare,
    "lookahead": Lookahead,
    "sam": Sam,
    "schedule-free": ScheduleFree,
}


def _train(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.full((2, 3), 1.0 + step)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_each_kind_of_optimizer_continues_exactly_and_its_steps_are_noticed(kind: str) -> None:
    def build() -> tuple[nn.Module, Any, Script]:
        torch.manual_seed(1)
        model = nn.Linear(3, 2)
        optimizer = OPTIMIZERS[kind](model.parameters())
        schedule = StepLR(optimizer, 3)  # wraps the optimizer's step
        return model, optimizer, Script(model=model, optimizer=optimizer, schedule=schedule)

    model, optimizer, script = build()
    updates: list[int] = []
    for each in script.state.take_unwatched():
        call_before_update(each, lambda: updates.append(1))
    _train(model, optimizer, 3)
    assert len(updates) >= 3
    saved = script.capture()
    _train(model, optimizer, 3)

    again, resumed, second = build()
    group = resumed.param_groups[0]
    second.restore(saved)
    assert_same(second.capture(), saved)
    assert resumed.param_groups[0] is group or kind == "lookahead", "the script may refer to its optimizer's groups"
    _train(again, resumed, 3)
    assert_same(second.capture(), script.capture())


def test_a_wrapper_that_skips_steps_between_two_updates_reports_no_update() -> None:
    model = nn.Linear(3, 2)
    prepared = Prepared(SGD(model.parameters(), 0.1))
    script = Script(model=model, optimizer=prepared)
    updates: list[int] = []
    for each in script.state.take_unwatched():
        call_before_update(each, lambda: updates.append(1))
    prepared.syncs = False
    _train(model, prepared, 2)
    assert not updates
    prepared.syncs = True
    _train(model, prepared, 2)
    assert len(updates) == 2


def test_a_wrapper_without_a_state_of_its_own_is_saved_as_what_it_wraps() -> None:
    model = nn.Linear(3, 2)
    optimizer = SGD(model.parameters(), 0.1)
    schedule = StepLR(optimizer, 3)
    assert unwrap(Prepared(optimizer)) is optimizer
    assert unwrap(PreparedSchedule(schedule)) is schedule
    wrapped = Script(model=model, optimizer=Prepared(optimizer), schedule=PreparedSchedule(schedule)).capture()
    assert_same(wrapped, Script(model=model, optimizer=optimizer, schedule=schedule).capture())


def test_the_position_of_an_accelerator_in_an_accumulation_is_saved_though_the_script_does_not_track_it() -> None:
    class Accelerator:
        def __init__(self) -> None:
            self.step, self._schedulers, self.gradient_state = 0, [], Namespace(sync_gradients=True)
            self._optimizers: list[Any] = []

    def build() -> tuple[Any, Script]:
        accelerator, model = Accelerator(), nn.Linear(3, 2)
        prepared = type("AcceleratedOptimizer", (Prepared,), {"__module__": "accelerate.optimizer"})
        accelerator._optimizers.append(prepared(SGD(model.parameters(), 0.1)))
        return accelerator, Script(model=model, optimizer=accelerator._optimizers[0])

    accelerator, script = build()
    accelerator.step, accelerator.gradient_state.sync_gradients = 3, False
    resumed, second = build()
    second.restore(script.capture())
    assert (resumed.step, resumed.gradient_state.sync_gradients) == (3, False)


def test_the_scaler_with_which_a_wrapper_steps_its_optimizer_is_saved_with_it() -> None:
    def build() -> tuple[Any, Script]:
        model = nn.Linear(3, 2)
        prepared = Prepared(SGD(model.parameters(), 0.1))
        prepared.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        return prepared.scaler, Script(model=model, optimizer=prepared)

    scaler, script = build()
    scaler.load_state_dict({**scaler.state_dict(), "scale": 32.0})
    resumed, second = build()
    second.restore(script.capture())
    assert resumed.get_scale() == 32.0


@pytest.mark.parametrize("kind", [torch.amp.GradScaler, torch.cuda.amp.GradScaler])
@pytest.mark.filterwarnings("ignore")
def test_a_disabled_scaler_is_tracked_and_one_that_was_enabled_since_is_refused(kind: Any) -> None:
    script = Script(scaler=kind(enabled=False))
    saved = script.capture()
    assert script.state.capture(at_edge=False) is not None
    Script(scaler=kind(enabled=False)).restore(saved)
    with pytest.raises(StateMismatch, match="'scaler' is enabled now, but was disabled"):
        Script(scaler=torch.amp.GradScaler("cpu")).restore(saved)


def test_containers_take_over_their_saved_values_in_the_scripts_own_objects() -> None:
    def build() -> dict[str, Any]:
        inner = {"mean": torch.zeros(3), "names": ["a"]}
        return {
            "totals": {"count": 0, "inner": inner, "array": np.zeros(2), "pair": [torch.zeros(2), 0]},
            "history": [0.5], "recent": deque([1], maxlen=2), "seen": {1}, "array": np.arange(3.0),
            "arguments": Namespace(rate=0.1), "kinds": defaultdict(int, a=1),
        }  # fmt: skip

    things = build()
    script = Script(**things)
    totals = things["totals"]
    totals["count"], totals["new"] = 7, "x"
    totals["inner"]["mean"] += 2
    totals["inner"]["names"].append("b")
    totals["pair"][0] += 3
    totals["array"] += 4
    things["history"] += [0.25, 0.125]
    things["recent"].append(5)
    things["seen"].add(2)
    things["array"] *= 2
    things["arguments"].rate = 0.01
    things["kinds"]["b"] += 1
    saved = script.capture()
    live = build()
    held = [
        live["totals"]["inner"],
        live["totals"]["inner"]["mean"],
        live["totals"]["array"],
        live["totals"]["pair"][0],
    ]
    second = Script(**live)
    second.restore(saved, between=live["history"].clear)
    assert_same(second.capture(), saved)
    assert live["totals"]["inner"] is held[0] and live["totals"]["inner"]["mean"] is held[1]
    assert held[1].tolist() == [2.0, 2.0, 2.0] and held[2].tolist() == [4.0, 4.0] and held[3].tolist() == [3.0, 3.0]
    assert live["history"] == [0.5, 0.25, 0.125] and list(live["recent"]) == [1, 5] and live["recent"].maxlen == 2
    assert live["seen"] == {1, 2} and live["arguments"].rate == 0.01 and live["kinds"] == {"a": 1, "b": 1}
    with pytest.raises(StateMismatch, match=r"'array': it is float64 \[4\] now, but was float64 \[3\]"):
        Script(array=np.zeros(4)).restore(saved)


def test_lists_and_dictionaries_of_objects_are_tracked_one_by_one() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    optimizers = {"slow": SGD(first.parameters(), 0.1), "fast": SGD(second.parameters(), 0.2)}
    weights = [torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)]
    script = Script(models=[first, second], optimizers=optimizers, weights=weights, generators=(random.Random(1),))
    assert set(script.state.names) == {
        "models_0", "models_1", "optimizers_slow", "optimizers_fast", "weights_0", "weights_1", "generators_0",
    }  # fmt: skip
    tree = script.capture().tree["parts"]
    assert tree["optimizers_fast"]["groups"][0]["parameters"] == ["models_1.weight", "models_1.bias"]


def test_a_dictionary_of_objects_and_values_keeps_both() -> None:
    def build() -> dict[str, Any]:
        return {"model": nn.Linear(2, 2), "epoch": 0, "best": {"loss": torch.zeros(1)}}

    things = build()
    script = Script(state=things)
    assert set(script.state.names) == {"state_model", "state"}
    things["epoch"], things["new"] = 3, "x"
    things["best"]["loss"] += 2
    saved = script.capture()
    live = build()
    model, loss = live["model"], live["best"]["loss"]
    second = Script(state=live)
    second.restore(saved)
    assert_same(second.capture(), saved)
    assert live["model"] is model and live["best"]["loss"] is loss
    assert (live["epoch"], live["new"], float(loss)) == (3, "x", 2.0)


def test_an_untracked_optimizer_in_place_of_a_tracked_one_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(3, 2)
    script = Script(model=model, optimizer=SGD(model.parameters(), 0.1))
    script.capture()
    script.state.accumulating = True  # as the session says if no tracked optimizer has taken a step
    script.capture()
    assert not caplog.records
    for _ in range(2):
        _train(model, SGD(model.parameters(), 0.1, momentum=0.9), 1)
        script.capture()
    assert caplog.text.count("changed in a step that it did not take. If another optimizer trains them") == 1


def test_what_the_script_changes_between_track_and_its_loops_is_undone_in_a_resume() -> None:
    def build() -> dict[str, Any]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
        return {"model": model, "optimizer": optimizer, "order": np.random.default_rng(1), "best": {"value": 0.0}}

    things = build()
    script = Script(**things)
    _train(things["model"], things["optimizer"], 3)
    things["best"]["value"] = 0.5
    saved = script.capture()
    live = build()

    def begin() -> None:
        live["model"][0].weight.data.normal_(0, 0.02)  # as DCGAN does; no version counter moves
        live["model"](torch.ones(4, 3))
        live["model"].eval()
        live["model"][0].bias.requires_grad_(False)
        live["optimizer"].state.clear()
        live["optimizer"].param_groups[0]["lr"] = 7.0
        live["order"].random()
        live["best"]["value"] = 0.0

    second = Script(**live)
    second.restore(saved, begin)
    assert_same(second.capture(), saved)


class Environment:
    def __init__(self) -> None:
        self.np_random, self.noise, self.steps = np.random.default_rng(1), torch.Generator(), 0


class HalfSaved:
    def state_dict(self) -> dict[str, Any]:
        return {}


def _generate() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("thing", "sentence"),
    [
        (0.1, r"'x' is a float, which a resume cannot change in place. Keep it in a dictionary"),
        ("text", r"'x' is a str, which a resume cannot change in place"),
        ((1, 2), r"'x' is a tuple, which a resume cannot change in place"),
        (itertools.count(), r"'x' is an iterator \(count\), whose position cannot be saved"),
        (iter([1]), r"'x' is an iterator \(list_iterator\)"),
        (_generate(), r"'x' is an iterator \(generator\)"),
        (enumerate([1]), r"'x' is an iterator \(enumerate\)"),
        (Environment(), r"'x' is a Environment without state_dict and load_state_dict\. Track what it holds instead: "
         r"run\.track\(x_np_random=x\.np_random, x_noise=x\.noise\)"),
        (HalfSaved(), r"'x' is a HalfSaved, which has no load_state_dict\. Give it both"),
        (nn.Linear, r"'x' is the class Linear\. Track an object of it\."),
        (torch.ones(2, requires_grad=True) * 2, r"'x' is a tensor that was computed from others"),
        (torch.utils.data.DataLoader([1]), r"'x' is a DataLoader\. Relight tracks its own: use x = run\.loader\(x\)"),
        (print, r"'x' is a builtin_function_or_method"),
        (lambda: 1, r"'x' is a function"),
        (random.SystemRandom(), r"'x' is a SystemRandom"),
        ([nn.Linear(2, 2), 0.1], r"'x_1' is a float, which a resume cannot change in place"),
        (object(), r"'x' is a object"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_refused_with_what_to_track_instead(thing: Any, sentence: str) -> None:
    with pytest.raises(TaskError, match=sentence):
        Script(x=thing)


def test_an_optimizer_whose_state_cannot_be_read_is_refused_in_one_sentence() -> None:
    class Broken(Optimizer):
        def __init__(self) -> None:
            pass

    with pytest.raises(TaskError, match="The state of 'optimizer' cannot be saved: the state_dict of Broken raised"):
        Script(optimizer=Broken())


def test_a_plain_dictionary_is_saved_as_before() -> None:
    values: dict[str, Tensor | float] = {"best": 0.5}
    state = Script(values=values).capture().tree["parts"]["values"]
    assert canonical_json(encode_state(state)) == canonical_json(
        encode_state({"kind": "object", "state": {"best": 0.5}})
    )
