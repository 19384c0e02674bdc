"""`make gpu` refuses in one sentence what cannot work, sets itself up without a network, and can be rehearsed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository.conftest import ROOT

_CUDA_FREE = {"CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the set-up reads, in a folder whose name breaks careless quoting."""
    folder = tmp_path / "a 0'; echo x"
    (folder / "core").mkdir(parents=True)
    (folder / "app").mkdir()
    for name in ("pyproject.toml", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def set_up(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["scripts/set-up-gpu", *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHON": sys.executable, **_CUDA_FREE, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def torch_stand_in(tmp_path: Path) -> str:
    """A PyTorch that will do, without the seconds that importing it takes."""
    return write_torch(tmp_path, "__version__ = '2.11.0'")


def write_torch(folder: Path, text: str) -> str:
    """Write a stand-in for torch; return the PYTHONPATH that puts it first."""
    (folder / "stand-in").mkdir()
    (folder / "stand-in" / "torch.py").write_text(text)
    return str(folder / "stand-in")


@pytest.mark.parametrize(
    ("torch", "sentence"),
    [
        ("raise ModuleNotFoundError", "has no PyTorch. Name another interpreter with make gpu PYTHON="),
        ("raise ImportError('libcudart.so.13')", "cannot be imported (libcudart.so.13). Name another interpreter"),
        ("__version__ = '2.6.1+cu124'", "has PyTorch 2.6.1+cu124, and torch>=2.7 is needed. Name another interpreter"),
    ],
)
def test_a_python_without_a_pytorch_that_will_do_gets_one_sentence(
    checkout: Path, tmp_path: Path, torch: str, sentence: str
) -> None:
    result = set_up(checkout, "--rehearse", PYTHONPATH=write_torch(tmp_path, torch))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert sentence in line
    assert not (checkout / ".venv-gpu").exists()


@pytest.mark.parametrize(
    ("cuda", "sentence"),
    [
        ("'13.0'", "PyTorch finds no NVIDIA card on this machine: nvidia-smi says whether the driver does."),
        ("None", "was built without CUDA: install a build with CUDA."),
    ],
)
def test_a_machine_without_a_card_gets_one_sentence_that_names_the_rehearsal(
    checkout: Path, tmp_path: Path, cuda: str, sentence: str
) -> None:
    text = f"""
class cuda:
    is_available = staticmethod(lambda: False)
class version:
    cuda = {cuda}
__version__ = "2.11.0"
"""
    result = set_up(checkout, PYTHONPATH=write_torch(tmp_path, text))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert sentence in line
    assert line.endswith("To rehearse on the CPU: make gpu ARGS=--rehearse")


@pytest.mark.parametrize(
    ("command", "sentence"),
    [("exit 127", "does not start."), ("echo 3.10", "is Python 3.10, and make gpu needs 3.11 or newer.")],
)
def test_a_python_that_will_not_do_gets_one_sentence(
    checkout: Path, tmp_path: Path, command: str, sentence: str
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{command}\n")
    python.chmod(0o755)
    result = set_up(checkout, PYTHON=str(python))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"relight: {python} {sentence}")


def test_without_a_bundle_the_packages_of_the_machine_are_used(checkout: Path, torch_stand_in: str) -> None:
    (checkout / "core" / "mine.py").touch()
    result = set_up(checkout, "--rehearse", PYTHONPATH=torch_stand_in)
    assert result.returncode == 0, result.stderr
    ask = "import json, mine, msgspec, sys; print(json.dumps([sys.prefix, mine.__file__, msgspec.__file__]))"
    printed = subprocess.run(
        [checkout / ".venv-gpu" / "bin" / "python", "-P", "-c", ask],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    prefix, mine, msgspec = json.loads(printed)
    assert (prefix, mine) == (str(checkout / ".venv-gpu"), str(checkout / "core" / "mine.py"))
    assert not msgspec.startswith(prefix)


@pytest.mark.parametrize(
    ("bundle", "reason"),
    [(None, "and there is no .gpu-bundle."), ("3.99", "and .gpu-bundle is for Python 3.99, not 3.")],
)
def test_what_is_missing_is_named_with_the_command_that_collects_it(
    checkout: Path, torch_stand_in: str, bundle: str | None, reason: str
) -> None:
    project = (checkout / "pyproject.toml").read_text()
    (checkout / "pyproject.toml").write_text(project.replace('"numpy>=1.26",', '"numpy>=99", "not-there>=1",'))
    if bundle is not None:
        (checkout / ".gpu-bundle").mkdir()
        (checkout / ".gpu-bundle" / "python-version").write_text(f"{bundle}\n")
    result = set_up(checkout, "--rehearse", PYTHONPATH=torch_stand_in)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"This machine lacks numpy>=99, not-there>=1, {reason}" in line
    assert f"run scripts/gpu-bundle 3.{sys.version_info.minor};" in line


def test_the_bundle_holds_every_requirement_but_pytorch() -> None:
    pins = subprocess.run(
        [sys.executable, "scripts/gpu_packages.py", "pins"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    names = {pin.partition("==")[0] for pin in pins}
    assert "torch" not in names
    assert {"msgspec", "numpy", "pydantic", "pytest", "pytest-timeout", "safetensors"} <= names
    assert all("==" in pin for pin in pins)


@pytest.mark.processes
def test_at_the_overall_limit_the_table_says_what_did_not_run(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/run_gpu.py", "--rehearse", "--folder", tmp_path, "--limit-s", "15.2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "| test_kill_and_resume | failed | ended after 0 s, its limit |" in done.stdout
    assert "| save 0.002 GB | failed | not run: the 15 s for everything were over |" in done.stdout
    assert "Written to" not in done.stdout
