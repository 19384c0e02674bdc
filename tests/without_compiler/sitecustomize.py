"""Python reads this when it starts with this folder on its path: PyTorch's compiler is not loaded.

Each optimizer loads it (torch 2.13), which takes longer than all else of a small training: 1.3 s of processor time.
Most trainings of the tests do without, see `tests/compiler.py`. Who asks for the compiler itself gets it.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from types import ModuleType
from typing import Any


class _Finder:
    """Gives PyTorch's optimizers the two functions that they want of the compiler."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name == "torch._inductor" or name.startswith("torch._dynamo."):
            self._step_aside()
        elif name == "torch._dynamo":
            return importlib.machinery.ModuleSpec(name, self)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: Any) -> None:
        """Let Python make an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        def read_of_compiler(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            self._step_aside()
            return getattr(importlib.import_module("torch._dynamo"), name)

        vars(module).update(
            disable=lambda function, *_, **__: function,
            graph_break=lambda *_, **__: None,
            __getattr__=read_of_compiler,
        )

    def _step_aside(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            sys.modules.pop("torch._dynamo", None)
            vars(sys.modules["torch"]).pop("_dynamo", None)


sys.meta_path.insert(0, _Finder())
