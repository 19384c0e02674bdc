"""Staging memory is registered with CUDA once, and never unmapped while it is. CUDA itself is a fake here."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from relight.checkpoints.staging import StagingMemory
from relight.training.state.page_locking import find_register, lock_pages

NBYTES = 1 << 20
INVALID = 1


class Runtime:
    """The calls of the CUDA runtime that are used. It remembers an error, as CUDA does."""

    def __init__(self) -> None:
        self.registered: dict[int, int] = {}
        self.refuses: set[str] = set()
        self.error = 0

    def cudaHostRegister(self, address: int, nbytes: int, flags: int) -> int:
        assert is_mapped(address) and address not in self.registered and flags == 1
        if "register" in self.refuses:
            self.error = INVALID
            return INVALID
        self.registered[address] = nbytes
        return 0

    def cudaHostUnregister(self, address: int) -> int:
        assert is_mapped(address), "it was unmapped while it was registered"
        if "unregister" in self.refuses:
            self.error = INVALID
            return INVALID
        del self.registered[address]
        return 0

    def launch(self, *_: object, **__: object) -> None:
        """Launch a kernel: it reports the error that is remembered."""
        error, self.error = self.error, 0
        if error:
            raise RuntimeError("CUDA error: invalid argument")


def is_mapped(address: int) -> bool:
    areas = (line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines())
    return any(int(begin, 16) <= address < int(end, 16) for begin, end in areas)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    fake = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: fake)
    monkeypatch.setattr(torch, "ones", fake.launch)
    yield fake
    fake.launch()  # no error is left for the training


def make_memory() -> StagingMemory:
    memory = StagingMemory.create(NBYTES)
    memory.offer(lock_pages)
    return memory


def test_memory_is_registered_once_and_unregistered_before_it_is_unmapped(runtime: Runtime) -> None:
    memory = make_memory()
    memory.offer(lock_pages)
    ((address, nbytes),) = runtime.registered.items()
    assert nbytes == memory.nbytes
    memory.close()
    assert not runtime.registered and not is_mapped(address)
    memory.close()


def test_memory_that_is_still_in_use_is_unregistered_too(runtime: Runtime) -> None:
    memory = make_memory()
    view = memory.view[:1]
    memory.close()
    assert not runtime.registered
    view[0] = 7


def test_memory_that_no_one_closed_is_unregistered_before_it_is_unmapped(runtime: Runtime) -> None:
    memory = make_memory()
    (address,) = runtime.registered
    del memory
    gc.collect()
    assert not runtime.registered and not is_mapped(address)


def test_memory_that_cannot_be_unregistered_stays_mapped(runtime: Runtime) -> None:
    memory = make_memory()
    runtime.refuses.add("unregister")
    (address,) = runtime.registered
    memory.close()
    memory.close()
    del memory
    gc.collect()
    assert is_mapped(address)


def test_a_refusal_is_not_repeated_and_the_memory_is_used_as_it_is(runtime: Runtime) -> None:
    runtime.refuses.add("register")
    memory = make_memory()
    runtime.refuses.clear()
    memory.offer(lock_pages)
    memory.view[0] = 7
    memory.close()
    assert not runtime.registered


def test_only_a_state_on_a_cuda_device_asks_for_it() -> None:
    assert find_register([torch.zeros(1), torch.zeros(1, device="meta")]) is None
