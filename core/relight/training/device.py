"""Which device trains, said in one line, and a sentence instead of a crash when the asked one is not there."""

from __future__ import annotations

import platform

import torch

from relight.errors import DeviceError


def choose_device(name: str) -> torch.device:
    """Turn a config's `device` into a device of this machine; "auto" takes CUDA, then MPS, then the CPU.

    Raises `DeviceError` with one sentence when the machine does not have the device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        return _check_cuda(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError(
            "device=mps was asked for, but this machine has no Apple GPU that PyTorch can use: use device=auto."
        )
    return device


def describe_device(device: torch.device) -> str:
    """Name `device` for people: "cuda:0 (NVIDIA H100, 79.2 GiB)", "cpu (2 threads)"."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device} ({properties.name}, {properties.total_memory / 2**30:.1f} GiB)"
    if device.type == "mps":
        return f"mps ({platform.processor() or platform.machine()})"
    threads = torch.get_num_threads()
    return f"cpu ({threads} thread{'s' if threads != 1 else ''})"


def explain_choice(asked: str, device: torch.device) -> str:
    """Say in one line which device trains, and why."""
    if asked != "auto":
        return f"Device: {describe_device(device)}."
    reason = {
        "cuda": "chosen because there is a CUDA GPU",
        "mps": "chosen because there is an Apple GPU",
        "cpu": "chosen because there is no GPU that PyTorch can use",
    }[device.type]
    return f"Device: {describe_device(device)}, {reason}."


def _check_cuda(device: torch.device) -> torch.device:
    wanted = device.index or 0
    if not torch.cuda.is_available():
        reason = (
            "this PyTorch was built without CUDA"
            if not torch.backends.cuda.is_built()  # type: ignore[no-untyped-call]
            else "PyTorch finds no CUDA GPU on this machine"
        )
        raise DeviceError(f"device={device} was asked for, but {reason}: use device=auto or device=cpu.")
    count = torch.cuda.device_count()
    if wanted >= count:
        there = "only cuda:0" if count == 1 else f"only cuda:0 to cuda:{count - 1}"
        raise DeviceError(f"device={device} was asked for, but this machine has {there}: name one of these.")
    return torch.device("cuda", wanted)
