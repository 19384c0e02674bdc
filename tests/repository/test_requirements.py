"""Every direct requirement is pinned, has its reason, and is inside the bounds that the package declares."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
_PIN = re.compile(r"([A-Za-z0-9_.-]+)==(\S+)\s+# \S.*")


def _read_pins(name: str) -> dict[str, str]:
    pins: dict[str, str] = {}
    for line in (ROOT / name).read_text().splitlines():
        if not line or line.startswith(("#", "-r ")):
            continue
        match = _PIN.fullmatch(line)
        assert match, f"{name}: '{line}' is not 'package==version  # reason'"
        pins[canonicalize_name(match[1])] = match[2]
    return pins


FRAMEWORKS = "requirements-frameworks.txt"


@pytest.mark.parametrize(
    "name",
    ["requirements.txt", "requirements-dev.txt", "requirements-soak.txt", FRAMEWORKS, "benchmarks/requirements.txt"],
)
def test_every_requirement_is_pinned_with_its_reason(name: str) -> None:
    assert _read_pins(name)


def test_the_package_declares_exactly_what_is_pinned_and_allows_the_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    requirements = {canonicalize_name(r.name): r for r in map(Requirement, declared)}
    pins = _read_pins("requirements.txt") | _read_pins(FRAMEWORKS)
    assert sorted(requirements) == sorted(pins)
    assert [name for name, r in requirements.items() if pins[name] not in r.specifier] == []
