"""Tells whether tensors that were restored have been written to since, also through `.data`."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.nn.parameter import is_lazy

from relight.training.state.weights_watch import digest_tensor


class TensorMarks:
    """The tensors of one restored object, and a digest of each. They may be on any device."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._tensors = list(tensors)
        self._digests = list(map(_digest, self._tensors))

    def are_unchanged(self, now: Iterable[Tensor]) -> bool:
        """Tell whether `now` are the same tensors with the same contents."""
        live = list(now)
        return (
            len(live) == len(self._tensors)
            and all(one is other for one, other in zip(live, self._tensors, strict=True))
            and None not in self._digests
            and list(map(_digest, live)) == self._digests
        )


def _digest(tensor: Tensor) -> int | None:
    """Return a digest of the tensor; None for one whose memory cannot be read."""
    if is_lazy(tensor):
        return None
    try:
        return digest_tensor(tensor)
    except (RuntimeError, NotImplementedError, TypeError):  # a kind of tensor without ordinary memory
        return None
