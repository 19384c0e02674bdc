"""The fixture `fake_nvml`: the C stub, compiled once a session, with a state file of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

_SOURCE = Path(__file__).with_name("nvml.c")


class FakeNvml:
    """A machine with the cards that `write` says. Processes that are started with `environment` see them."""

    def __init__(self, library_folder: Path, state: Path) -> None:
        self.state = state
        self.environment = {**os.environ, "LD_LIBRARY_PATH": str(library_folder), "FAKE_NVML": str(state)}

    def write(self, *cards: dict[str, Any], **driver: Any) -> None:
        """Set the whole state: one dict a card, and keys of the driver (`init=9`). Nested dicts become dotted keys.

        A process that is watching sees it with its next call.
        """
        state = {"driver": "580.65.06", "cuda": 13000, "count": len(cards), **driver}
        state |= {f"g{index}": card for index, card in enumerate(cards)}
        lines = "".join(f"{key}={value}\n" for key, value in _flat(state).items())
        fresh = self.state.with_suffix(".new")
        fresh.write_text(lines)
        fresh.replace(self.state)

    @staticmethod
    def card(index: int = 0, **changes: Any) -> dict[str, Any]:
        """A healthy, busy card. Set a key to None to take that sensor away."""
        card = {
            "name": "NVIDIA H200",
            "uuid": f"GPU-{index:08d}",
            "mem_total": 150_754_820_096,
            "mem_used": 81_604_378_624,
            "util": 97,
            "temp": 61,
            "power_mw": 650_500,
            "power_limit_mw": 700_000,
            "sm_clock": 1410,
            "max_sm_clock": 1980,
            "reasons": 0,
        }
        return {key: value for key, value in (card | changes).items() if value is not None}


def _flat(state: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


@pytest.fixture(scope="session")
def fake_nvml_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc or clang) to build the fake NVIDIA library with")
    folder = tmp_path_factory.mktemp("fake-nvml")
    library = folder / "libnvidia-ml.so.1"
    command = [compiler, "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(_SOURCE)]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def fake_nvml(fake_nvml_folder: Path, tmp_path: Path) -> FakeNvml:
    fake = FakeNvml(fake_nvml_folder, tmp_path / "fake-nvml.txt")
    fake.write()
    return fake
