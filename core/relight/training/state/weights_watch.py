"""Watches the weights between step edges: a digest of a sample of them, and whether anything has moved them since.

Reading all weights at every step would cost as much as the step. So each tensor's version counter is compared, which
every tracked change raises, and the bytes at four places, which also shows a change that bypasses the counter: `.data`,
a swap of the memory behind a parameter, a kernel of the script's own. Such a change is missed only if it bypasses the
counter and leaves all four places alone.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping

import torch
import xxhash
from torch import Tensor
from torch.nn.parameter import is_lazy

from relight.training.state.shards import local_part
from relight.training.state.tensor_memory import TensorMemory, is_readable

_PLACES = 4
_BYTES = 64
_version = operator.attrgetter("_version")


class WeightsWatch:
    """The weights of one training state, which never changes which tensors it has; make another one if it does."""

    def __init__(self, weights: Mapping[str, Tensor], *, late: Collection[str] = ()) -> None:
        """Watch the tensors by name, except inference tensors, which have no version counter.

        `late` names those that are not sampled if there are others: they may be frozen, and two attempts must sample
        the same ones, whenever a script unfreezes.
        """
        self.is_whole = not any(map(is_lazy, weights.values()))
        """Whether every tensor has its shape; those of a lazy module get it in the first forward pass."""
        self._names = [name for name, tensor in weights.items() if _is_watched(tensor)]
        self._tensors = [weights[name] for name in self._names]
        chosen = _choose(weights, late)
        self._sampled = [name for name, _ in chosen]
        self._places = [tensor for _, tensor in chosen]
        self._sizes = [min(_BYTES, tensor.nbytes) for tensor in self._places]
        self._memory = TensorMemory(self._sizes)
        self._versions: list[int] = []
        self._sample = b""

    def record(self) -> bytes:
        """Remember the weights as they are at this step edge; return the sample, empty if none can be read."""
        if self._tensors:
            self._versions = list(map(_version, self._tensors))
            self._sample = self._memory.read(self._places)
        return self._sample

    def find_moved(self) -> list[str]:
        """Return the names of the tensors that have changed since `record`, as far as that can be seen."""
        now = map(_version, self._tensors)
        moved = {name for name, before, after in zip(self._names, self._versions, now, strict=True) if before != after}
        before, after = self._sample, self._memory.read(self._places)
        end = 0
        for name, size in zip(self._sampled, self._sizes, strict=True):
            start, end = end, end + size
            if before[start:end] != after[start:end]:
                moved.add(name)
        return [name for name in self._names if name in moved]

    def find_replaced(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Return the names of the watched tensors that are gone, or have another tensor in their place."""
        return [
            name for name, tensor in zip(self._names, self._tensors, strict=True) if weights.get(name) is not tensor
        ]

    def has_all(self, weights: Mapping[str, Tensor]) -> bool:
        """Tell whether all of these tensors are watched that can be."""
        return sum(map(_is_watched, weights.values())) == len(self._tensors)


def digest_tensor(tensor: Tensor) -> int:
    """Return a digest of the tensor's bits: of its memory on the CPU, elsewhere the sum of its words.

    Of a DTensor it is that of this rank's part.
    """
    plain = local_part(tensor).detach().contiguous().reshape(-1)
    if plain.device.type == "cpu":
        return xxhash.xxh3_64_intdigest(plain.view(torch.uint8).numpy().data)
    word = {1: torch.uint8, 2: torch.int16, 4: torch.int32}.get(plain.element_size(), torch.int64)
    return int(plain.view(word).sum(dtype=torch.int64).item())


def _is_watched(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and not tensor.is_inference()


def _choose(weights: Mapping[str, Tensor], late: Collection[str]) -> list[tuple[str, Tensor]]:
    """Choose tensors spread over the model, trained ones first: an update changes nearly every one of them."""
    local = {name: tensor if is_lazy(tensor) else local_part(tensor) for name, tensor in weights.items()}
    readable = [(name, tensor) for name, tensor in local.items() if is_readable(tensor)]
    chosen = [(name, tensor) for name, tensor in readable if name not in late] or readable
    if len(chosen) <= _PLACES:
        return chosen
    return [chosen[place * (len(chosen) - 1) // (_PLACES - 1)] for place in range(_PLACES)]
