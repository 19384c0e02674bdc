"""Says which packages the tests on a card need, which of them a machine lacks, and whether its PyTorch will do.

    gpu_packages.py pins            the versions that scripts/gpu-bundle collects
    gpu_packages.py check [cuda]    an error if this Python has no PyTorch that is new enough, and that finds a card
    gpu_packages.py missing         the packages that this Python lacks or has too old

It runs with any Python from 3.11 on, before anything is installed.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_TEST_PACKAGES = ["pytest", "pytest-timeout"]


def list_requirements() -> list[str]:
    """Return what the engine and the tests on a card need, with lower bounds."""
    declared: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "dependencies"
    ]
    return [*declared, *_TEST_PACKAGES]


def list_pins() -> list[str]:
    """Return the same with the versions of the requirements files, and without torch, which is the machine's own."""
    lines = "\n".join(
        (ROOT / name).read_text(encoding="utf-8") for name in ("requirements.txt", "requirements-dev.txt")
    )
    pins = {pin.partition("==")[0]: pin for pin in re.findall(r"^[\w.-]+==\S+", lines, re.MULTILINE)}
    return [pins[_name(requirement)] for requirement in list_requirements() if _name(requirement) != "torch"]


def list_missing() -> list[str]:
    """Return the requirements that the packages of this Python do not meet."""
    return [requirement for requirement in list_requirements() if not _is_met(requirement)]


def find_problem(*, needs_cuda: bool) -> str | None:
    """Say in one sentence why this Python cannot train here; None if it can."""
    python = f"{sys.executable} (Python {sys.version_info.major}.{sys.version_info.minor})"
    other = "Name another interpreter with make gpu PYTHON=/path/to/python3."
    try:
        import torch
    except ModuleNotFoundError:
        return f"{python} has no PyTorch. {other}"
    except Exception as error:  # a library of CUDA that cannot be loaded, say
        return f"The PyTorch of {python} cannot be imported ({error}). {other}"
    (needed,) = (requirement for requirement in list_requirements() if _name(requirement) == "torch")
    if _version(torch.__version__) < _version(needed.partition(">=")[2]):
        return f"{python} has PyTorch {torch.__version__}, and {needed} is needed. {other}"
    if needs_cuda and not torch.cuda.is_available():
        reason = (
            "PyTorch finds no NVIDIA card on this machine: nvidia-smi says whether the driver does"
            if torch.version.cuda
            else f"PyTorch {torch.__version__} of {python} was built without CUDA: install a build with CUDA"
        )
        return f"{reason}. To rehearse on the CPU: make gpu ARGS=--rehearse"
    return None


def _is_met(requirement: str) -> bool:
    name, _, lowest = requirement.partition(">=")
    try:
        return _version(metadata.version(name)) >= _version(lowest)
    except metadata.PackageNotFoundError:
        return False


def _name(requirement: str) -> str:
    return requirement.partition(">=")[0]


def _version(text: str) -> tuple[int, ...]:
    """Return the release numbers of a version: (2, 11, 0) for "2.11.0+cu130", none for an empty bound."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def main() -> int:
    """Do what the first argument says."""
    match sys.argv[1:]:
        case ["pins"]:
            print(*list_pins(), sep="\n")
        case ["missing"]:
            print(*list_missing(), sep="\n")
        case ["check", *what]:
            problem = find_problem(needs_cuda=what == ["cuda"])
            if problem is not None:
                print(f"relight: {problem}", file=sys.stderr)
                return 1
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
