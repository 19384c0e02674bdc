"""Chooses the device that trains, and describes it in one line."""

from __future__ import annotations

import platform

import torch

from relight.errors import DeviceError


def choose_device(name: str) -> torch.device:
    """Return the device for a config's `device`; "auto" prefers CUDA, then MPS, then the CPU.

    Raises `DeviceError` if this machine does not have the device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        return _check_cuda(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device=mps is not available: PyTorch finds no Apple GPU on this machine. Use device=auto.")
    return device


def describe_device(device: torch.device) -> str:
    """Describe `device` for people: "cuda:0 (NVIDIA H100, 79.2 GiB)", "cpu (2 threads)"."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{device} ({properties.name}, {properties.total_memory / 2**30:.1f} GiB)"
    if device.type == "mps":
        return f"mps ({platform.processor() or platform.machine()})"
    threads = torch.get_num_threads()
    return f"cpu ({threads} thread{'s' if threads != 1 else ''})"


def explain_choice(asked: str, device: torch.device) -> str:
    """Return one line that says which device trains, and why."""
    if asked != "auto":
        return f"Device: {describe_device(device)}."
    reason = {
        "cuda": "chosen because PyTorch finds a CUDA GPU",
        "mps": "chosen because PyTorch finds an Apple GPU",
        "cpu": "chosen because PyTorch finds no GPU",
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
        raise DeviceError(f"device={device} is not available: {reason}. Use device=auto or device=cpu.")
    count = torch.cuda.device_count()
    if wanted >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise DeviceError(f"device={device} is not available: this machine only has {there}.")
    return torch.device("cuda", wanted)
