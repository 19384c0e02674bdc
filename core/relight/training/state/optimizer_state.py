"""An optimizer's exact state: its state for each parameter, keyed by the parameter's name, and its groups."""

from __future__ import annotations

import contextlib
import functools
import logging
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from relight.errors import UnsupportedState
from relight.training.state.state_errors import check_class, check_names
from relight.training.state.state_tree import StateCollector, TensorSource, decode_tree, describe_form
from relight.training.state.tensor_marks import TensorMarks
from relight.training.state.unreduced import read_gradient

_UNNAMED = "unnamed."
_log = logging.getLogger("relight")


class OptimizerPart:
    """One optimizer of the training state. Its parameters get their names from `bind`."""

    def __init__(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        self.name = name
        self.optimizer = optimizer
        self.unnamed: dict[str, Tensor] = {}
        """Tensors that the optimizer trains and that belong to nothing tracked."""
        self._built = [list(group["params"]) for group in optimizer.param_groups]
        self._first = next(iter(self.built), None)
        self._names: list[str] = []
        self._known: Sequence[tuple[str, Tensor]] = ()
        self._names_by_id: dict[int, str] = {}
        self._marks: TensorMarks | None = None
        self._plain: Any = None

    def bind(self, named: Sequence[tuple[str, Tensor]]) -> None:
        """Name the parameters in the order of the groups; one that is not in `named` is named by its position."""
        self._known = named
        self._names_by_id = {id(tensor): name for name, tensor in reversed(named)}  # the first name counts
        groups = [group["params"] for group in self.optimizer.param_groups]
        self._names = [name for names in _name_groups(groups, self._names_by_id) for name in names]
        self.unnamed = {
            name: parameter
            for name, parameter in zip(self._names, self._parameters(), strict=True)
            if name.startswith(_UNNAMED)
        }

    @property
    def version(self) -> int:
        """The version counter of one of the tensors: it moves with each update."""
        return 0 if self._first is None or self._first.is_inference() else self._first._version

    @property
    def built(self) -> list[Tensor]:
        """The parameters that the optimizer had when it was tracked."""
        return [parameter for group in self._built for parameter in group]

    @property
    def has_late_unnamed(self) -> bool:
        """Whether a tensor that belongs to nothing tracked joined the optimizer after it was tracked."""
        built = set(map(id, self.built))
        return any(id(parameter) not in built for parameter in self.unnamed.values())

    def capture(self, collector: StateCollector, *, gradients: bool = False) -> dict[str, Any]:
        """Return the optimizer's tree, including tensors that it trains and that have no name elsewhere."""
        try:
            state = self.optimizer.state_dict()
        except KeyError as error:
            raise UnsupportedState(
                f"The {self.name} still has the state of a tensor that was removed from its parameter groups, so "
                f"PyTorch cannot save it (KeyError: {error}). Do not remove it: freeze it with requires_grad_(False)."
            ) from None
        by_name: dict[str, Any] = {}
        rest: dict[Any, Any] = {}
        for key, value in state["state"].items():
            if isinstance(key, int) and key < len(self._names):
                name = self._names[key]
                by_name[name] = collector.encode(f"{self.name}.{name}", value)
            else:
                rest[key] = collector.encode(f"{self.name}:{key}", value)
        groups = []
        for place, group in enumerate(state["param_groups"]):
            options = {
                key: collector.encode(f"{self.name}:group.{place}.{key}", value)
                for key, value in group.items()
                if key != "params"
            }
            groups.append({"parameters": [self._names[index] for index in group["params"]], "options": options})
        tree = {"kind": "optimizer", "class": type(self.optimizer).__name__, "state": by_name, "groups": groups}
        built = self._name_built()
        if built != [group["parameters"] for group in groups]:
            tree["built"] = built
        if rest:
            tree["rest"] = rest
        if self.unnamed:
            owner = f"{self.name}:parameter"
            tree["parameters"] = {key: collector.add(f"{owner}.{key}", one) for key, one in self.unnamed.items()}
            if gradients:
                tree["gradients"] = {
                    key: collector.encode(f"{owner}.{key}.gradient", one.grad)
                    for key, one in self.unnamed.items()
                    if one.grad is not None
                }
        extra = {key: value for key, value in state.items() if key not in ("state", "param_groups")}
        if extra:
            tree["extra"] = collector.encode(f"{self.name}:extra", extra)
        return tree

    def restore(self, tree: dict[str, Any], read: TensorSource, *, keep_options: bool = False) -> None:
        """Put a saved tree into the live optimizer. Raise `StateMismatch` with the names that do not fit.

        With `keep_options` the live groups' options (rates, decay, momentum) stay, because a branch has changed them.
        """
        check_class(self.name, saved=tree.get("class"), live=type(self.optimizer).__name__)
        self._rebuild_groups(tree, read)
        saved_names = [name for group in tree["groups"] for name in group["parameters"]]
        check_names(f"parameters of the {self.name}", saved=saved_names, live=self._names)
        places = {name: place for place, name in enumerate(self._names)}
        live_by_name = dict(zip(self._names, self._parameters(), strict=True))
        state: dict[Any, Any] = {
            places[name]: decode_tree(value, partial(read.like, live=live_by_name[name]))
            for name, value in tree["state"].items()
        }
        state.update(decode_tree(tree.get("rest", {}), read))
        live_groups = self.optimizer.param_groups
        live_tensors = [{k: v for k, v in g.items() if isinstance(v, Tensor)} for g in live_groups]
        groups, start = [], 0
        for live in live_groups:
            count = len(live["params"])
            # A group's parameters are looked up by name, so a changed order does not swap their state.
            own = self._names[start : start + count]
            source = next((g for g in tree["groups"] if own and own[0] in g["parameters"]), None)
            if keep_options or source is None:
                options = {key: value for key, value in live.items() if key != "params"}
            else:
                options = decode_tree(source["options"], read)
            groups.append({**options, "params": list(range(start, start + count))})
            start += count
        loaded = {**decode_tree(tree.get("extra", {}), read), "state": state, "param_groups": groups}
        self._restore_parameters(tree, read)
        with _keep_containers(self.optimizer):
            self.optimizer.load_state_dict(loaded)
        self._restore_types(state)
        for group, tensors in zip(self.optimizer.param_groups, live_tensors, strict=True):
            for key, tensor in tensors.items():
                # In place, because a compiled step or a schedule may keep a reference to a tensor rate.
                if isinstance(group.get(key), Tensor) and group[key] is not tensor:
                    with torch.no_grad():
                        group[key] = tensor.copy_(group[key])

    def fits(self, tree: dict[str, Any]) -> bool:
        """Tell whether the optimizer has the saved parameters already; modules or groups may still be missing."""
        saved = {name for group in tree["groups"] for name in group["parameters"]}
        if "built" in tree:
            return saved == set(self._names)
        return not any(name.startswith(_UNNAMED) and name not in saved for name in self._names)

    def mark_restored(self) -> None:
        """Remember the restored state, so that `restore_again` can tell what has changed since."""
        tensors, self._plain = split_state(self._watched_state())
        self._marks = TensorMarks(tensors)

    def restore_again(self, tree: dict[str, Any], read: TensorSource) -> None:
        """Restore what has changed since `mark_restored`: the state if necessary, and always the groups' options."""
        if "gradients" in tree or "unreduced" in tree or not self.fits(tree) or self._has_changed():
            self.restore(tree, read)
            return
        for group, options in self._pair_options(tree, read):
            for key, value in options.items():
                if isinstance(group.get(key), Tensor):
                    with torch.no_grad():
                        group[key].copy_(value)
                else:
                    group[key] = value

    def _pair_options(self, tree: dict[str, Any], read: TensorSource) -> Iterator[tuple[dict[str, Any], Any]]:
        """Yield each live group with its saved options."""
        saved = {tuple(group["parameters"]): group["options"] for group in tree["groups"]}
        start = 0
        for group in self.optimizer.param_groups:
            names = tuple(self._names[start : start + len(group["params"])])
            start += len(names)
            if names in saved:
                yield group, decode_tree(saved[names], read)

    def _rebuild_groups(self, tree: dict[str, Any], read: TensorSource) -> None:
        """Make the groups those that the training had made of them in its loops, unless the script already did.

        Do nothing if that is not possible: then the comparison of names says what is missing.
        """
        built = tree.get("built")
        if built is None or built != self._name_built():
            return
        wanted = {name for group in tree["groups"] for name in group["parameters"]}
        tensors = {**_unambiguous(self._known), **dict(zip(self._names, self._parameters(), strict=True))}
        gone = set(self._names) - wanted
        if not wanted <= set(tensors) or not gone <= {name for names in built for name in names}:
            return
        ordered, rebuilt, left = [], [], list(self.optimizer.param_groups)
        for group in tree["groups"]:
            parameters = [tensors[name] for name in group["parameters"]]
            identities = set(map(id, parameters))
            own = next((one for one in left if identities & set(map(id, one["params"]))), None)
            if own is not None:
                left = [one for one in left if one is not own]
                own["params"][:] = parameters
            else:
                own = self._add_group(parameters, decode_tree(group["options"], read))
                rebuilt.append(parameters)
            ordered.append(own)
        self.optimizer.param_groups[:] = ordered
        self.bind(self._known)
        if rebuilt:
            _expect_again(self.optimizer, rebuilt)

    def _add_group(self, parameters: list[Tensor], options: dict[str, Any]) -> dict[str, Any]:
        names = options.pop("param_names", None)  # an optimizer that was given named parameters wants names again
        given = parameters if names is None else list(zip(names, parameters, strict=True))
        self.optimizer.add_param_group({**options, "params": given})
        added: dict[str, Any] = self.optimizer.param_groups[-1]
        return added

    def _has_changed(self) -> bool:
        if self._marks is None:
            return True
        tensors, plain = split_state(self._watched_state())
        return bool(plain != self._plain) or not self._marks.are_unchanged(tensors)

    def _watched_state(self) -> list[Any]:
        state = self.optimizer.state
        return [*self.unnamed.values(), *((id(key), value) for key, value in state.items())]

    def _restore_parameters(self, tree: dict[str, Any], read: TensorSource) -> None:
        saved = {key: read.like(value.name, self.unnamed.get(key)) for key, value in tree.get("parameters", {}).items()}
        problems = [
            f"{key} ({describe_form(value)} in the checkpoint, {describe_form(self.unnamed[key])} now)"
            for key, value in saved.items()
            if key in self.unnamed and describe_form(value) != describe_form(self.unnamed[key])
        ]
        if saved:
            check_names(f"tensors of the {self.name}", saved=saved, live=self.unnamed, problems=problems)
        gradients = {**tree.get("gradients", {}), **tree.get("unreduced", {})}
        with torch.no_grad():
            for key, value in saved.items():
                self.unnamed[key].copy_(value)
                if key in gradients:
                    self.unnamed[key].grad = read_gradient(gradients[key], read, self.unnamed[key])

    def _restore_types(self, saved: Mapping[Any, Any]) -> None:
        """Undo PyTorch's cast of state to the parameter's type: fp32 moments of a bf16 parameter must stay fp32."""
        parameters = self._parameters()
        for key, value in saved.items():
            if isinstance(key, int) and key < len(parameters):
                live = self.optimizer.state[parameters[key]]
                self.optimizer.state[parameters[key]] = _match_types(live, value)

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _name_built(self) -> list[list[str]]:
        """Return the names of the parameters that the groups had when the optimizer was tracked."""
        return _name_groups(self._built, self._names_by_id)


def _name_groups(groups: list[list[Tensor]], known: Mapping[int, str]) -> list[list[str]]:
    return [
        [known.get(id(parameter), f"{_UNNAMED}{number}.{place}") for place, parameter in enumerate(group)]
        for number, group in enumerate(groups)
    ]


@contextlib.contextmanager
def _keep_containers(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Keep the optimizer's own list of groups, groups and state: the script and wrappers such as SAM refer to them."""
    groups, each, state = optimizer.param_groups, list(optimizer.param_groups), optimizer.state
    yield
    loaded, loaded_state = optimizer.param_groups, optimizer.state
    for group, new in zip(each, loaded, strict=True):
        if group is not new:
            options = dict(new)
            group.clear()
            group.update(options)
    if loaded_state is not state:
        entries = dict(loaded_state)
        state.clear()
        state.update(entries)
    groups[:] = each
    for owner in (optimizer, *vars(optimizer).values()):
        if isinstance(owner, torch.optim.Optimizer):
            if owner.param_groups is loaded:
                owner.param_groups = groups
            if owner.state is loaded_state:
                owner.state = state


def _unambiguous(named: Sequence[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors by name, without names that two tensors have: "head.weight" of two modules."""
    tensors: dict[str, Tensor] = {}
    twice = {name for name, tensor in named if tensors.setdefault(name, tensor) is not tensor}
    return {name: tensor for name, tensor in tensors.items() if name not in twice}


def _expect_again(optimizer: torch.optim.Optimizer, rebuilt: list[list[Tensor]]) -> None:
    """Let the script add the `rebuilt` groups again without an effect: its own variable that says "done" is lost."""
    add = optimizer.add_param_group

    def add_unless_rebuilt(self: torch.optim.Optimizer, group: dict[str, Any]) -> None:
        given = group["params"]
        given = given if isinstance(given, Tensor) else list(given)
        tensors = [given] if isinstance(given, Tensor) else [one[1] if isinstance(one, tuple) else one for one in given]
        place = next((p for p, known in enumerate(rebuilt) if list(map(id, known)) == list(map(id, tensors))), None)
        if place is None:
            add({**group, "params": given})
        else:
            del rebuilt[place]
            _log.info("The checkpoint already has the parameter group that the script adds. The saved one counts.")

    optimizer.add_param_group = types.MethodType(add_unless_rebuilt, optimizer)  # type: ignore[method-assign]


def split_state(state: Any) -> tuple[list[Tensor], Any]:
    """Split a nested state into its tensors and everything else."""
    tensors: list[Tensor] = []

    def strip(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value)
            return None
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [strip(inner) for inner in value]
        return value

    return tensors, strip(state)


def call_before_update(optimizer: torch.optim.Optimizer, call: Callable[[], None]) -> None:
    """Have `call` called before each step of `optimizer`, also if it never called the constructor of `Optimizer`."""
    if "_optimizer_step_pre_hooks" in vars(optimizer) and getattr(optimizer.step, "hooked", False):
        optimizer.register_step_pre_hook(lambda *_: call())
        return
    step = optimizer.step

    @functools.wraps(step)  # with the mark of a schedule that has wrapped it
    def step_after_call(_: torch.optim.Optimizer, *arguments: Any, **options: Any) -> Any:
        call()
        return step(*arguments, **options)

    optimizer.step = types.MethodType(step_after_call, optimizer)  # type: ignore[method-assign]


def complete(optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer that never called the constructor of `Optimizer` the hooks that saving and loading need."""
    if "_optimizer_state_dict_pre_hooks" not in vars(optimizer):
        if not hasattr(optimizer, "defaults"):
            optimizer.defaults = {}
        torch.optim.Optimizer.__setstate__(optimizer, {})


def _match_types(live: Any, saved: Any) -> Any:
    if isinstance(live, Tensor) and isinstance(saved, Tensor):
        return live if live.dtype == saved.dtype else saved.to(live.device)
    if isinstance(live, dict) and isinstance(saved, dict):
        for key in live:
            if key in saved:
                live[key] = _match_types(live[key], saved[key])
        return live
    if isinstance(live, (list, tuple)) and isinstance(saved, (list, tuple)) and len(live) == len(saved):
        return type(live)(_match_types(one, other) for one, other in zip(live, saved, strict=True))
    return live
