"""A module's exact state: parameters, every buffer, the training and requires_grad flags."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from relight.checkpoints.snapshot_header import TensorRef
from relight.errors import UnsupportedState
from relight.training.state.module_names import ModuleNames
from relight.training.state.state_errors import check_names
from relight.training.state.state_tree import StateCollector, TensorSource, decode_tree, describe_form

_LARGE_BUFFER_BYTES = 1 << 20
_NAMED_AT_MOST = 8


@dataclass
class ModuleRecord:
    """The parts of a module that a forward pass may change, as they were at the last step edge."""

    buffers: dict[str, Tensor] = field(default_factory=dict)
    """By live name; copies of the small buffers."""
    large: dict[str, Tensor] = field(default_factory=dict)
    """Copies of large buffers (masks, tables). They are not copied at every edge, but compared when it matters."""
    evaluating: tuple[bool, ...] = ()
    """For each submodule, whether it was in eval mode."""


class ModulePart:
    """One module of the training state. `name` is "model" for the model."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module
        self._buffer_prefix = "buffer." if name == "model" else f"buffer:{name}."
        self._record: ModuleRecord | None = None
        self._index()
        self._built_parameters = {self._names.canonical(name) for name, _ in module.named_parameters()}
        self._built_buffers = dict(self._shape_buffers())

    def parameter_names(self) -> dict[int, str]:
        """Return the canonical name of each parameter by its id; a tied parameter has its first name."""
        names: dict[int, str] = {}
        for live, parameter in self.module.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), self._names.canonical(live))
        return names

    def record_edge(self) -> None:
        """Copy what the next forward pass may change, with one fused copy for all small buffers."""
        record = self._record
        if record is None:
            record = self._record = self._start_record()
        elif self._copies:
            live = [owner[leaf] for owner, leaf in self._small]
            try:
                self._check_replaced(live)
                torch._foreach_copy_(self._copies, live)
            except (RuntimeError, TypeError):  # a buffer was replaced by one of another form
                record = self._record = self._start_record()
        record.evaluating = tuple([not module.training for module in self._modules])

    def capture(self, collector: StateCollector, *, at_edge: bool, gradients: bool = False) -> dict[str, Any] | None:
        """Return the module's tree as it was at the last step edge; `at_edge` means that nothing has happened since.

        Return None when the tree is no longer exact: a large buffer has changed since the edge, or a buffer is new.
        `gradients` includes the gradients that exist.
        """
        record = self._record
        assert record is not None, "no step edge was recorded"
        self._check_parameters()
        shapes = dict(self._shape_buffers())
        if any(
            shape is not None and live not in record.buffers and live not in record.large
            for live, shape in shapes.items()
        ):
            self._record = None  # a buffer was added later: the next edge starts a new record that includes it
            if not at_edge:
                return None
        if not at_edge and not self._large_unmoved(record):
            return None
        overrides = record.buffers
        tensors: dict[str, Any] = {}
        state = self.module.state_dict()
        for live, value in state.items():
            key = self._names.canonical(live)
            tensors[key] = collector.encode(f"{self.name}.{key}", overrides.get(live, value))
        buffers = {
            self._names.canonical(live): collector.add(
                self._buffer_prefix + self._names.canonical(live), overrides.get(live, buffer)
            )
            for live, buffer in self.module.named_buffers(remove_duplicate=False)
            if live not in state
        }
        evaluating = [name for name, flag in zip(self._module_names, record.evaluating, strict=True) if flag]
        frozen = [self._names.canonical(n) for n, p in self.module.named_parameters() if not p.requires_grad]
        tree = {
            "kind": "module",
            "tensors": tensors,
            "buffers": buffers,
            "evaluating": evaluating,
            "frozen": frozen,
            "tied": self._tied_names(),
        }
        reshaped = {
            self._names.canonical(live): self._built_buffers.get(live)
            for live, shape in shapes.items()
            if shape is not None and shape != self._built_buffers.get(live)
        }
        if reshaped:
            tree["reshaped"] = reshaped
        if gradients:
            tree["gradients"] = {
                self._names.canonical(live): collector.encode(
                    f"gradient:{self.name}.{self._names.canonical(live)}", parameter.grad
                )
                for live, parameter in self.module.named_parameters()
                if parameter.grad is not None
            }
        return tree

    def restore(self, tree: dict[str, Any], read: TensorSource) -> None:
        """Read a saved tree into the live module; on the CPU without a second copy of it in memory.

        Raise `StateMismatch` with the names that do not fit before any parameter changes.
        """
        self._reshape_buffers(tree, read)
        live = self.module.state_dict()
        by_key = {self._names.canonical(name): name for name in live}
        saved: dict[str, Any] = tree["tensors"]
        stored = {key: read.form(value.name) for key, value in saved.items() if isinstance(value, TensorRef)}
        problems = [
            f"{key} ({form} in the checkpoint, {describe_form(live[by_key[key]])} now)"
            for key, form in stored.items()
            if key in by_key and not _fits(form, live[by_key[key]])
        ]
        forms = {key: describe_form(live[name]) for key, name in by_key.items()}
        forms |= {key: describe_form(value) for key, value in saved.items()} | stored
        check_names(self.name, saved=saved, live=by_key, problems=problems, forms=forms)
        hidden = self._hidden_buffers(set(live))
        check_names(f"non-persistent buffers of {self.name}", saved=tree["buffers"], live=hidden)
        in_place = _loads_by_copying(self.module)
        given: dict[str, Any] = {}
        for key, value in saved.items():
            name = by_key[key]
            target = live[name]
            if in_place and key in stored and stored[key] == describe_form(target):
                read.read_into(value.name, target)
                given[name] = target  # copied onto itself below, so that hooks and extra state still run
            else:
                given[name] = decode_tree(value, read)
        self.module.load_state_dict(given)
        self._restore_buffers(tree["buffers"], read, set(live))
        self._restore_flags(tree)
        self._restore_gradients(tree.get("gradients", {}), read)
        self._index()

    def _hidden_buffers(self, persistent: set[str]) -> dict[str, Tensor]:
        """Return the buffers that no `state_dict` shows, by canonical name."""
        return {
            self._names.canonical(name): buffer
            for name, buffer in self.module.named_buffers(remove_duplicate=False)
            if name not in persistent
        }

    def _restore_buffers(self, saved: dict[str, Any], read: TensorSource, persistent: set[str]) -> None:
        buffers = self._hidden_buffers(persistent)
        with torch.no_grad():
            for key, reference in saved.items():
                value = decode_tree(reference, read)
                if buffers[key].shape != value.shape:
                    buffers[key].resize_(value.shape)
                buffers[key].copy_(value)

    def _reshape_buffers(self, tree: dict[str, Any], read: TensorSource) -> None:
        """Create buffers that were added or changed shape after the build, if this build starts like the saved one."""
        owners = {self._names.canonical(name): module for name, module in self.module.named_modules()}
        for key, built in tree.get("reshaped", {}).items():
            path, _, leaf = key.rpartition(".")
            owner = owners.get(path)
            if owner is None or _shape_of(owner._buffers.get(leaf)) != built:
                continue  # the code has changed: the comparison of names reports that
            persistent = key in tree["tensors"]
            saved = decode_tree(tree["tensors"][key] if persistent else tree["buffers"][key], read)
            near = next((tensor for tensor in self.module.state_dict().values() if isinstance(tensor, Tensor)), saved)
            fresh = torch.empty_like(saved, device=near.device)
            if leaf in owner._buffers:
                owner._buffers[leaf] = fresh
            else:
                owner.register_buffer(leaf, fresh, persistent=persistent)

    def _restore_gradients(self, saved: dict[str, Any], read: TensorSource) -> None:
        for live, parameter in self.module.named_parameters():
            reference = saved.get(self._names.canonical(live))
            parameter.grad = None if reference is None else decode_tree(reference, read).to(parameter.device)

    def _restore_flags(self, tree: dict[str, Any]) -> None:
        evaluating, frozen = set(tree["evaluating"]), set(tree["frozen"])
        for name, module in self.module.named_modules():
            module.training = self._names.canonical(name) not in evaluating
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(self._names.canonical(name) not in frozen)

    def _index(self) -> None:
        """Look up, once, what every step edge needs."""
        self._names = ModuleNames(self.module)
        self._modules = [module for _, module in self.module.named_modules()]
        self._module_names = [self._names.canonical(name) for name, _ in self.module.named_modules()]
        self._record = None

    def _start_record(self) -> ModuleRecord:
        record = ModuleRecord()
        small: list[tuple[str, dict[str, Tensor | None], str]] = []
        for prefix, module in self.module.named_modules(remove_duplicate=False):
            for leaf, buffer in module._buffers.items():
                live = f"{prefix}.{leaf}" if prefix else leaf
                if buffer is None or is_lazy(buffer):
                    continue
                if buffer.nbytes > _LARGE_BUFFER_BYTES:
                    record.large[live] = buffer.detach().clone()
                else:
                    small.append((live, module._buffers, leaf))
        # Sorted by kind, because a fused copy is only fused for tensors of the same device and type.
        small.sort(key=lambda entry: (str(entry[1][entry[2]].device), str(entry[1][entry[2]].dtype)))  # type: ignore[union-attr]
        record.buffers = {live: owner[leaf].detach().clone() for live, owner, leaf in small}  # type: ignore[union-attr]
        self._small: list[tuple[Any, str]] = [(owner, leaf) for _, owner, leaf in small]
        self._copies = list(record.buffers.values())
        self._live = [owner[leaf] for owner, leaf in self._small]
        return record

    def _shape_buffers(self) -> Iterator[tuple[str, list[int] | None]]:
        """Yield each buffer's live name and shape; None for a buffer that has no data yet."""
        for prefix, module in self.module.named_modules(remove_duplicate=False):
            for leaf, buffer in module._buffers.items():
                yield (f"{prefix}.{leaf}" if prefix else leaf), _shape_of(buffer)

    def _check_parameters(self) -> None:
        """Raise `UnsupportedState` when the module has gained or lost parameters since it was tracked."""
        now = {self._names.canonical(name) for name, _ in self.module.named_parameters()}
        if now != self._built_parameters:
            differences = ", ".join(sorted(now ^ self._built_parameters)[:_NAMED_AT_MOST])
            raise UnsupportedState(
                f"The parameters of '{self.name}' have changed since it was tracked ({differences}), so a resume could "
                "not rebuild it. Create all of them before you track the module."
            )

    def _check_replaced(self, live: list[Any]) -> None:
        """Raise `TypeError` if a buffer was replaced by one of another form.

        A copy would not always fail: one number fills a tensor of any shape, and another type is converted.
        """
        if all(map(operator.is_, live, self._live)):
            return
        for now, kept in zip(live, self._copies, strict=True):
            if now is None or now.shape != kept.shape or now.dtype != kept.dtype:
                raise TypeError
        self._live = live

    def _large_unmoved(self, record: ModuleRecord) -> bool:
        live = dict(self.module.named_buffers(remove_duplicate=False))
        return all(name in live and torch.equal(live[name], copy) for name, copy in record.large.items())

    def _tied_names(self) -> list[list[str]]:
        groups: dict[int, list[str]] = {}
        for live, parameter in self.module.named_parameters(remove_duplicate=False):
            groups.setdefault(id(parameter), []).append(self._names.canonical(live))
        return sorted(sorted(group) for group in groups.values() if len(group) > 1)


def _fits(form: str, live: Any) -> bool:
    # A lazy module takes any shape, as it would from its first batch.
    return (isinstance(live, Tensor) and is_lazy(live)) or form == describe_form(live)


def _loads_by_copying(module: nn.Module) -> bool:
    """Tell whether loading a state only copies the given tensors into the live ones."""
    return type(module).load_state_dict is nn.Module.load_state_dict and all(
        each._load_from_state_dict.__module__.startswith("torch.") for each in module.modules()
    )


def _shape_of(buffer: Tensor | None) -> list[int] | None:
    return None if buffer is None or is_lazy(buffer) else list(buffer.shape)
