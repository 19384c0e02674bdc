"""A copy of what the set-up needs, and a PATH that holds only the commands a test puts there."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_SYSTEM = ("make", "sh", "uname", "cat", "cksum", "dirname", "mkdir", "rm", "cp", "find", "echo", "chmod")

# Stands in for an interpreter: answers what the set-up asks, copies itself as the .venv's Python, logs what pip gets.
_PYTHON = """#!/bin/sh
case "$1 $2" in
"-V "*) echo "Python {version}" ;;
*"%d.%d"*) echo {version} ;;
*ensurepip*) exit {venv_exit} ;;
*"print(sys.executable)"*) echo "$0" ;;
"-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
"-m pip") [ "$3" = --version ] || {{ echo "$@" >>"$PIP_LOG"; exit "${{PIP_EXIT:-0}}"; }} ;;
esac
"""


@dataclass(frozen=True)
class Checkout:
    """A bare copy of the repository's set-up, with a PATH of its own."""

    path: Path
    commands: Path
    pip_log: Path

    def add_command(self, name: str, text: str) -> None:
        """Put a script on the PATH."""
        command = self.commands / name
        command.write_text(text)
        command.chmod(0o755)

    def add_python(self, name: str, *, version: str, has_venv: bool = True) -> None:
        """Put a stand-in for a Python of that version on the PATH."""
        self.add_command(name, _PYTHON.format(version=version, venv_exit=0 if has_venv else 1))

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy; the caller looks at its exit code."""
        return subprocess.run(
            command,
            cwd=self.path,
            env={"PATH": str(self.commands), "HOME": str(self.path), "PIP_LOG": str(self.pip_log), **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def installs(self) -> list[str]:
        """What pip was asked to install, one line a call."""
        return self.pip_log.read_text().splitlines() if self.pip_log.exists() else []


@pytest.fixture(params=["checkout", "a 0'; echo x"])
def checkout(request: pytest.FixtureRequest, tmp_path: Path) -> Checkout:
    """The set-up's files in a new folder, once with a name that breaks careless quoting."""
    path, commands = tmp_path / request.param, tmp_path / "commands"
    path.mkdir()
    commands.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, path / name)
    for folder in ("scripts", ".ci"):
        shutil.copytree(ROOT / folder, path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("app", "core", "tests", "benchmarks"):
        (path / folder).mkdir()
    for tool in _SYSTEM:
        found = shutil.which(tool, path=os.defpath + ":" + os.environ["PATH"])
        assert found, f"{tool} is missing on this machine"
        (commands / tool).symlink_to(found)
    return Checkout(path=path, commands=commands, pip_log=tmp_path / "pip.log")
