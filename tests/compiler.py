"""Whether processes of the tests, pytest's own workers too, load PyTorch's compiler, as they do outside of tests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path

import pytest

_STAND_IN = str(Path(__file__).with_name("without_compiler"))


def leave_out_compiler(environment: MutableMapping[str, str]) -> None:
    """Save every process with this environment the 1.3 s that loading it takes."""
    environment["PYTHONPATH"] = os.pathsep.join([_STAND_IN, *_other_folders(environment)])


def with_compiler(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that runs as a person's does."""
    others = _other_folders(environment)
    rest = {name: value for name, value in environment.items() if name != "PYTHONPATH"}
    return rest | ({"PYTHONPATH": os.pathsep.join(others)} if others else {})


@contextmanager
def loading_compiler() -> Iterator[None]:
    """Let all processes that are started meanwhile load PyTorch's compiler, which DTensor needs."""
    environment = with_compiler(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        if "PYTHONPATH" in environment:
            patch.setenv("PYTHONPATH", environment["PYTHONPATH"])
        yield


def _other_folders(environment: Mapping[str, str]) -> list[str]:
    return [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder not in ("", _STAND_IN)]
