"""The built-in tasks: their descriptions match their implementations, and missing requirements are named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from relight.errors import ConfigError, TaskError, UsageError
from relight.tasks import digits_config, stdlib_gpt_config
from relight.tasks.built_in import BUILTIN_TASKS, find_builtin
from relight.tasks.digits_config import DigitsConfig
from relight.tasks.images_config import ImagesConfig
from relight.tasks.stdlib_gpt_config import StdlibGptConfig


def test_the_catalog_and_the_implementations_agree() -> None:
    compare = """
import importlib
from relight.runs.records import Objective
from relight.tasks.built_in import BUILTIN_TASKS
from relight.tasks.config import full_metric_name
for task in BUILTIN_TASKS.values():
    module, _, name = task.implementation.partition(":")
    implementation = getattr(importlib.import_module(module), name)
    assert implementation.Config is task.config_class, task.name
    assert implementation.objective() == task.objective, task.name
"""
    result = subprocess.run([sys.executable, "-c", compare], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("name", "near"), [("digit", "digits"), ("Stdlib_GPT", "stdlib-gpt"), ("image", "images")])
def test_an_unknown_task_gets_the_nearest_and_all_names(name: str, near: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_builtin(name)
    assert f"Unknown task '{name}'. Did you mean '{near}'?" in str(caught.value)
    assert "Built-in tasks are digits, stdlib-gpt, images" in str(caught.value)


def test_the_default_configs_of_digits_and_stdlib_gpt_can_be_trained_here() -> None:
    for name in ("digits", "stdlib-gpt"):
        BUILTIN_TASKS[name].check(BUILTIN_TASKS[name].config_class())


def test_digits_without_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TaskError, match="pip install scikit-learn"):
        digits_config.check(DigitsConfig())


def test_images_without_pillow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TaskError, match="pip install pillow"):
        BUILTIN_TASKS["images"].check(ImagesConfig(data="/"))


def test_images_without_a_folder_says_which_key_to_set() -> None:
    with pytest.raises(ConfigError, match="set data=FOLDER"):
        BUILTIN_TASKS["images"].check(ImagesConfig())


def test_stdlib_gpt_without_sources_says_which_python_to_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdlib_gpt_config, "stdlib_root", lambda: tmp_path)
    with pytest.raises(TaskError, match=r"has no \.py files"):
        stdlib_gpt_config.check(StdlibGptConfig())
