"""Copies a captured state into the writer's staging memory, with one memory copy for each tensor."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from relight.checkpoints.pack import order_for_pack
from relight.checkpoints.snapshot_header import TensorSpec
from relight.training.state.state_tree import DTYPE_NAMES

_TOLD_BYTES = 16 << 20
_SHARED_BYTES = 4 << 20
"""Tensors of this size or more are copied by two threads."""


def describe_tensors(tensors: Mapping[str, Tensor]) -> list[TensorSpec]:
    """Describe the tensors in the order in which they will be staged."""
    return [
        TensorSpec(name=name, dtype=DTYPE_NAMES[tensor.dtype], shape=tuple(tensor.shape), nbytes=tensor.nbytes)
        for name, tensor in tensors.items()
    ]


def copy_tensors(
    tensors: Mapping[str, Tensor], memory: Sequence[memoryview], *, on_copied: Callable[[int], None] | None = None
) -> None:
    """Copy each tensor, row-major, into its piece of memory, in pack order. Block until all bytes are copied.

    `on_copied` is called from time to time with the number of tensors copied so far.
    """
    pairs = list(zip(tensors.values(), memory, strict=True))
    untold_bytes = 0
    with (
        torch.no_grad(),
        DeviceCopies(on_copied) as copies,
        ThreadPoolExecutor(1, thread_name_prefix="relight-copy") as pool,
    ):
        helper = pool if _has_idle_core() else None
        for count, index in enumerate(order_for_pack(describe_tensors(tensors)), 1):
            tensor, piece = pairs[index]
            if tensor.nbytes:
                target = torch.frombuffer(piece, dtype=torch.uint8, count=tensor.nbytes)
                if tensor.is_cuda:
                    copies.queue(target, tensor)
                else:
                    _copy(target, tensor, helper)
            untold_bytes += tensor.nbytes
            if untold_bytes >= _TOLD_BYTES:
                copies.tell(count)
                untold_bytes = 0


class DeviceCopies:
    """Copies from CUDA devices, on a stream beside the training's. At the end of the context all have arrived.

    They follow what the training has queued on its current stream until then. If the memory is page-locked, the device
    copies while this process queues the next tensors and the writer writes the first ones.
    """

    def __init__(self, on_copied: Callable[[int], None] | None) -> None:
        self._on_copied = on_copied
        self._streams: dict[torch.device, Any] = {}
        self._untold: deque[tuple[int, list[Any]]] = deque()

    def __enter__(self) -> DeviceCopies:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            while self._untold:
                for event in self._untold[0][1]:
                    event.synchronize()
                self._tell_arrived()
        finally:
            # Also after an error: nothing may write to the memory any more when its next user gets it.
            for stream in self._streams.values():
                stream.synchronize()

    def queue(self, target: Tensor, source: Tensor) -> None:
        """Queue a copy of `source`, row-major, to the bytes of `target`."""
        stream = self._streams.get(source.device)
        if stream is None:
            stream = self._streams[source.device] = torch.cuda.Stream(source.device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(source.device))
        with torch.cuda.stream(stream):
            plain = source.resolve_conj().resolve_neg().contiguous()
            target.copy_(plain.reshape(-1).view(torch.uint8), non_blocking=True)

    def tell(self, count: int) -> None:
        """Report the first `count` tensors as copied, as soon as all that was queued so far has arrived."""
        events: list[Any] = [torch.cuda.Event(blocking=True) for _ in self._streams]  # type: ignore[no-untyped-call]
        for stream, event in zip(self._streams.values(), events, strict=True):
            stream.record_event(event)
        self._untold.append((count, events))
        self._tell_arrived()

    def _tell_arrived(self) -> None:
        while self._untold and all(event.query() for event in self._untold[0][1]):
            count, _ = self._untold.popleft()
            if self._on_copied is not None:
                self._on_copied(count)


def _copy(target: Tensor, tensor: Tensor, helper: ThreadPoolExecutor | None) -> None:
    plain = tensor.resolve_conj().resolve_neg()
    if plain.is_contiguous():
        source = plain.reshape(-1).view(torch.uint8)
        if helper is None or tensor.nbytes < _SHARED_BYTES or tensor.device.type != "cpu":
            target.copy_(source)
            return
        half = tensor.nbytes // 2
        other_half = helper.submit(target[half:].copy_, source[half:])
        target[:half].copy_(source[:half])
        other_half.result()
    elif target.data_ptr() % plain.element_size() == 0:
        target.view(plain.dtype).view(plain.shape).copy_(plain)  # rearranged on the way, without an extra copy
    else:
        target.copy_(plain.contiguous().reshape(-1).view(torch.uint8))


def _has_idle_core() -> bool:
    """Tell whether PyTorch leaves a core alone that could help. One thread does not use up the memory's bandwidth."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return torch.get_num_threads() == 1 < cores
