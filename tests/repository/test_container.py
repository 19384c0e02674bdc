"""The Dockerfile passes its linter and keeps its promises: not root, checked, on the port, only the sources inside."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def _lint(path: Path) -> subprocess.CompletedProcess[str]:
    hadolint = Path(sys.executable).with_name("hadolint")
    return subprocess.run([hadolint, path], capture_output=True, text=True, timeout=60, check=False)


def test_the_linter_finds_nothing() -> None:
    result = _lint(ROOT / "Dockerfile")
    assert (result.returncode, result.stdout) == (0, "")


def test_the_linter_would_find_something(tmp_path: Path) -> None:
    broken = tmp_path / "Dockerfile"
    broken.write_text(DOCKERFILE.replace("WORKDIR /app", "WORKDIR app"))
    assert "DL3000" in _lint(broken).stdout


def test_the_image_runs_as_a_fixed_user_that_is_not_root() -> None:
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]


def test_base_and_package_index_can_be_chosen() -> None:
    arguments = set(re.findall(r"^ARG (\w+)=", DOCKERFILE, re.MULTILINE))
    assert {"BASE", "PIP_INDEX_URL"} <= arguments


def test_everything_that_is_copied_reaches_the_builder() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        word.removeprefix("./")
        for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)
        for word in line.split()[:-1]
    }
    assert copied == allowed
    assert [name for name in sorted(copied) if not (ROOT / name).exists()] == []


def test_compose_starts_what_the_image_starts_and_mounts_its_volumes() -> None:
    compose = (ROOT / "compose.yaml").read_text()
    (command,) = re.findall(r"command: >-\n +(.+)\n", compose)
    (default,) = re.findall(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)
    assert command.split() == [*json.loads(default), "--resume-interrupted"]
    (volumes,) = re.findall(r"^VOLUME (.+)$", DOCKERFILE, re.MULTILINE)
    assert re.findall(r"- \./\w+:(/\w+)$", compose, re.MULTILINE) == json.loads(volumes)
    (port,) = re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE)
    assert re.findall(r"127\.0\.0\.1:\S+:(\d+)$", compose, re.MULTILINE) == [port]
