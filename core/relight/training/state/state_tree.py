"""Converts the training state to a tree of plain values with named references to tensors, and back."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from relight.checkpoints.snapshot_header import TensorRef
from relight.errors import UnsupportedState


class TensorSource(Protocol):
    """Where a saved tree's tensors come from."""

    def __call__(self, name: str) -> Tensor:
        """Return the tensor of that name: on the CPU, in memory that nothing else uses."""
        ...

    def like(self, name: str, live: Tensor | None) -> Tensor:
        """Return it split over the ranks as `live` is, if `live` is."""
        ...

    def form(self, name: str) -> str:
        """Return its form as `describe_form` does, without reading it."""
        ...

    def read_into(self, name: str, live: Tensor) -> None:
        """Read it into `live`, which has the same form."""
        ...


DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.complex128: "C128",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
}
"""safetensors' names of PyTorch's types."""

DTYPES = {name: dtype for dtype, name in DTYPE_NAMES.items()}


class StateCollector:
    """Collects the tensors of a state tree by name, without copying them."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def add(self, name: str, tensor: Tensor) -> TensorRef:
        """Name `tensor` and return the reference that stands for it in the tree."""
        if is_lazy(tensor):
            raise UnsupportedState(
                f"The tensor '{name}' of a lazy module has no shape yet. Run one batch through the model first."
            )
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.dtype not in DTYPE_NAMES:
            kind = tensor.dtype if tensor.layout is torch.strided else tensor.layout
            raise UnsupportedState(
                f"The tensor '{name}' is {kind}, which a checkpoint cannot store. Use an ordinary tensor instead."
            )
        if tensor.device.type == "meta":
            raise UnsupportedState(f"The tensor '{name}' has no data (it is on the meta device). Give it data first.")
        assert name not in self.tensors, f"two tensors are named {name}"
        self.tensors[name] = tensor.detach()
        return TensorRef(name)

    def encode(self, owner: str, value: Any) -> Any:
        """Return `value` with every tensor replaced by a reference that is named after its path below `owner`."""
        if isinstance(value, Tensor):
            return self.add(owner, value)
        kind = type(value)
        if kind is dict or kind is OrderedDict:
            return kind(
                (key, self.encode(f"{owner}.{key}", inner))
                for key, inner in value.items()
                if not _is_function_of_a_schedule(inner)
            )
        if kind is list or kind is tuple:
            return kind(self.encode(f"{owner}.{place}", inner) for place, inner in enumerate(value))
        if kind is deque:
            return deque((self.encode(f"{owner}.{place}", inner) for place, inner in enumerate(value)), value.maxlen)
        if kind is torch.Size:
            return tuple(value)
        return value


def _is_function_of_a_schedule(value: Any) -> bool:
    """Tell whether the schedule that a resume builds has this function anyway: SWALR of PyTorch 2.7 saves one."""
    return isinstance(value, FunctionType) and value.__module__.startswith("torch.optim.")


def decode_tree(value: Any, read: Callable[[str], Any]) -> Any:
    """Return `value` with every reference replaced by its tensor: by what `read` returns for its name."""
    if isinstance(value, TensorRef):
        return read(value.name)
    kind = type(value)
    if kind is dict or kind is OrderedDict:
        return kind((key, decode_tree(inner, read)) for key, inner in value.items())
    if kind is list or kind is tuple:
        return kind(decode_tree(inner, read) for inner in value)
    if kind is deque:
        return deque((decode_tree(inner, read) for inner in value), value.maxlen)
    return value


def describe_form(value: Any) -> str:
    """Describe a tensor's type and shape ("float32 [16, 2]"); for anything else, its type."""
    if not isinstance(value, Tensor) or is_lazy(value):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
