"""What may change the bits of a training is written down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
    assert written["determinism"]["sentence"].startswith("Deterministic kernels")
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
compiler.deterministic = False
prepare_determinism(torch.device("cpu"))
print(getattr(compiler, "deterministic", True))
"""
    clean = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_DETERMINISTIC"}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "False", "True", "True"]


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
