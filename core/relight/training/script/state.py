"""The training state of a script, exact even if the script changes learning rates or schedules between step edges."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from relight.errors import TaskError
from relight.training.state.optimizer_state import OptimizerPart
from relight.training.state.rng import RngRecorder, RngState, decode_rng, encode_rng, restore_rng
from relight.training.state.state_errors import StateMismatch, check_class
from relight.training.state.state_tree import TensorSource, decode_tree
from relight.training.state.training_state import CapturedState, TrainingState

POSITION = "loader"
"""Name of the part with the script's position; readers of checkpoints look for the data position there."""
EPOCH_START = "script:epoch"
BUILT = "script:built"
_OWN = (POSITION, EPOCH_START, BUILT)
_PLAIN = frozenset((int, float, str, bool, type(None)))
_log = logging.getLogger("relight")

Options = list[dict[str, Any]]
"""The options of an optimizer's groups, without their parameters."""


class ScriptState(TrainingState):
    """Everything that a script tracks, by name. Parts are restored one by one, when they are tracked.

    In a task nothing but the update moves schedules and rates; a script may step its schedule after the validation, or
    set a rate at the top of its loop. So both are kept at each step edge, and `capture` gives what they were there.
    """

    def __init__(self, position: Any) -> None:
        super().__init__()
        self.edges = 0
        """Step edges recorded so far."""
        self.epoch_start = EpochStart()
        self.built = BuiltOptions()
        self._options: dict[str, Options] = {}
        self._scalers: dict[str, torch.amp.GradScaler] = {}
        self._scaler_versions: list[Any] = []
        self._edge_states = {POSITION: position, EPOCH_START: self.epoch_start, BUILT: self.built}
        self._objects.update(self._edge_states)

    @property
    def names(self) -> list[str]:
        """The names of the objects that the script tracks."""
        return [name for name in (*self._modules, *self._optimizers, *self._objects) if name not in _OWN]

    @property
    def modules(self) -> list[nn.Module]:
        """The tracked modules."""
        return [part.module for part in self._modules.values()]

    def track(self, name: str, tracked: Any) -> None:
        """Add an object as `TrainingState` does, or a dictionary of plain values."""
        if name in _OWN:
            raise TaskError(f"Relight uses the name '{name}' for its own state. Track the object under another name.")
        if isinstance(tracked, LRScheduler):
            tracked = TrackedScheduler(tracked)
            self.built.add(name, tracked.state_dict())
        elif type(tracked) is dict:
            tracked = TrackedDict(tracked)
        super().track(name, tracked)
        if isinstance(tracked, TrackedScheduler):
            self._moving = [(moving, each) for moving, each in self._moving if moving != name]
            self._edge_states[name] = tracked
        elif isinstance(tracked, torch.amp.GradScaler):
            self._scalers[name] = tracked
        elif isinstance(tracked, Optimizer):
            self.built.add(name, _copy_options(tracked))
        self._optimizer_parts = {}

    def record_edge(self, counters: Mapping[str, Any]) -> None:
        """Keep the small state of this step edge."""
        super().record_edge(counters)
        record = self._record
        assert record is not None
        for name, tracked in self._edge_states.items():
            record.objects[name] = tracked.edge_state()
        self._options = {name: _copy_options(optimizer) for name, optimizer in self._optimizers.items()}
        if self._scalers:
            self._scaler_versions = self._read_scaler_versions()
        self.edges += 1

    def capture(self, *, at_edge: bool) -> CapturedState | None:
        """Return the state of the last recorded edge, as `TrainingState` does."""
        if not at_edge and self._scalers and self._scaler_versions != self._read_scaler_versions():
            return None
        with self._swap_options():
            return super().capture(at_edge=at_edge)

    def has_moved(self) -> bool:
        """Tell whether generators, schedules or learning rates have changed since the last edge."""
        record = self._record
        assert record is not None, "no step edge was recorded"
        now, before = self._rng.capture(), record.rng
        if now.python != before.python or not torch.equal(now.torch, before.torch):
            return True
        for name, tracked in self._edge_states.items():
            if isinstance(tracked, TrackedScheduler) and tracked.edge_state() is not record.objects[name]:
                return True
        return any(
            type(group["lr"]) is float and group["lr"] != kept["lr"]
            for name, options in self._options.items()
            for group, kept in zip(self._optimizers[name].param_groups, options, strict=False)
            if "lr" in group and "lr" in kept
        )

    def wants(self, name: str, tree: dict[str, Any]) -> bool:
        """Tell whether part `name` can be restored now: an optimizer needs its modules' names."""
        if name not in self._optimizers:
            return True
        self._optimizer_parts = {}
        live = self._find_optimizer_parts()[name]._names
        saved = {each for group in tree["groups"] for each in group["parameters"]}
        return not any(each.startswith("unnamed.") and each not in saved for each in live)

    def restore_part(self, name: str, tree: dict[str, Any], read: TensorSource, *, parent_built: Any = None) -> None:
        """Restore one saved part into the object tracked as `name`. Raise `StateMismatch` if it does not fit.

        A branch hands over `parent_built`, what the parent's options were when they were made: what this script makes
        differently stays different, and everything else continues from the parent.
        """
        if name in self._modules:
            if tree.get("kind") != "module":
                raise _other_kind(name, tree, "a module")
            self._modules[name].restore(tree, read)
        elif name in self._optimizers:
            if tree.get("kind") != "optimizer":
                raise _other_kind(name, tree, "an optimizer")
            self._optimizer_parts = {}
            part = self._find_optimizer_parts()[name]
            if parent_built is None:
                part.restore(tree, read)
            else:
                self._restore_branched(name, part, tree, read, parent_built.get(name))
        else:
            if tree.get("kind") != "object":
                raise _other_kind(name, tree, "neither module nor optimizer")
            tracked, saved = self._objects[name], decode_tree(tree["state"], read)
            if isinstance(tracked, TrackedScheduler):
                before = saved.pop("class", None)
                if parent_built is None:
                    check_class(name, saved=before, live=tracked.class_name)
                elif before not in (None, tracked.class_name):
                    _log.info("The %s differs from the parent's %s, so it starts fresh.", name, before)
                    return
            if isinstance(tracked, TrackedScheduler) and parent_built is not None:
                saved = _merge_schedule(saved, self.built.of(name), parent_built.get(name), tracked.scheduler)
            tracked.load_state_dict(saved)

    def restore_weights(self, name: str, tree: dict[str, Any], read: TensorSource) -> None:
        """Load saved weights into the module tracked as `name`; frozen parameters stay frozen."""
        if name not in self._modules:
            raise _other_kind(name, tree, "no module")
        part = self._modules[name]
        training = [(module, module.training) for module in part.module.modules()]
        wanted = [(parameter, parameter.requires_grad) for parameter in part.module.parameters()]
        part.restore(tree, read)
        for module, flag in training:
            module.training = flag
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)

    def restore_small(self, name: str, tree: dict[str, Any], read: TensorSource) -> None:
        """Restore what may have changed between `track` and the checkpoint's place: all except the large tensors."""
        if name in self._optimizers:
            saved = {tuple(group["parameters"]): group["options"] for group in tree["groups"]}
            part = self._find_optimizer_parts()[name]
            start = 0
            for group in part.optimizer.param_groups:
                count = len(group["params"])
                options = saved.get(tuple(part._names[start : start + count]), {})
                start += count
                for key, value in decode_tree(options, read).items():
                    if isinstance(group.get(key), Tensor):
                        with torch.no_grad():
                            group[key].copy_(value)
                    else:
                        group[key] = value
        elif name in self._objects:
            self.restore_part(name, tree, read)

    def _restore_branched(
        self, name: str, part: OptimizerPart, tree: dict[str, Any], read: TensorSource, parent: Options | None
    ) -> None:
        made = self.built.of(name)
        if tree.get("class") != type(part.optimizer).__name__:
            _log.info("The %s differs from the parent's %s, so it starts fresh.", name, tree.get("class"))
            return
        if parent is None or len(parent) != len(made):
            part.restore(tree, read, keep_options=True)
            return
        part.restore(tree, read)
        for group, own, before in zip(part.optimizer.param_groups, made, parent, strict=True):
            _merge_options(group, own, before)

    def _read_scaler_versions(self) -> list[Any]:
        """Return versions that show, without waiting for a GPU, whether a scaler has changed."""
        found: list[Any] = []
        for scaler in self._scalers.values():
            for tensor in (scaler._scale, scaler._growth_tracker):
                found.append(None if tensor is None else (id(tensor), tensor._version))
        return found

    @contextlib.contextmanager
    def _swap_options(self) -> Iterator[None]:
        """Give the optimizers' groups the options of the last edge inside the block."""
        live: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for name, options in self._options.items():
            groups = self._optimizers[name].param_groups
            if len(groups) != len(options):
                continue  # a group was added: then the new options count
            for group, kept in zip(groups, options, strict=True):
                live.append((group, {key: group[key] for key in kept if key in group}))
                group.update(kept)
        try:
            yield
        finally:
            for group, values in live:
                group.update(values)


class EpochStart:
    """The generators at the start of the epoch's body; a resume repeats the start of the body with them."""

    def __init__(self) -> None:
        self._recorder = RngRecorder()
        self._state: RngState | None = None
        self._encoded: dict[str, Any] = {}

    def record(self) -> None:
        """Record the start of the body of an epoch."""
        self._state = self._recorder.capture()
        self._encoded = {}

    def put_back(self) -> None:
        """Restore the generators to that state."""
        if self._state is not None:
            restore_rng(self._state)

    def edge_state(self) -> dict[str, Any]:
        """Return the state: a dictionary that is replaced, never changed."""
        if not self._encoded and self._state is not None:
            tree, tensors = encode_rng(self._state)
            self._encoded = {"tree": tree, "tensors": tensors}
        return self._encoded

    state_dict = edge_state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state without moving any generator."""
        self._state = decode_rng(state["tree"], state["tensors"]) if state else None
        self._encoded = {}


class BuiltOptions:
    """The options with which optimizers and schedules were created: a branch compares them to see what changed."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def add(self, name: str, options: Any) -> None:
        """Remember the options with which `name` was created."""
        self._made = {**self._made, name: copy.deepcopy(options)}

    def of(self, name: str) -> Any:
        """Return the options with which `name` was created."""
        return self._made.get(name)

    def edge_state(self) -> dict[str, Any]:
        """Return the state: a dictionary that is replaced, never changed."""
        return self._made

    state_dict = edge_state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: what this process created counts."""


class TrackedScheduler:
    """A schedule that the script may step at any time; its state is copied only when it has changed."""

    def __init__(self, scheduler: LRScheduler) -> None:
        self.scheduler = scheduler
        self._key: Any = None
        self._kept: dict[str, Any] = {}

    @property
    def class_name(self) -> str:
        """The name of the schedule's class."""
        return type(self.scheduler).__name__

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule's state and its class."""
        return {**self.scheduler.state_dict(), "class": self.class_name}

    def edge_state(self) -> dict[str, Any]:
        """Return a copy of the state: a dictionary that is replaced, never changed."""
        scheduler = self.scheduler
        key = _read_progress(scheduler)
        if key != self._key or not self._kept:
            self._kept = {name: _copy_small(value) for name, value in self.state_dict().items()}
            self._key = key
        return self._kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state, which may name its class."""
        self.scheduler.load_state_dict({key: value for key, value in state.items() if key != "class"})
        self._kept = {}


class TrackedDict:
    """A dictionary that the script tracks: counters, the best value so far."""

    def __init__(self, values: dict[Any, Any]) -> None:
        self._values = values

    def state_dict(self) -> dict[Any, Any]:
        """Return the dictionary."""
        return self._values

    def load_state_dict(self, state: dict[Any, Any]) -> None:
        """Fill the script's own dictionary with the saved values."""
        self._values.clear()
        self._values.update(state)


def _read_progress(scheduler: Any) -> tuple[Any, ...]:
    """Return values that change whenever a PyTorch schedule is stepped."""
    own = scheduler.__dict__
    nested = own.get("_schedulers")
    inner = tuple(map(_read_progress, nested)) if nested else ()
    return (own.get("last_epoch"), own.get("_step_count"), own.get("T_cur"), inner)


def _copy_options(optimizer: Optimizer) -> Options:
    return [
        {
            key: value.detach().clone() if isinstance(value, Tensor) else value
            for key, value in group.items()
            if key != "params"
        }
        for group in optimizer.param_groups
    ]


def _copy_small(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list and _PLAIN.issuperset(map(type, value)):
        return value.copy()
    return copy.deepcopy(value)


def _merge_options(group: dict[str, Any], own: dict[str, Any], before: dict[str, Any]) -> None:
    """Apply a branch's changes to a restored group. A changed learning rate keeps its course."""
    for key, value in own.items():
        if key in ("lr", "initial_lr") or _same(before.get(key), value):
            continue
        group[key] = value
    base = "initial_lr" if "initial_lr" in own and "initial_lr" in before else "lr"
    if base not in before or _same(before[base], own[base]):
        return
    share = float(group["lr"]) / float(before[base]) if float(before[base]) else 1.0
    rate = own[base] * share
    if isinstance(group["lr"], Tensor):
        with torch.no_grad():
            group["lr"].fill_(float(rate))
    else:
        group["lr"] = rate
    if "initial_lr" in own:
        group["initial_lr"] = own["initial_lr"]


def _merge_schedule(saved: Any, own: Any, before: Any, scheduler: LRScheduler) -> Any:
    """Return the parent's schedule with the changes that this script makes."""
    if not (isinstance(saved, dict) and isinstance(own, dict) and isinstance(before, dict)):
        return saved
    merged = {key: saved[key] if _same(before.get(key), own.get(key)) else own.get(key, saved[key]) for key in saved}
    if "_last_lr" in merged:
        merged["_last_lr"] = [group["lr"] for group in scheduler.optimizer.param_groups]
    return merged


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        one, other = torch.as_tensor(one), torch.as_tensor(other)
        return one.shape == other.shape and bool((one.cpu() == other.cpu()).all())
    return bool(one == other)


def _other_kind(name: str, tree: Mapping[str, Any], now: str) -> StateMismatch:
    was = {"module": "a module", "optimizer": "an optimizer"}.get(str(tree.get("kind")), "something else")
    return StateMismatch(
        f"'{name}' is {now} now and was {was} when the checkpoint was saved: track each thing by the name that it had."
    )
