"""The training state of a script, exact even if the script changes learning rates or schedules between step edges."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from relight.errors import TaskError
from relight.training.script.branching import Branch, MadeOptions, Options, copy_options, list_changes, same
from relight.training.script.trackable import (
    TrackedAccelerator,
    TrackedOptimizer,
    TrackedScheduler,
    TrackedValues,
    adapt,
    find_accelerator,
    find_scaler,
    held_optimizers,
    unwrap,
)
from relight.training.state.optimizer_state import complete
from relight.training.state.rng import RngRecorder, RngState, decode_rng, encode_rng, restore_rng
from relight.training.state.state_errors import StateMismatch, check_class
from relight.training.state.state_tree import TensorSource, decode_tree
from relight.training.state.tracked_values import TrackedGenerator, TrackedTensor
from relight.training.state.training_state import CapturedState, TrainingState

POSITION = "loader"
"""Name of the part with the script's position; readers of checkpoints look for the data position there."""
EPOCH_START = "script:epoch"
BUILT = "script:built"
_OWN = (POSITION, EPOCH_START, BUILT)
_OURS = (TrackedScheduler, TrackedValues, TrackedGenerator, TrackedTensor)
_log = logging.getLogger("relight")


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
        self.built = MadeOptions()
        self._options: dict[str, Options] = {}
        self._scalers: dict[str, torch.amp.GradScaler] = {}
        self._scaler_versions: list[Any] = []
        self._edge_states = {POSITION: position, EPOCH_START: self.epoch_start, BUILT: self.built}
        self._objects.update(self._edge_states)
        self._unwatched: list[Optimizer] = []
        self._in_loops = False
        self._versions: list[int] = []
        self._restored_options: dict[str, Options] = {}

    @property
    def names(self) -> list[str]:
        """The names of the objects that the script tracks, in the order in which they can be restored."""
        return [name for name in (*self._modules, *self._optimizers, *self._objects) if name not in _OWN]

    @property
    def modules(self) -> list[nn.Module]:
        """The tracked modules."""
        return [part.module for part in self._modules.values()]

    def take_unwatched(self) -> list[Optimizer]:
        """Return the optimizers that were tracked since the last call; their steps change what is tracked."""
        optimizers, self._unwatched = self._unwatched, []
        return optimizers

    def add(self, name: str, thing: Any) -> list[str]:
        """Add `thing` as `TrainingState` does, or anything else that `adapt` accepts; return the names that it got."""
        if name in _OWN:
            raise TaskError(f"Relight uses the name '{name}' for its own state. Track the object under another name.")
        tracked = adapt(name, unwrap(thing))
        if isinstance(tracked, Optimizer):
            complete(tracked)
            if not _has_usual_state(name, tracked):
                tracked = TrackedOptimizer(tracked)
        self.track(name, tracked)
        if isinstance(tracked, Optimizer):
            self.built.add(name, copy_options(tracked))
        elif isinstance(tracked, TrackedScheduler):
            self._moving = [(moving, each) for moving, each in self._moving if moving != name]
            self._edge_states[name] = tracked
            self.built.add(name, tracked.state_dict())
        elif isinstance(tracked, torch.amp.GradScaler):
            self._scalers[name] = tracked
        elif isinstance(tracked, nn.Module) and (frozen := self._modules[name].built_frozen):
            self.built.add(name, frozen)
        return [name, *self._track_held(name, thing, tracked)]

    def _track_held(self, name: str, thing: Any, tracked: Any) -> Iterator[str]:
        """Track what belongs to `thing` and has a state of its own; yield the names."""
        held = held_optimizers(tracked)
        self._unwatched += [*([tracked] if isinstance(tracked, Optimizer) else []), *held.values()]
        if isinstance(tracked, Optimizer) and type(tracked).state_dict is Optimizer.state_dict:
            for attribute, inner in held.items():  # SAM's own state_dict leaves it out
                yield from self.add(f"{name}_{attribute.strip('_')}", inner)
        scaler = find_scaler(thing)
        if scaler is not None and scaler not in self._scalers.values():
            yield from self.add(f"{name}_scaler", scaler)
        accelerator = find_accelerator(thing)
        known = [each.accelerator for each in self._objects.values() if isinstance(each, TrackedAccelerator)]
        if accelerator is not None and accelerator not in known:
            yield from self.add(f"{name}_accelerator", accelerator)

    def record_edge(self, counters: Mapping[str, Any], *, frozen: bool = False) -> None:
        """Keep the small state of this step edge."""
        epoch_start = self.epoch_start
        begins = epoch_start.begins
        super().record_edge(counters, frozen=frozen or begins)
        record = self._record
        assert record is not None
        if self.accumulating:
            self._watch_strangers()
        elif self._versions:
            self._versions = []
        options = self._options = {}
        for name, part in self._optimizers.items():
            options[name] = copy_options(part.optimizer)
        if begins:
            self.note_loops(None)
            epoch_start.note_options(options)
        elif epoch_start.waits:
            epoch_start.note_head({name: each for name, each in options.items() if not self._schedules_of(name)})
        for name, tracked in self._edge_states.items():
            record.objects[name] = tracked.edge_state()
        if self._scalers:
            self._scaler_versions = self._read_scaler_versions()
        self.edges += 1

    def capture(self, *, at_edge: bool) -> CapturedState | None:
        """Return the state of the last recorded edge, as `TrainingState` does."""
        if not at_edge and self._scalers and self._scaler_versions != self._read_scaler_versions():
            return None
        groups = {name: self._optimizers[name].optimizer.param_groups for name in self._options}
        if not at_edge and any(len(groups[name]) < len(options) for name, options in self._options.items()):
            return None  # a group was removed, and with it the state of its parameters
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
            for group, kept in zip(self._optimizers[name].optimizer.param_groups, options, strict=False)
            if "lr" in group and "lr" in kept
        )

    def note_loops(self, branch: Branch | None) -> None:
        """Note that the first loop begins, and which options the script has set since `run.track`."""
        if self._in_loops:
            return
        self._in_loops = True
        for name, part in self._optimizers.items():
            before, now = self._restored_options.get(name, self.built.of(name)), copy_options(part.optimizer)
            parent = [] if branch is None else branch.parent.set_of(name)
            known = [*parent, *[{}] * (len(now) - len(parent))]
            self.built.note_set(
                name,
                [
                    {key: value for key, value in new.items() if key in also or not same(value, old.get(key, value))}
                    for old, new, also in zip(before, now, known, strict=False)
                ],
            )

    def put_back_epoch_start(self, branch: Branch | None) -> None:
        """Put the generators back to the start of the body; in a branch also the rates and other options."""
        self.epoch_start.put_back()
        if branch is not None:
            for name, options in self.epoch_start.options_before.items():
                if name in self._optimizers:
                    branch.start_body(
                        self._optimizers[name].optimizer, options, made=self.built.in_loops(name), name=name
                    )

    def wants(self, name: str, tree: dict[str, Any]) -> bool:
        """Tell whether part `name` can be restored now: an optimizer needs its modules' names and all its groups."""
        if name not in self._optimizers:
            return True
        self._bind_optimizers()
        return tree.get("kind") != "optimizer" or self._optimizers[name].fits(tree)

    def restore_part(self, name: str, tree: dict[str, Any], read: TensorSource, *, branch: Branch | None) -> None:
        """Restore one saved part into the object tracked as `name`. Raise `StateMismatch` if it does not fit.

        In a `branch`, what this script makes differently from the parent stays different; everything else continues.
        """
        if name in self._modules:
            if tree.get("kind") != "module":
                raise _other_kind(name, tree, "a module")
            part = self._modules[name]
            part.restore(tree, read)
            if branch is not None:
                part.freeze_differently(before=set(branch.parent.of(name) or ()))
            part.mark_restored()
        elif name in self._optimizers:
            if tree.get("kind") != "optimizer":
                raise _other_kind(name, tree, "an optimizer")
            self._bind_optimizers()
            optimizer = self._optimizers[name]
            if branch is None:
                optimizer.restore(tree, read)
            else:
                branch.restore_optimizer(optimizer, tree, read, made=self.built.of(name))
            optimizer.mark_restored()
            self._restored_options[name] = copy_options(optimizer.optimizer)
        else:
            if tree.get("kind") != "object":
                raise _other_kind(name, tree, "neither module nor optimizer")
            self._restore_object(name, decode_tree(tree["state"], read), branch)

    def _restore_object(self, name: str, saved: Any, branch: Branch | None) -> None:
        tracked = self._objects[name]
        if isinstance(tracked, TrackedScheduler):
            if branch is None:
                check_class(name, saved=saved.get("class"), live=tracked.class_name)
            else:
                self._restore_schedule(name, tracked, saved, branch)
                return
        if isinstance(tracked, torch.amp.GradScaler) and bool(saved) != tracked.is_enabled():
            now, before = ("enabled", "disabled") if tracked.is_enabled() else ("disabled", "enabled")
            if branch is None:
                raise StateMismatch(
                    f"The gradient scaler '{name}' is {now} now, but was {before} when the checkpoint was saved. Use "
                    "the code and config that saved it, or branch from the checkpoint."
                )
            _log.info("The gradient scaler '%s' is %s now and starts fresh; the parent's was %s.", name, now, before)
            return
        tracked.load_state_dict(saved)

    def _restore_schedule(self, name: str, tracked: TrackedScheduler, saved: Any, branch: Branch) -> None:
        owner = next((o for o, part in self._optimizers.items() if part.optimizer is tracked.optimizer), None)
        late = owner in self._restored_options and any("initial_lr" not in each for each in self.built.of(owner))
        alone = owner is None or len(self._schedules_of(owner)) == 1
        made = self.built.of(name)
        branch.restore_schedule(name, tracked, saved, made=made, optimizer=owner, late=late, alone=alone)

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

    def restore_again(
        self, parts: Mapping[str, Any], read: TensorSource, *, branch: Branch | None, again: bool
    ) -> None:
        """At the checkpoint's place, undo what the script has changed since `track`: parts that were restored before.

        `again` means that part of a body ran again. Objects of the script's own classes are loaded again only then.
        """
        for name in (name for name in self.names if name in parts):
            if name in self._modules:
                module = self._modules[name]
                if branch is None:
                    module.restore_again(parts[name], read)
                elif module.has_changed:
                    _log.warning(
                        "The script changed the weights of '%s' after run.track() had restored them. The branch "
                        "continues with the changed weights.", name,
                    )  # fmt: skip
            elif name in self._optimizers:
                self._bind_optimizers()
                optimizer = self._optimizers[name]
                if branch is None:
                    optimizer.restore_again(parts[name], read)
                else:
                    branch.restore_optimizer_again(
                        optimizer, parts[name], read, made=self.built.in_loops(name),
                        head=self.epoch_start.head.get(name) if again else None,
                        before=self._restored_options.get(name),
                        scheduled=bool(self._schedules_of(name)),
                    )  # fmt: skip
            elif again or isinstance(self._objects[name], _OURS):
                self._restore_object(name, decode_tree(parts[name]["state"], read), branch)
        if branch is not None:
            for name, tracked in self._objects.items():
                if isinstance(tracked, TrackedScheduler) and name not in parts:
                    self._restore_schedule(name, tracked, None, branch)

    def warn_of_zero_rates(self) -> None:
        """Warn at the beginning of a branch if an optimizer would not change anything."""
        for name, part in self._optimizers.items():
            if all("lr" in group and float(group["lr"]) == 0 for group in part.optimizer.param_groups):
                _log.warning(
                    "The learning rate of '%s' is 0 at this step, as in the parent. If the branch is to train on, "
                    "change the schedule or branch from an earlier checkpoint.", name,
                )  # fmt: skip

    def warn_of_changes(self, before: MadeOptions) -> None:
        """Warn if a resumed script makes its optimizers or schedules with other settings than `before`."""
        for name in self.names:
            changes = list_changes(self.built.of(name), before.of(name))
            if changes:
                _log.warning(
                    "The script makes '%s' with other settings now: %s. A resume continues with the saved ones. To "
                    "train with the new ones, branch from the checkpoint.", name, "; ".join(changes),
                )  # fmt: skip

    def _watch_strangers(self) -> None:
        """Warn if weights change in steps that no tracked optimizer takes. Called at edges between two updates."""
        before, self._versions = self._versions, [part.version for part in self._optimizers.values()]
        if "strangers" in self._warned or len(before) != len(self._versions) or before == self._versions:
            return
        self._warned.add("strangers")
        _log.warning(
            "Tensors of a tracked optimizer changed in a step that it did not take. If another optimizer trains them "
            "now, its state is not saved. Make all optimizers before the loops, and track them."
        )

    def _schedules_of(self, optimizer: str) -> list[TrackedScheduler]:
        owner = self._optimizers[optimizer].optimizer
        tracked = [each for each in self._objects.values() if isinstance(each, TrackedScheduler)]
        return [each for each in tracked if each.optimizer is owner]

    def _read_scaler_versions(self) -> list[Any]:
        """Return versions that show, without waiting for a GPU, whether a scaler has changed."""
        found: list[Any] = []
        for scaler in self._scalers.values():
            for attribute in ("_scale", "_growth_tracker"):  # a disabled scaler has neither
                tensor = getattr(scaler, attribute, None)
                found.append(None if tensor is None else (id(tensor), tensor._version))
        return found

    @contextlib.contextmanager
    def _swap_options(self) -> Iterator[None]:
        """Give the optimizers the groups and options of the last edge inside the block."""
        live: list[tuple[dict[str, Any], dict[str, Any]]] = []
        added: list[tuple[list[Any], list[Any]]] = []
        for name, options in self._options.items():
            groups = self._optimizers[name].optimizer.param_groups
            if len(groups) < len(options):
                continue  # a group was removed at this edge: then the new options count
            added.append((groups, groups[len(options) :]))
            del groups[len(options) :]
            for group, kept in zip(groups, options, strict=True):
                live.append((group, {key: group[key] for key in kept if key in group}))
                group.update(kept)
        try:
            yield
        finally:
            for group, values in live:
                group.update(values)
            for groups, more in added:
                groups.extend(more)


class EpochStart:
    """The start of the epoch's body: a resume repeats it with the generators, a branch also with the options, of then.

    "Head" is what the body does before its first step: it may set rates or options.
    """

    def __init__(self) -> None:
        self.begins = False
        """Whether the next edge is the start of a body."""
        self.waits = False
        """Whether the next edge is the first in its body."""
        self.options_before: dict[str, Options] = {}
        """For each optimizer whose options the head changes: what they were before it."""
        self.head: dict[str, Options] = {}
        """What they were after it."""
        self._recorder = RngRecorder()
        self._state: RngState | None = None
        self._encoded: dict[str, Any] = {}
        self._options: dict[str, Options] = {}
        self._is_over = False

    def record(self, *, is_over: bool = False) -> None:
        """Record the start of the body of an epoch; `is_over`: only a longer training has that epoch."""
        self._is_over = is_over
        self._state = self._recorder.capture()
        self._encoded = {}
        self.begins = True

    def note_options(self, options: dict[str, Options]) -> None:
        """Keep the optimizers' options at the start of the body."""
        self._options = options
        self.options_before, self.head = {}, {}
        self.begins, self.waits = False, True
        self._encoded = {}

    def note_head(self, options: dict[str, Options]) -> None:
        """Keep the options that have changed until the first step of the body."""
        self.waits = False
        self._encoded = {}
        before = self._options
        changed = [name for name, each in options.items() if name in before and not same(before[name], each)]
        self.options_before = {name: before[name] for name in changed}
        self.head = {name: options[name] for name in changed}

    def put_back(self) -> None:
        """Restore the generators to that state."""
        if self._state is not None:
            restore_rng(self._state)

    def edge_state(self) -> dict[str, Any]:
        """Return the state: a dictionary that is replaced, never changed."""
        if not self._encoded and self._state is not None:
            tree, tensors = encode_rng(self._state)
            self._encoded = {"tree": tree, "tensors": tensors}
            if self.head:
                self._encoded["head"] = {"before": self.options_before, "after": self.head}
            if self.waits and not self._is_over:
                self._encoded["begins"] = True
        return self._encoded

    state_dict = edge_state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state without moving any generator."""
        self._state = decode_rng(state["tree"], state["tensors"]) if state else None
        head = state.get("head", {})
        self.options_before, self.head = head.get("before", {}), head.get("after", {})
        self.begins = bool(state.get("begins"))  # the edge of this state is the start of a body
        self._encoded = {}


def _has_usual_state(name: str, optimizer: Optimizer) -> bool:
    """Tell whether an optimizer's `state_dict` has the two entries that PyTorch's own have."""
    try:
        return {"state", "param_groups"} <= optimizer.state_dict().keys()
    except (AttributeError, KeyError, TypeError, NotImplementedError) as error:
        raise TaskError(
            f"The state of '{name}' cannot be saved: the state_dict of {type(optimizer).__name__} raised "
            f"{type(error).__name__}: {error}. Track the optimizer that it wraps, or give it a state_dict that works."
        ) from None


def _other_kind(name: str, tree: Mapping[str, Any], now: str) -> StateMismatch:
    was = {"module": "a module", "optimizer": "an optimizer"}.get(str(tree.get("kind")), "something else")
    return StateMismatch(
        f"'{name}' is {now} now and was {was} when the checkpoint was saved: track each thing by the name that it had."
    )
