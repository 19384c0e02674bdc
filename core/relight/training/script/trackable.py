"""What `run.track` accepts: containers are expanded, wrappers removed, and everything else is adapted or refused."""

from __future__ import annotations

import copy
import gc
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Collection, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from relight.errors import TaskError
from relight.training.state.optimizer_state import split_state
from relight.training.state.own_generators import is_generator
from relight.training.state.state_errors import StateMismatch
from relight.training.state.state_tree import describe_form

_PLAIN: frozenset[type] = frozenset((int, float, str, bool, type(None)))
_NAMED_AT_MOST = 4


class TrackedScheduler:
    """A schedule that the script may step at any time; its state is copied only when it has changed."""

    def __init__(self, scheduler: LRScheduler) -> None:
        self.scheduler = scheduler
        self.optimizer: Any = unwrap(scheduler.optimizer)
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


class TrackedValues:
    """A container of plain values and tensors that the script tracks: counters, the best value so far, a history.

    The script's own containers and tensors take over the saved values, also nested ones, because other variables of the
    script may refer to them.
    """

    def __init__(self, name: str, values: Any, *, without: Collection[Any] = ()) -> None:
        """Track `values`; in a dictionary leave out the keys `without`, whose objects are tracked on their own."""
        self._name = name
        self._values = values
        self._without = without

    def state_dict(self) -> dict[Any, Any]:
        """Return the values: those of a dictionary, anything else below one key."""
        values = self._values
        if self._without:
            return {key: value for key, value in values.items() if key not in self._without}
        if isinstance(values, dict):
            return values if type(values) is dict else dict(values)
        return {"values": values}

    def load_state_dict(self, state: dict[Any, Any]) -> None:
        """Fill the script's own container. Raise `StateMismatch` if another kind of container was saved."""
        live = self._values
        saved: Any = state if isinstance(live, dict) else state.get("values")
        if not isinstance(live, dict) and type(saved) is not type(live):
            raise _misfit(self._name, type(live).__name__, type(saved).__name__)
        if isinstance(live, np.ndarray) and (live.shape, live.dtype) != (saved.shape, saved.dtype):
            raise _misfit(self._name, f"{live.dtype} {list(live.shape)}", f"{saved.dtype} {list(saved.shape)}")
        if self._without:
            saved = {**saved, **{key: value for key, value in live.items() if key in self._without}}
        _fill(live, saved)


class TrackedOptimizer:
    """An optimizer whose `state_dict` has a form of its own, such as Lookahead's: saved and loaded as it is."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state. Raise `StateMismatch` if its tensors then have other types, as PyTorch may cast them."""
        saved = [describe_form(tensor) for tensor in split_state(state)[0]]
        self.optimizer.load_state_dict(state)
        if [describe_form(tensor) for tensor in split_state(self.optimizer.state_dict())[0]] != saved:
            raise StateMismatch(
                f"The load_state_dict of {type(self.optimizer).__name__} changes the types or shapes of the saved "
                "tensors, so a resume would not be exact. Make it keep them."
            )


class TrackedAccelerator:
    """An `Accelerator` of Hugging Face: how many batches of an accumulation it has seen."""

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the accumulation."""
        accelerator = self.accelerator
        return {"step": accelerator.step, "sync_gradients": accelerator.gradient_state.sync_gradients}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the accelerator to a saved position in the accumulation."""
        self.accelerator.step = state["step"]
        self.accelerator.gradient_state.sync_gradients = state["sync_gradients"]


def expand(name: str, thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield `thing` by its name or, for a list or dictionary of objects with a state, each of them by its own."""
    if isinstance(thing, dict) and any(map(_has_own_state, thing.values())):
        objects = {key: inner for key, inner in thing.items() if _has_own_state(inner)}
        for key, inner in objects.items():
            yield from expand(f"{name}_{key}", inner)
        if len(objects) < len(thing):
            yield name, TrackedValues(name, thing, without=objects.keys())
    elif isinstance(thing, (list, tuple)) and any(map(_has_own_state, thing)):
        for place, inner in enumerate(thing):
            yield from expand(f"{name}_{place}", inner)
    elif thing is not None:
        yield name, thing


def unwrap(thing: Any) -> Any:
    """Return the optimizer or schedule inside a wrapper that has no state of its own, as Accelerate prepares them."""
    if isinstance(thing, (nn.Module, LRScheduler)):
        return thing
    for inner in getattr(thing, "__dict__", {}).values():
        if isinstance(inner, (Optimizer, LRScheduler)) and _adds_nothing(thing, inner):
            return unwrap(inner)
    return thing


def find_accelerator(prepared: Any) -> Any:
    """Return the `Accelerator` that prepared this object; None if nothing did.

    What it prepares does not refer to it, but scripts rarely hand it to `run.track`, and without its position in an
    accumulation a resume would update at other batches.
    """
    if not type(prepared).__module__.startswith("accelerate."):
        return None
    return next(
        (
            each
            for each in gc.get_objects()
            if type(each).__name__ == "Accelerator"
            and _is_accelerator(each)
            and any(one is prepared for one in (*each._optimizers, *each._schedulers))
        ),
        None,
    )


def adapt(name: str, thing: Any) -> Any:
    """Return what saves and restores `thing`. Raise `TaskError` if nothing can, with what to track instead."""
    if isinstance(thing, type):
        raise TaskError(f"'{name}' is the class {thing.__name__}. Track an object of it.")
    if isinstance(thing, (nn.Module, Optimizer)) or is_generator(thing):
        return thing
    if isinstance(thing, LRScheduler):
        return TrackedScheduler(thing)
    if isinstance(thing, Tensor):
        if not thing.is_leaf:
            raise TaskError(
                f"'{name}' is a tensor that was computed from others, so it cannot be restored in place. Track the "
                "tensors that it was computed from, or its detach()."
            )
        return thing
    if isinstance(thing, DataLoader):
        raise TaskError(f"'{name}' is a DataLoader. Relight tracks its own: use {name} = run.loader({name}).")
    if hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict"):
        return thing
    if _is_accelerator(thing):
        return TrackedAccelerator(thing)
    if isinstance(thing, (dict, list, deque, set, np.ndarray)):
        return TrackedValues(name, thing)
    if isinstance(thing, (Namespace, SimpleNamespace)):
        return TrackedValues(name, vars(thing))
    raise TaskError(_word_refusal(name, thing))


def held_optimizers(thing: Any) -> dict[str, Optimizer]:
    """Return the optimizers that `thing` keeps in its attributes, by attribute: what SAM and Lookahead step."""
    if isinstance(thing, (nn.Module, LRScheduler)):
        return {}
    own = getattr(thing, "__dict__", {})
    return {attribute: each for attribute, each in own.items() if isinstance(each, Optimizer)}


def find_scaler(prepared: Any) -> torch.amp.GradScaler | None:
    """Return the enabled gradient scaler that a wrapper of an optimizer steps it with, as Accelerate's does."""
    scaler = getattr(prepared, "__dict__", {}).get("scaler") if isinstance(prepared, Optimizer) else None
    return scaler if isinstance(scaler, torch.amp.GradScaler) and scaler.is_enabled() else None


def _has_own_state(thing: Any) -> bool:
    """Tell whether an item of a container is an object to track, not a value."""
    if isinstance(thing, (list, tuple)):
        return any(map(_has_own_state, thing))
    if isinstance(thing, dict):
        return any(map(_has_own_state, thing.values()))
    trained = isinstance(thing, Tensor) and thing.is_leaf and thing.requires_grad
    return trained or isinstance(thing, (nn.Module, Optimizer)) or is_generator(thing) or _has_state(thing)


def _has_state(thing: Any) -> bool:
    return hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict") and not isinstance(thing, type)


def _adds_nothing(wrapper: Any, inner: Any) -> bool:
    """Tell whether a wrapper's state is that of the object inside it."""
    if not _has_state(wrapper):
        return False
    try:
        outer, own = wrapper.state_dict(), inner.state_dict()
    except AttributeError:  # a wrapper that never called the constructor of Optimizer, and has no state_dict of its own
        return False
    if outer.keys() != own.keys():
        return False
    shared = ("param_groups", "state") if isinstance(inner, Optimizer) else ()
    return all(getattr(wrapper, each, None) is getattr(inner, each) for each in shared)


def _is_accelerator(thing: Any) -> bool:
    own = getattr(thing, "__dict__", {})
    return "step" in own and {"_optimizers", "_schedulers", "gradient_state"} <= own.keys()


def _fill(live: Any, saved: Any) -> None:
    """Put the saved values into a live container, in place."""
    if isinstance(live, dict):
        merged = {key: _take_over(live.get(key), value) for key, value in saved.items()}
        live.clear()
        live.update(merged)
    elif isinstance(live, list):
        kept = [*live, *[None] * max(0, len(saved) - len(live))]
        live[:] = [_take_over(one, other) for one, other in zip(kept, saved, strict=False)]
    elif isinstance(live, np.ndarray):
        live[...] = saved
    else:  # a set or a deque
        live.clear()
        live.update(saved) if isinstance(live, set) else live.extend(saved)


def _take_over(live: Any, saved: Any) -> Any:
    """Return `saved`, in the live object if that is a container or tensor of the same form."""
    if isinstance(live, Tensor) and isinstance(saved, Tensor):
        if live.is_leaf and describe_form(live) == describe_form(saved):
            with torch.no_grad():
                return live.copy_(saved)
        return saved.to(live.device)
    if isinstance(live, (dict, list)) and type(live) is type(saved):
        _fill(live, saved)
        return live
    arrays = isinstance(live, np.ndarray) and isinstance(saved, np.ndarray) and live.flags.writeable
    if arrays and (live.shape, live.dtype) == (saved.shape, saved.dtype):
        live[...] = saved
        return live
    return saved


def _misfit(name: str, now: str, saved: str) -> StateMismatch:
    return StateMismatch(
        f"The checkpoint does not fit '{name}': it is {now} now, but was {saved} when it was saved. Resume with the "
        "code that saved it."
    )


def _word_refusal(name: str, thing: Any) -> str:
    """Say why `thing` cannot be tracked, and what to track instead."""
    kind = type(thing).__name__
    if isinstance(thing, (*_PLAIN, bytes, tuple, frozenset, np.generic, torch.dtype, torch.device)):
        return (
            f"'{name}' is a {kind}, which a resume cannot change in place. Keep it in a dictionary and track that: "
            f'values = {{"{name}": …}}; run.track(values=values).'
        )
    if isinstance(thing, Iterator):
        return (
            f"'{name}' is an iterator ({kind}), whose position cannot be saved. Keep the position in a dictionary and "
            "track that; for batches, use run.loader()."
        )
    if isinstance(thing, Callable) and not hasattr(thing, "__dict__"):  # type: ignore[arg-type]
        return f"'{name}' is a {kind}, which has no state. Do not track it."
    lacks = [each for each in ("state_dict", "load_state_dict") if not hasattr(thing, each)]
    held = ", ".join(_list_held(name, thing)[:_NAMED_AT_MOST])
    if held:
        return (
            f"'{name}' is a {kind} without {' and '.join(lacks)}. Track what it holds instead: run.track({held}). If "
            "more of it changes during the training, give the class both methods."
        )
    return (
        f"'{name}' is a {kind}, which has no {' and '.join(lacks)}. Give it both, or do not track it. "
        f"If its attributes are plain values, run.track({name}=vars({name})) keeps them."
    )


def _list_held(name: str, thing: Any) -> list[str]:
    """List what the object holds that can be tracked, as arguments of `run.track`."""
    found = []
    for attribute in (*getattr(thing, "__dict__", {}), "np_random"):
        try:
            value = getattr(thing, attribute, None)
        except Exception:  # a property of somebody else's class
            continue
        if is_generator(value) or isinstance(value, (nn.Module, Optimizer, LRScheduler)):
            found.append(f"{name}_{attribute.strip('_')}={name}.{attribute}")
    return list(dict.fromkeys(found))


def _read_progress(scheduler: Any) -> tuple[Any, ...]:
    """Return values that change whenever a PyTorch schedule is stepped."""
    own = scheduler.__dict__
    nested = own.get("_schedulers")
    inner = tuple(map(_read_progress, nested)) if nested else ()
    return (own.get("last_epoch"), own.get("_step_count"), own.get("T_cur"), inner)


def _copy_small(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list and _PLAIN.issuperset(map(type, value)):
        return value.copy()
    return copy.deepcopy(value)
