"""Names of a module's tensors without wrapper prefixes: the same for a bare, a compiled and a distributed model."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

# Only wrappers use these attribute names. A plain "module" may be the model's own, so there the type decides.
_WRAPPED = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_MODULE_WRAPPERS = (DataParallel, DistributedDataParallel, AveragedModel)


class ModuleNames:
    """Turns the live names of one module tree into canonical ones."""

    def __init__(self, module: nn.Module) -> None:
        self._prefixes = {"": ""}
        owners = {"": module}
        for name, child in module.named_modules(remove_duplicate=False):
            if not name:
                continue
            parent, _, leaf = name.rpartition(".")
            owners[name] = child
            above = self._prefixes[parent]
            stripped = leaf in _WRAPPED or (leaf == "module" and isinstance(owners[parent], _MODULE_WRAPPERS))
            self._prefixes[name] = above if stripped else _join(above, leaf)

    def canonical(self, name: str) -> str:
        """Return the canonical name of a parameter, buffer, submodule or `state_dict` key."""
        prefix, rest = name, ""
        while prefix not in self._prefixes:  # a key's last part, or a part that a state_dict hook added
            prefix, _, leaf = prefix.rpartition(".")
            rest = _join(leaf, rest) if rest else leaf
        return _join(self._prefixes[prefix], rest) if rest else self._prefixes[prefix]


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
