"""Records what can change the bits that a training computes: versions, device, threads, determinism, the code."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from relight.checkpoints.store import CheckpointStore
from relight.runs.durable_file import write_durably
from relight.runs.fingerprint import FingerprintChange, compare_fingerprints, describe_code, take_fingerprint
from relight.runs.json_digest import add_digest
from relight.runs.layout import RunLayout
from relight.runs.records import AttemptStart
from relight.version import __version__

_GIT_TIMEOUT_S = 3.0
_VECTOR_MATH = (
    "acos", "asin", "atan", "cos", "erf", "erfc", "erfinv", "exp", "log", "log10", "log2", "sin", "sqrt", "tan", "tanh",
    "trunc",
)  # fmt: skip
_KEPT_IN_CHECKPOINTS = (
    "relight", "torch", "python", "numpy", "cuda", "cudnn", "device", "gpu", "gpu_capability", "cpu", "cpu_capability",
    "threads", "world_size", "tf32", "hash_seed", "git",
)  # fmt: skip


def prepare_determinism(device: torch.device) -> None:
    """Choose deterministic kernels where that costs nothing: every kernel on the CPU, cuBLAS and cuDNN on CUDA.

    Call it before the first CUDA call. Operations without a deterministic kernel still run, and PyTorch warns of them.
    """
    _settle_vector_math()
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    elif device.type == "cpu":
        # This is `use_deterministic_algorithms(True, warn_only=True)` without loading PyTorch's compiler, which takes
        # seconds. If other code loads it later, it reads the variable.
        torch.set_deterministic_debug_mode("warn")
        os.environ.setdefault("TORCHINDUCTOR_DETERMINISTIC", "1")
        compiler: Any = sys.modules.get("torch._inductor.config")
        if hasattr(compiler, "deterministic"):  # PyTorch 2.7 has none
            compiler.deterministic = True
        # Filling new memory with NaN is for finding bugs. It changes no result and costs time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _settle_vector_math() -> None:
    """Call each function that PyTorch takes from MKL's vector library once, on one thread.

    MKL chooses a kernel at a function's first call. If several threads make that call at the same time, one of them may
    get a kernel of low accuracy for this call only (github.com/pytorch/pytorch/issues/188792), and the first step of a
    resumed training would differ. Takes a few milliseconds.
    """
    for dtype in (torch.float32, torch.float64):
        number = torch.full((1,), 0.5, dtype=dtype, device="cpu")
        for name in _VECTOR_MATH:
            getattr(torch, name)(number)


def describe_environment(device: torch.device, *, code_folder: Path | None) -> dict[str, Any]:
    """Describe this process and machine. `code_folder` is the folder of the task's file; None for a built-in task."""
    return {
        "version": 1,
        "relight": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "host": platform.node(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "gpu_capability": _describe_capability(device),
        "cuda": torch.version.cuda,
        "cudnn": _version_of_cudnn(),
        "cpu": _name_cpu(),
        "cpu_count": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "openmp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "interop_threads": torch.get_num_interop_threads(),
        "world_size": 1,
        "tf32": {
            "matmul": torch.get_float32_matmul_precision(),
            "cudnn": torch.backends.cudnn.allow_tf32,
        },
        "determinism": describe_determinism(device),
        "hash_seed": os.environ.get("PYTHONHASHSEED"),
        "git": describe_git(code_folder) if code_folder is not None else None,
        "code": describe_code(code_folder) if code_folder is not None else None,
    }


def shorten_environment(environment: dict[str, Any]) -> dict[str, Any]:
    """Return the part that each checkpoint keeps: everything that a later attempt compares with its own environment."""
    short = {key: environment[key] for key in _KEPT_IN_CHECKPOINTS}
    if environment["code"] is not None:
        short["code"] = {"digest": environment["code"]["digest"]}
    short["determinism"] = {key: value for key, value in environment["determinism"].items() if key != "sentence"}
    return short


def find_changes(layout: RunLayout, start: AttemptStart, environment: dict[str, Any]) -> tuple[FingerprintChange, ...]:
    """Return what has changed since the checkpoint that the attempt starts from was made."""
    if start.from_sequence is None or start.weights_only:
        return ()
    store = CheckpointStore(layout.checkpoints)
    info = store.find_sequence(start.from_sequence)
    if info.reason == "import":
        return ()
    with store.open(info) as reader:
        return compare_fingerprints(take_fingerprint(reader.environment), take_fingerprint(environment))


def describe_determinism(device: torch.device) -> dict[str, Any]:
    """Describe which kernels are deterministic, as flags and in one sentence."""
    sentences = {
        "cpu": "PyTorch uses deterministic kernels: the same processor type and number of threads give the same bits.",
        "cuda": "cuBLAS and cuDNN are deterministic. Kernels that add in any order may differ in the last bits.",
        "mps": "PyTorch does not promise determinism on MPS.",
    }
    return {
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "sentence": sentences.get(device.type, f"Whether {device.type} is deterministic is unknown."),
    }


def describe_git(folder: Path) -> dict[str, Any] | None:
    """Return the commit of the git checkout that contains `folder`, and whether files are changed; None without one."""
    commit = _run_git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changes = _run_git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": None if changes is None else bool(changes)}


def write_environment(path: Path, environment: dict[str, Any], *, changes: tuple[FingerprintChange, ...] = ()) -> None:
    """Write the environment as indented JSON, with the changes since the checkpoint that the attempt starts from."""
    whole = {**environment, "changes": changes}
    write_durably(path, add_digest(msgspec.json.format(msgspec.json.encode(whole), indent=2)), durable=False)


def _run_git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def _version_of_cudnn() -> int | None:
    cudnn: Any = torch.backends.cudnn
    return cudnn.version() if cudnn.is_available() else None


def _describe_capability(device: torch.device) -> str | None:
    if device.type != "cuda":
        return None
    major, minor = torch.cuda.get_device_capability(device)
    return f"{major}.{minor}"


def _name_cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
