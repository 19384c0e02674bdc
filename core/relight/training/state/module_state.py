"""A module's exact state: parameters, every buffer, the training and requires_grad flags."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from relight.checkpoints.snapshot_header import TensorRef
from relight.errors import UnsupportedState
from relight.training.state.module_names import ModuleNames
from relight.training.state.shards import list_sharded_modules, reshard
from relight.training.state.state_errors import check_names
from relight.training.state.state_tree import StateCollector, TensorSource, decode_tree, describe_form
from relight.training.state.tensor_marks import TensorMarks
from relight.training.state.tensor_memory import TensorMemory, is_readable
from relight.training.state.unreduced import PendingGradients, put_gradient, read_gradient

_LARGE_BUFFER_BYTES = 1 << 20
_NAMED_AT_MOST = 8


@dataclass
class ModuleRecord:
    """The parts of a module that a forward pass may change, as they were at the last step edge."""

    memory: bytes = b""
    """The contents of the small buffers whose memory can be read."""
    buffers: dict[str, Tensor] = field(default_factory=dict)
    """By live name; copies of the other small buffers."""
    large: dict[str, Tensor] = field(default_factory=dict)
    """Copies of large buffers (masks, tables). They are not copied at every edge, but compared when it matters."""
    evaluating: tuple[bool, ...] = ()
    """For each submodule, whether it was in eval mode."""
    frozen: list[str] | None = None
    """The frozen parameters, by canonical name; None if `record_edge` was not asked for them."""


class _Form(NamedTuple):
    shape: torch.Size
    dtype: torch.dtype
    nbytes: int
    readable: bool


class ModulePart:
    """One module of the training state. `name` is "model" for the model."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name = name
        self.module = module
        self._buffer_prefix = "buffer." if name == "model" else f"buffer:{name}."
        self._record: ModuleRecord | None = None
        self._marks: TensorMarks | None = None
        self._index()
        self._built_parameters = {self._names.canonical(name) for name, _ in module.named_parameters()}
        self._built_buffers = dict(self._shape_buffers())
        self.built_frozen = self.list_frozen()
        """The parameters that were frozen when the module was tracked."""

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each parameter once, by its canonical name; a tied parameter has its first name."""
        for live, parameter in self.module.named_parameters():
            yield self._names.canonical(live), parameter

    def list_frozen(self) -> list[str]:
        """Return the names of the parameters that are frozen now."""
        return [name for name, parameter in self.named_parameters() if not parameter.requires_grad]

    def freeze_differently(self, *, before: set[str]) -> None:
        """Freeze and unfreeze where this module was tracked with other frozen parameters than `before`."""
        for name, parameter in self.named_parameters():
            frozen = name in self.built_frozen
            if frozen != (name in before):
                parameter.requires_grad_(not frozen)

    @property
    def is_half_reduced(self) -> bool:
        """Whether gradients are on their way between the ranks, where they cannot be saved."""
        return bool(self._sharded) and PendingGradients(self._sharded).is_half_reduced

    def reshard(self) -> None:
        """Let a module that `fully_shard` has split have its own parameters, also after a mere forward pass."""
        reshard(self._sharded)

    def record_edge(self, *, frozen: bool = False) -> None:
        """Copy what the next forward pass may change, in one piece for all small buffers of a kind.

        `frozen` also keeps which parameters are frozen. That takes longer, and is worth it where a script may freeze
        or unfreeze before its next step: between two epochs.
        """
        record = self._record
        if record is None:
            record = self._record = self._start_record()
        elif self._small:
            live: list[Any] = [owner[leaf] for owner, leaf in self._small]
            if not (all(map(operator.is_, live, self._live)) or self._take_replaced(live)):
                record = self._record = self._start_record()
            elif not self._copied:
                record.memory = self._memory.read(live)
            else:
                record.memory = self._memory.read(live[self._copied :])
                try:
                    torch._foreach_copy_(self._copies, live[: self._copied])
                except RuntimeError:  # one has another shape now
                    record = self._record = self._start_record()
        record.evaluating = tuple([not module.training for module in self._modules])
        record.frozen = self.list_frozen() if frozen else None

    def capture(self, collector: StateCollector, *, at_edge: bool, gradients: bool = False) -> dict[str, Any] | None:
        """Return the module's tree as it was at the last step edge; `at_edge` means that nothing has happened since.

        Return None when the tree is no longer exact: a large buffer has changed since the edge, or a buffer is new.
        `gradients` includes the gradients that exist.
        """
        record = self._record
        assert record is not None, "no step edge was recorded"
        self._check_parameters()
        shapes = dict(self._shape_buffers())
        overrides = self._read_small(record)
        if any(
            shape is not None and live not in overrides and live not in record.large for live, shape in shapes.items()
        ):
            self._record = None  # a buffer was added or has another form: the next edge starts a new record
            if not at_edge:
                return None
        if not at_edge and not self._large_unmoved(record):
            return None
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
        frozen = self.list_frozen() if at_edge or record.frozen is None else record.frozen
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
            if unreduced := self._find_unreduced():
                owner = f"unreduced:{self.name}"
                tree["unreduced"] = {key: collector.add(f"{owner}.{key}", one) for key, one in unreduced.items()}
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
                given[name] = decode_tree(
                    value, partial(read.like, live=target if isinstance(target, Tensor) else None)
                )
        self.module.load_state_dict(given)
        self._restore_buffers(tree["buffers"], read, set(live))
        self._restore_flags(tree)
        self._restore_gradients(tree, read)
        self._index()

    def mark_restored(self) -> None:
        """Remember the restored tensors, so that `has_changed` can tell."""
        self._marks = TensorMarks(self._list_tensors())

    @property
    def has_changed(self) -> bool:
        """Whether a parameter or buffer has been written to since `mark_restored`."""
        return self._marks is None or not self._marks.are_unchanged(self._list_tensors())

    def restore_again(self, tree: dict[str, Any], read: TensorSource) -> None:
        """Restore what the script has changed since `mark_restored`; unchanged tensors are not read again."""
        if self.has_changed or not all(isinstance(value, TensorRef) for value in tree["tensors"].values()):
            self.restore(tree, read)
            return
        self._restore_flags(tree)
        if "gradients" in tree or "unreduced" in tree:
            self._restore_gradients(tree, read)

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

    def _find_unreduced(self) -> dict[str, Tensor]:
        """Return the gradients that FSDP2 has gathered in this rank alone, by canonical name."""
        if not self._sharded:
            return {}
        pending = PendingGradients(self._sharded)
        found = {name: pending.find(parameter) for name, parameter in self.named_parameters()}
        return {name: one for name, one in found.items() if one is not None}

    def _restore_gradients(self, tree: dict[str, Any], read: TensorSource) -> None:
        pending = PendingGradients(self._sharded)
        for name, parameter in self.named_parameters():
            reduced, gathered = (
                read_gradient(saved[name], read, parameter) if name in (saved := tree.get(kind, {})) else None
                for kind in ("gradients", "unreduced")
            )
            put_gradient(parameter, reduced=reduced, gathered=gathered, pending=pending)

    def _restore_flags(self, tree: dict[str, Any]) -> None:
        evaluating, frozen = set(tree["evaluating"]), set(tree["frozen"])
        for name, module in self.module.named_modules():
            module.training = self._names.canonical(name) not in evaluating
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(self._names.canonical(name) not in frozen)

    def _list_tensors(self) -> list[Tensor]:
        return [*self.module.parameters(), *self.module.buffers()]

    def _index(self) -> None:
        """Look up, once, what every step edge needs."""
        self._names = ModuleNames(self.module)
        self._modules = [module for _, module in self.module.named_modules()]
        self._sharded = list_sharded_modules(self.module)
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

        def kind(entry: tuple[str, dict[str, Any], str]) -> tuple[bool, str, str]:
            """Sort by kind, because a fused copy is only fused for tensors of the same device and type."""
            buffer = entry[1][entry[2]]
            return is_readable(buffer), str(buffer.device), str(buffer.dtype)

        small.sort(key=kind)
        self._small: list[tuple[dict[str, Any], str]] = [(owner, leaf) for _, owner, leaf in small]
        self._small_names = [live for live, _, _ in small]
        self._live: list[Any] = [owner[leaf] for owner, leaf in self._small]
        self._forms: list[Any] = list(map(_form_of, self._live))
        self._copied = sum(not form.readable for form in self._forms)
        self._copies = [buffer.detach().clone() for buffer in self._live[: self._copied]]
        record.buffers = dict(zip(self._small_names, self._copies, strict=False))
        self._memory = TensorMemory([form.nbytes for form in self._forms[self._copied :]])
        record.memory = self._memory.read(self._live[self._copied :])
        return record

    def _read_small(self, record: ModuleRecord) -> dict[str, Tensor]:
        """Return the small buffers as they were at the edge, by live name.

        One that got another form in place is left out: that may have been before the edge, which does not notice it.
        """
        found: dict[str, Tensor] = {}
        end = 0
        for place, (live, form) in enumerate(zip(self._small_names, self._forms, strict=True)):
            owner, leaf = self._small[place]
            if place < self._copied:
                found[live] = record.buffers[live]
            else:
                start, end = end, end + form.nbytes
                words = torch.frombuffer(bytearray(record.memory[start:end]), dtype=torch.uint8)
                found[live] = words.view(form.dtype).reshape(form.shape)
            if owner.get(leaf) is self._live[place] and _form_of(self._live[place]) != form:
                del found[live]
        return found

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

    def _take_replaced(self, live: list[Any]) -> bool:
        """Take over buffers that replace others; return False if one has another form."""
        if list(map(_form_of, live)) != self._forms:
            return False
        self._live = live
        return True

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


def _form_of(buffer: Tensor | None) -> _Form | None:
    return None if buffer is None else _Form(buffer.shape, buffer.dtype, buffer.nbytes, is_readable(buffer))


def _shape_of(buffer: Tensor | None) -> list[int] | None:
    return None if buffer is None or is_lazy(buffer) else list(buffer.shape)
