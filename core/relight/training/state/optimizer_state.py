"""An optimizer's exact state: its state for each parameter, keyed by the parameter's name, and its groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from relight.training.state.state_errors import check_class, check_names
from relight.training.state.state_tree import StateCollector, TensorSource, decode_tree, describe_form

_UNNAMED = "unnamed."


class OptimizerPart:
    """One optimizer of the training state. `parameter_names` maps a parameter's id to its name."""

    def __init__(self, name: str, optimizer: torch.optim.Optimizer, *, parameter_names: Mapping[int, str]) -> None:
        self.name = name
        self.optimizer = optimizer
        self._names = self._name_parameters(parameter_names)
        self.unnamed: dict[str, Tensor] = {
            name: parameter
            for name, parameter in zip(self._names, self._parameters(), strict=True)
            if name.startswith(_UNNAMED)
        }
        """Tensors that the optimizer trains and that belong to nothing tracked."""

    def capture(self, collector: StateCollector, *, gradients: bool = False) -> dict[str, Any]:
        """Return the optimizer's tree, including tensors that it trains and that have no name elsewhere."""
        state = self.optimizer.state_dict()
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
        saved_names = [name for group in tree["groups"] for name in group["parameters"]]
        check_names(f"parameters of the {self.name}", saved=saved_names, live=self._names)
        places = {name: place for place, name in enumerate(self._names)}
        state: dict[Any, Any] = {places[name]: decode_tree(value, read) for name, value in tree["state"].items()}
        state.update(decode_tree(tree.get("rest", {}), read))
        live_groups = self.optimizer.param_groups
        live_tensors = [{k: v for k, v in g.items() if isinstance(v, Tensor)} for g in live_groups]
        groups, start = [], 0
        for place, live in enumerate(live_groups):
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
            del place
        loaded = {**decode_tree(tree.get("extra", {}), read), "state": state, "param_groups": groups}
        self._restore_parameters(tree, read)
        self.optimizer.load_state_dict(loaded)
        self._restore_types(state)
        for group, tensors in zip(self.optimizer.param_groups, live_tensors, strict=True):
            for key, tensor in tensors.items():
                # In place, because a compiled step or a schedule may keep a reference to a tensor rate.
                if isinstance(group.get(key), Tensor) and group[key] is not tensor:
                    with torch.no_grad():
                        group[key] = tensor.copy_(group[key])

    def _restore_parameters(self, tree: dict[str, Any], read: TensorSource) -> None:
        saved = {key: decode_tree(value, read) for key, value in tree.get("parameters", {}).items()}
        problems = [
            f"{key} ({describe_form(value)} in the checkpoint, {describe_form(self.unnamed[key])} now)"
            for key, value in saved.items()
            if key in self.unnamed and describe_form(value) != describe_form(self.unnamed[key])
        ]
        if saved:
            check_names(f"tensors of the {self.name}", saved=saved, live=self.unnamed, problems=problems)
        gradients = tree.get("gradients", {})
        with torch.no_grad():
            for key, value in saved.items():
                self.unnamed[key].copy_(value)
                if key in gradients:
                    self.unnamed[key].grad = decode_tree(gradients[key], read).to(self.unnamed[key].device)

    def _restore_types(self, saved: Mapping[Any, Any]) -> None:
        """Undo PyTorch's cast of state to the parameter's type: fp32 moments of a bf16 parameter must stay fp32."""
        parameters = self._parameters()
        for key, value in saved.items():
            if isinstance(key, int) and key < len(parameters):
                live = self.optimizer.state[parameters[key]]
                self.optimizer.state[parameters[key]] = _match_types(live, value)

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _name_parameters(self, known: Mapping[int, str]) -> list[str]:
        """Name the parameters in the order of the groups; one that belongs to nothing tracked is named by position."""
        return [
            known.get(id(parameter), f"{_UNNAMED}{number}.{place}")
            for number, group in enumerate(self.optimizer.param_groups)
            for place, parameter in enumerate(group["params"])
        ]


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
