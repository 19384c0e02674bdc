"""Tells cheaply whether tensors that were restored have been written to since, also through `.data`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class TensorMarks:
    """The tensors of one restored object, and a checksum of each. They may be on any device."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = list(tensors)
        self._sums = [_add_up(tensor) for tensor in self._tensors]

    def are_unchanged(self, now: Iterable[Tensor]) -> bool:
        """Tell whether `now` are the same tensors with the same contents."""
        live = list(now)
        return (
            len(live) == len(self._tensors)
            and all(one is other for one, other in zip(live, self._tensors, strict=True))
            and None not in self._sums
            and [_add_up(tensor) for tensor in live] == self._sums
        )


def _add_up(tensor: Tensor) -> tuple[int | None, int] | None:
    """Return the version counter and the sum of the tensor's words; writing through `.data` moves only the sum.

    Return None for a tensor whose words cannot be read.
    """
    if is_lazy(tensor):
        return None
    try:
        flat = tensor.detach().reshape(-1)
        if flat.is_complex():
            flat = torch.view_as_real(flat.resolve_conj()).reshape(-1)
        words = flat.view(_WORDS[flat.element_size()])
        return (None if tensor.is_inference() else tensor._version, int(words.sum()))
    except (RuntimeError, NotImplementedError, TypeError):  # a kind of tensor without ordinary memory
        return None
