"""`make` finds a Python that works, installs once, and says in one line what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.repository.conftest import Checkout


def _complaints(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if not line.startswith("make: ")]


def test_no_python_at_all_gets_one_line_that_says_what_to_install(checkout: Checkout) -> None:
    result = checkout.run("make", "run")
    assert result.returncode != 0
    (line,) = _complaints(result.stderr)
    assert line.startswith("relight: Python 3.11, 3.12 or 3.13 is needed.")
    assert "apt-get install python3" in line
    assert not (checkout.path / ".venv").exists()


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.14", "2.7"])
def test_a_python_out_of_range_gets_one_line_that_names_it(checkout: Checkout, version: str) -> None:
    checkout.add_python("python3", version=version)
    result = checkout.run("make", "test")
    assert result.returncode != 0
    (line,) = _complaints(result.stderr)
    assert f"python3 is {version}" in line


def test_a_python_without_venv_gets_one_line_that_names_the_package(checkout: Checkout) -> None:
    checkout.add_python("python3", version="3.12", has_venv=False)
    result = checkout.run("make", "check")
    assert result.returncode != 0
    (line,) = _complaints(result.stderr)
    assert "apt-get install python3.12-venv" in line


def test_a_command_that_only_fails_is_passed_over(checkout: Checkout) -> None:
    checkout.add_command("python3", "#!/bin/sh\necho 'python3: command not found' >&2\nexit 127\n")
    checkout.add_python("python3.12", version="3.12")
    result = checkout.run("scripts/find-python")
    assert (result.returncode, result.stderr) == (0, "")
    assert Path(result.stdout.strip()).name == "python3.12"


def test_the_default_python_is_preferred_when_it_is_in_range(checkout: Checkout) -> None:
    checkout.add_python("python3", version="3.11")
    checkout.add_python("python3.13", version="3.13")
    assert Path(checkout.run("scripts/find-python").stdout.strip()).name == "python3"


def test_the_variable_python_decides_alone(checkout: Checkout) -> None:
    checkout.add_python("python3", version="3.11")
    checkout.add_python("mine", version="3.13")
    assert Path(checkout.run("scripts/find-python", PYTHON="mine").stdout.strip()).name == "mine"
    assert checkout.run("scripts/find-python", PYTHON="nobody").returncode == 1


def test_the_second_start_installs_nothing(checkout: Checkout) -> None:
    checkout.add_python("python3", version="3.12")
    assert checkout.run("scripts/set-up-venv", "run").returncode == 0
    second = checkout.run("scripts/set-up-venv", "run")
    assert (second.returncode, second.stdout, len(checkout.installs())) == (0, "", 1)


def test_what_the_tests_need_covers_what_the_dashboard_needs(checkout: Checkout) -> None:
    checkout.add_python("python3", version="3.12")
    assert checkout.run("scripts/set-up-venv", "dev").returncode == 0
    assert checkout.run("scripts/set-up-venv", "run").returncode == 0
    (install,) = checkout.installs()
    assert install.endswith("-r requirements-dev.txt --editable .")


@pytest.mark.parametrize("changed", ["requirements.txt", "pyproject.toml"])
def test_a_changed_requirement_is_installed_at_the_next_start(checkout: Checkout, changed: str) -> None:
    checkout.add_python("python3", version="3.12")
    checkout.run("scripts/set-up-venv", "run")
    with (checkout.path / changed).open("a") as file:
        file.write("# changed\n")
    checkout.run("scripts/set-up-venv", "run")
    assert len(checkout.installs()) == 2


def test_a_failed_install_says_so_and_is_tried_again(checkout: Checkout) -> None:
    checkout.add_python("python3", version="3.12")
    failed = checkout.run("make", "run", PIP_EXIT="1")
    assert failed.returncode != 0
    (line,) = _complaints(failed.stderr)
    assert "could not be installed" in line
    assert checkout.run("scripts/set-up-venv", "run").returncode == 0
    assert len(checkout.installs()) == 2


def test_a_moved_checkout_gets_a_new_venv(checkout: Checkout) -> None:
    checkout.add_python("python3", version="3.12")
    checkout.run("scripts/set-up-venv", "run")
    (checkout.path / ".venv" / "left-over").touch()
    moved = Checkout(path=checkout.path.with_name("moved"), commands=checkout.commands, pip_log=checkout.pip_log)
    shutil.move(checkout.path, moved.path)
    assert moved.run("scripts/set-up-venv", "run").returncode == 0
    assert not (moved.path / ".venv" / "left-over").exists()
    assert len(moved.installs()) == 2


def test_a_venv_of_somebody_else_is_used_and_never_removed(checkout: Checkout) -> None:
    checkout.add_python("python3", version="3.12")
    checkout.run("python3", "-m", "venv", ".venv")
    assert checkout.run("scripts/set-up-venv", "run").returncode == 0
    result = checkout.run("make", "clean")
    assert result.returncode == 0
    assert "left as it is" in result.stdout
    assert (checkout.path / ".venv" / "bin" / "python").exists()


def test_clean_removes_what_make_made_and_no_run(checkout: Checkout) -> None:
    checkout.add_python("python3", version="3.12")
    checkout.run("scripts/set-up-venv", "dev")
    for folder in ("runs/digits-k3f9", "data", "core/relight/__pycache__", ".mypy_cache"):
        (checkout.path / folder).mkdir(parents=True)
    assert checkout.run("make", "clean").returncode == 0
    left = {path.name for path in checkout.path.iterdir()}
    assert {"runs", "data", "core"} <= left
    assert not {".venv", ".mypy_cache"} & left
    assert (checkout.path / "runs" / "digits-k3f9").is_dir()
    assert not (checkout.path / "core" / "relight" / "__pycache__").exists()
