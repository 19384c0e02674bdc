"""The whole training state: tracked objects, generators and counters, captured at step edges and restored."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.lr_scheduler import LRScheduler

from relight.checkpoints.snapshot_header import Slice
from relight.errors import TaskError
from relight.training.state.edge_copy import MovedSince, copy_state, open_copy
from relight.training.state.module_state import ModulePart
from relight.training.state.optimizer_state import OptimizerPart
from relight.training.state.rng import RngRecorder, RngState, decode_rng, encode_rng, restore_rng
from relight.training.state.shards import is_sharded, refuse_sharded, split_tensors
from relight.training.state.state_errors import check_names
from relight.training.state.state_tree import StateCollector, TensorSource, decode_tree
from relight.training.state.tracked_values import TrackedTensor, adapt_value
from relight.training.state.weights_watch import WeightsWatch, digest_tensor

_log = logging.getLogger("relight")
FORMAT = 1
MODEL = "model"
_MOVE_IN_UPDATE = (LRScheduler, torch.amp.GradScaler)


@dataclass(frozen=True)
class CapturedState:
    """The training state at one step edge: a tree with tensor references, and the tensors by name, not copied."""

    tree: dict[str, Any]
    tensors: dict[str, Tensor]
    """What this rank has of them, if they are split over several."""
    slices: dict[str, Slice] = field(default_factory=dict)
    """Which of `tensors` are parts, and of what."""


class _EdgeRecord(msgspec.Struct):
    """The small state of the last step edge; each module keeps its own part of it."""

    rng: RngState
    counters: Mapping[str, Any]
    objects: dict[str, Any]


class TrainingState:
    """Everything that is tracked, by name.

    At each step edge `record_edge` keeps the small state that the next step will change: generators, buffers, data
    position, counters. Until the next optimizer step the large state on the device is still that of the edge, so
    `capture` returns an exact state even in the middle of a step.
    """

    def __init__(self) -> None:
        self._modules: dict[str, ModulePart] = {}
        self._optimizers: dict[str, OptimizerPart] = {}
        self._objects: dict[str, Any] = {}
        self._moving: list[tuple[str, Any]] = []
        self._tensors: dict[str, Tensor] = {}
        self.accumulating = False
        """Whether the last edge is between two updates, so that the gradients gathered so far belong to the state."""
        self._rng = RngRecorder()
        self._record: _EdgeRecord | None = None
        self._watch: WeightsWatch | None = None
        self._watch_anew = False
        self.optimizers: list[torch.optim.Optimizer] = []
        """The tracked optimizers."""
        self.generators: RngState
        """The state of the global generators at the last edge."""
        self.weights_sample = b""
        """A sample of the weights at the last edge; empty if they cannot be read, as on a GPU."""
        self._warned: set[str] = set()

    def track(self, name: str, tracked: Any) -> None:
        """Add a module, an optimizer, a generator, a tensor, or anything with `state_dict` and `load_state_dict`."""
        self._watch_anew = True
        if name in self._modules or name in self._optimizers or name in self._objects:
            raise TaskError(f"Something is already tracked as '{name}'. Give each object its own name.")
        if "." in name or ":" in name:
            raise TaskError(f"'{name}' cannot be a tracked name. Use a name without '.' and ':'.")
        if isinstance(tracked, nn.Module):
            split_tensors({own: one for own, one in tracked.named_parameters() if is_sharded(one)})  # or refuse it now
            self._modules[name] = ModulePart(name, tracked)
        elif isinstance(tracked, torch.optim.Optimizer):
            self._optimizers[name] = OptimizerPart(name, tracked)
            self.optimizers.append(tracked)
        elif hasattr(tracked, "state_dict") and hasattr(tracked, "load_state_dict"):
            self._objects[name] = tracked
            if not isinstance(tracked, _MOVE_IN_UPDATE):
                self._moving.append((name, tracked))
        elif (adapted := adapt_value(name, tracked)) is not None:
            self._objects[name] = adapted
            if isinstance(adapted, TrackedTensor):
                self._tensors[name] = tracked
            if not (isinstance(adapted, TrackedTensor) and tracked.requires_grad):  # a trained one moves in the update
                self._moving.append((name, adapted))
        else:
            raise TaskError(
                f"'{name}' is a {type(tracked).__name__}, which has no state_dict and load_state_dict. "
                "Give it both, or do not track it."
            )

    def record_edge(self, counters: Mapping[str, Any], *, frozen: bool = False) -> None:
        """Keep the small state of this step edge. The caller must not change `counters` later.

        `frozen` also keeps which parameters are frozen, for an edge after which a script may change that.
        """
        for part in self._modules.values():
            part.reshard()
            part.record_edge(frozen=frozen)
        self.watch_weights()
        self.generators = self._rng.capture()
        objects: dict[str, Any] = {}
        for name, tracked in self._moving:
            objects[name] = copy_state(tracked.state_dict())
        self._record = _EdgeRecord(self.generators, counters, objects)

    def watch_weights(self) -> None:
        """Remember the weights as those of the last edge."""
        if self._watch is None or self._watch_anew or not self._watch.is_whole:
            weights = self._find_weights()
            self._watch, self._watch_anew = WeightsWatch(weights, late=self._find_late(weights)), False
        self.weights_sample = self._watch.record()

    def digest_weights(self) -> dict[str, int]:
        """Return a digest of every weight by name. Reads all of them once; on a GPU there."""
        return {name: digest_tensor(tensor) for name, tensor in self._find_weights().items() if not is_lazy(tensor)}

    def find_moved_weights(self) -> list[str]:
        """Return the names of the weights that have changed since the last edge, as far as that can be seen."""
        assert self._watch is not None, "no step edge was recorded"
        weights = self._find_weights()
        replaced = self._watch.find_replaced(weights)
        if replaced or not self._watch.has_all(weights):
            self._watch_anew = True
        return [*replaced, *(name for name in self._watch.find_moved() if name not in replaced)]

    def _find_late(self, weights: Mapping[str, Tensor]) -> set[str]:
        """Return the names of weights that a script may begin to train later: in another attempt, perhaps, earlier."""
        found = {
            name if part.name == MODEL else f"{part.name}.{name}"
            for part in self._modules.values()
            for name in part.built_frozen
        }
        built = {id(tensor) for part in self._modules.values() for _, tensor in part.named_parameters()}
        built.update(id(tensor) for part in self._optimizers.values() for tensor in part.built)
        return found | {name for name, tensor in weights.items() if id(tensor) not in built}

    def _find_weights(self) -> dict[str, Tensor]:
        """Return everything that is trained, by name: parameters of modules, and other tensors of the optimizers."""
        weights: dict[str, Tensor] = {}
        seen: set[int] = set()
        for name, part in self._modules.items():
            part.reshard()
            prefix = "" if name == MODEL else f"{name}."
            for own, parameter in part.named_parameters():
                weights[prefix + own] = parameter
                seen.add(id(parameter))
        tracked = {id(tensor): name for name, tensor in self._tensors.items()}
        for name, optimizer in self._optimizers.items():
            for group in optimizer.optimizer.param_groups:
                for tensor in group["params"]:
                    if id(tensor) not in seen:
                        seen.add(id(tensor))
                        weights[tracked.get(id(tensor), f"{name}.{len(seen)}")] = tensor
        return weights

    @property
    def bound_to_edge(self) -> bool:
        """Whether the state is exact only at the edge itself, because the next backward pass adds to gradients."""
        return self.accumulating and bool(self._modules)

    def capture(self, *, at_edge: bool) -> CapturedState | None:
        """Return the state of the last recorded edge, valid until an optimizer moves. Tensors are not copied.

        `at_edge` means that nothing at all has happened since. Return None when the state is no longer exact: the
        weights have moved, gradients have been added, or some of them are between the ranks.
        """
        record = self._record
        assert record is not None, "no step edge was recorded"
        if not at_edge and (self.bound_to_edge or self.find_moved_weights()):
            return None
        if self.accumulating and any(module.is_half_reduced for module in self._modules.values()):
            self._warn_of_half_reduced()
            return None
        collector = StateCollector()
        parts: dict[str, Any] = {}
        for name, module in self._modules.items():
            module.reshard()
            tree = module.capture(collector, at_edge=at_edge, gradients=self.accumulating)
            if tree is None:
                return None
            parts[name] = tree
        self._bind_optimizers()
        self._warn_of_unnamed()
        for name, optimizer in self._optimizers.items():
            parts[name] = optimizer.capture(collector, gradients=self.accumulating)
        for name, tracked in self._objects.items():
            try:
                state = open_copy(record.objects[name]) if name in record.objects else tracked.state_dict()
            except MovedSince:
                if not at_edge:
                    return None
                state = tracked.state_dict()
            parts[name] = {"kind": "object", "state": collector.encode(name, refuse_sharded(name, state))}
        rng, tensors = encode_rng(record.rng)
        rng["tensors"] = {name: collector.add(f"rng.{name}", tensor) for name, tensor in tensors.items()}
        tree = {"format": FORMAT, "parts": parts, "rng": rng, "counters": dict(record.counters)}
        return CapturedState(tree, *split_tensors(collector.tensors))

    def restore(self, tree: dict[str, Any], read: TensorSource, *, branch: bool = False) -> dict[str, Any]:
        """Put a saved tree into everything tracked except the generators; return the counters.

        Raise `StateMismatch` with lists of what does not fit. For a `branch`, the live config's rates and decay stay,
        and an optimizer whose class differs from the parent's starts fresh.
        """
        parts = tree["parts"]
        live = [*self._modules, *self._optimizers, *self._objects]
        if not branch:
            check_names("tracked objects", saved=parts, live=live)
        for name, module in self._modules.items():
            module.restore(parts[name], read)
        self._bind_optimizers()
        for name, optimizer in self._optimizers.items():
            if name not in parts:
                continue
            if branch and parts[name]["class"] != type(optimizer.optimizer).__name__:
                _log.info("The %s differs from the parent's %s, so it starts fresh.", name, parts[name]["class"])
                continue
            optimizer.restore(parts[name], read, keep_options=branch)
        for name, tracked in self._objects.items():
            if name in parts:
                load = getattr(tracked, "load_branch_state", None) if branch else None
                (load or tracked.load_state_dict)(decode_tree(parts[name]["state"], read))
        self.accumulating = any("gradients" in part or "unreduced" in part for part in parts.values())
        counters: dict[str, Any] = tree["counters"]
        return counters

    def restore_modules(self, tree: dict[str, Any], read: TensorSource) -> None:
        """Load only the modules, for a new training that starts from saved weights."""
        for name, module in self._modules.items():
            if name in tree["parts"]:
                module.restore(tree["parts"][name], read)

    def restore_rng(self, tree: dict[str, Any], read: TensorSource) -> None:
        """Restore the generators: last before the first batch, because building and loading draw from them."""
        rng = tree["rng"]
        restore_rng(decode_rng(rng, {name: read(reference.name) for name, reference in rng["tensors"].items()}))

    def _bind_optimizers(self) -> None:
        """Give the optimizers the names of all tensors that are tracked by now."""
        named = list(self._tensors.items())
        for part_name, module in self._modules.items():
            prefix = "" if part_name == MODEL else f"{part_name}."
            named += [(prefix + name, parameter) for name, parameter in module.named_parameters()]
        for part in self._optimizers.values():
            part.bind(named)

    def _warn_of_half_reduced(self) -> None:
        if "half reduced" not in self._warned:
            self._warned.add("half reduced")
            _log.warning(
                "No checkpoint can be saved at steps after which gradients wait for their all-reduce "
                "(set_requires_all_reduce(False)), so the next one that can be is. Call run.step only after the "
                "optimizer's step, or gather with set_requires_gradient_sync(False), which is saved."
            )

    def _warn_of_unnamed(self) -> None:
        for part in self._optimizers.values():
            if part.unnamed and part.name not in self._warned:
                self._warned.add(part.name)
                _log.warning(
                    "The %s trains %d tensors that belong to no tracked module. Relight saves these tensors but "
                    "nothing else of their module. Track the module as well.", part.name, len(part.unnamed),
                )  # fmt: skip
            if part.has_late_unnamed and (late := f"late:{part.name}") not in self._warned:
                self._warned.add(late)
                _log.warning(
                    "The %s was given tensors in the loops that belong to no tracked module, so a resume can find them "
                    "only if the script adds them again before it gets there. Track their module before the loops.",
                    part.name,
                )
