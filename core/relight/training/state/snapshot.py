"""Copies a captured state into the writer's staging memory, with one memory copy for each tensor."""

from __future__ import annotations

import ctypes
import itertools
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from relight.checkpoints.pack import order_for_pack
from relight.checkpoints.snapshot_header import Slice, TensorSpec
from relight.training.state.state_tree import DTYPE_NAMES

_TOLD_BYTES = 16 << 20
_PART_BYTES = 2 << 20
"""Tensors of twice this size or more are copied by several threads, each of which copies at least so much."""
_MOST_THREADS = 8
_WHOLE: Mapping[str, Slice] = MappingProxyType({})


def describe_tensors(tensors: Mapping[str, Tensor], slices: Mapping[str, Slice] = _WHOLE) -> list[TensorSpec]:
    """Describe the tensors in the order in which they will be staged. `slices` says which of them are parts."""
    return [
        TensorSpec(name, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape), tensor.nbytes, slices.get(name))
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
    threads = _count_threads()
    with (
        torch.no_grad(),
        DeviceCopies(on_copied) as copies,
        ThreadPoolExecutor(threads, thread_name_prefix="relight-copy") as pool,
    ):
        for count, index in enumerate(order_for_pack(describe_tensors(tensors)), 1):
            tensor, piece = pairs[index]
            if tensor.nbytes:
                target = torch.frombuffer(piece, dtype=torch.uint8, count=tensor.nbytes)
                if tensor.is_cuda:
                    copies.queue(target, tensor)
                else:
                    _copy(target, tensor, pool, threads)
            untold_bytes += tensor.nbytes
            if untold_bytes >= _TOLD_BYTES:
                copies.tell(count)
                untold_bytes = 0


@cache
def side_stream(device: torch.device) -> Any:
    """Return the stream for copies from this device: always the same, since PyTorch keeps memory for each stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


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
            stream = self._streams[source.device] = side_stream(source.device)
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


def _copy(target: Tensor, tensor: Tensor, pool: ThreadPoolExecutor, threads: int) -> None:
    plain = tensor.resolve_conj().resolve_neg()
    if plain.is_contiguous() and plain.device.type == "cpu":
        _move(target.data_ptr(), plain.data_ptr(), plain.nbytes, pool, threads)
    elif plain.is_contiguous() or target.data_ptr() % plain.element_size():
        target.copy_(plain.contiguous().reshape(-1).view(torch.uint8))
    else:
        target.view(plain.dtype).view(plain.shape).copy_(plain)  # rearranged on the way, without an extra copy


def _move(target: int, source: int, nbytes: int, pool: ThreadPoolExecutor, threads: int) -> None:
    """Copy memory with the C library, which does not read the target into the caches first, as PyTorch does.

    From which size on it does that, `glibc.cpu.x86_non_temporal_threshold` says; the supervisor sets it.
    """
    parts = max(1, min(threads, nbytes // _PART_BYTES))
    bounds = [nbytes * part // parts // 64 * 64 for part in range(parts)] + [nbytes]
    others = [
        pool.submit(ctypes.memmove, target + begin, source + begin, end - begin)
        for begin, end in itertools.pairwise(bounds[1:])
    ]
    ctypes.memmove(target, source, bounds[1])
    for other in others:
        other.result()


def _count_threads() -> int:
    """Return how many threads copy. The training waits, so its cores are free, and one leaves bandwidth unused."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, max(2, torch.get_num_threads()), _MOST_THREADS)
