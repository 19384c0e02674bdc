"""What a result depends on: machine, versions, commit, and how busy the machine was."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = (
    "torch",
    "numpy",
    "safetensors",
    "msgspec",
    "xxhash",
    "lightning",
    "transformers",
    "accelerate",
    "torchdata",
)


def describe_machine() -> dict[str, Any]:
    """Return the facts about this machine that do not change during a measurement."""
    return {
        "cpu": _name_cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _find_commit(),
        **{name: version for name in _PACKAGES if (version := _find_version(name))},
    }


def describe_load() -> str:
    """Return the load averages of the last 1, 5 and 15 minutes. Above the number of cores, the machine was busy."""
    return " ".join(f"{load:.1f}" for load in os.getloadavg())


def _find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _find_commit() -> str | None:
    command = ["git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git on this machine, or a copy without its history
        return None


def _name_cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
