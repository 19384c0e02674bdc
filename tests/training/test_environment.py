"""Everything in the environment that may change the bits of a training is recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from relight.training.environment import describe_environment, describe_git, prepare_determinism, write_environment


@pytest.fixture
def _deterministic_flags() -> object:
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("_deterministic_flags")
def test_the_environment_names_versions_device_threads_and_determinism(tmp_path: Path) -> None:
    device = torch.device("cpu")
    prepare_determinism(device)
    write_environment(tmp_path / "environment.json", describe_environment(device, code_folder=None))
    written = json.loads((tmp_path / "environment.json").read_text())
    assert written["version"] == 1
    assert written["torch"] == str(torch.__version__)
    assert written["device"] == "cpu"
    assert written["threads"] == torch.get_num_threads()
    assert written["determinism"]["deterministic_algorithms"] is True
    assert written["determinism"]["sentence"].startswith("PyTorch uses deterministic kernels")
    assert written["git"] is None
    assert {"python", "host", "cuda", "cudnn", "gpu", "tf32", "numpy", "cpu", "world_size"} <= set(written)


def test_deterministic_kernels_are_chosen_without_loading_the_compiler_and_hold_for_it_too() -> None:
    code = """
import os, sys, torch
from relight.training.environment import prepare_determinism
prepare_determinism(torch.device("cpu"))
print(torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
print("torch._dynamo" in sys.modules)
import torch._inductor.config as compiler
print(getattr(compiler, "deterministic", True))
if hasattr(compiler, "deterministic"):
    compiler.deterministic = False
prepare_determinism(torch.device("cpu"))
print(getattr(compiler, "deterministic", True))
"""
    clean = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_DETERMINISTIC"}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "False", "True", "True"]


@pytest.mark.usefixtures("_deterministic_flags")
def test_vector_math_is_called_on_one_thread_before_several_can_call_it_for_the_first_time() -> None:
    called: set[tuple[str, torch.dtype, int]] = set()

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if args and isinstance(args[0], torch.Tensor):
                called.add((str(func), args[0].dtype, args[0].numel()))
            return func(*args, **(kwargs or {}))

    with Recorder():
        prepare_determinism(torch.device("cpu"))
    for name in ("exp", "log", "sin", "sqrt", "tanh"):
        for dtype in (torch.float32, torch.float64):
            assert (f"aten.{name}.default", dtype, 1) in called


def test_the_commit_of_the_tasks_code_is_found_and_a_change_is_noticed(tmp_path: Path) -> None:
    assert describe_git(tmp_path) is None

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "task.py").write_text("x = 1\n")
    git("add", "task.py")
    git("commit", "-q", "-m", "first")
    assert describe_git(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "task.py").write_text("x = 2\n")
    described = describe_git(tmp_path)
    assert described is not None
    assert described["changed"] is True
