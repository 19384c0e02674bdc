"""`relight import` makes a run that can be resumed, or a safetensors file. Its errors are one line."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Ask

torch = pytest.importorskip("torch")

TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from relight import Data, Task, TaskConfig, option

class Line(Task):
    class Config(TaskConfig):
        width: int = option(3, "Width.", ge=1)
        epochs: int = option(2, "Passes.", ge=1)
        threads: int = option(1, "Threads.", ge=0)

    def build_model(self):
        return nn.Linear(2, self.config.width)

    def build_data(self):
        data = TensorDataset(torch.randn(16, 2, generator=torch.Generator().manual_seed(1)))
        return Data(train=data, validation=data)

    def step(self, model, batch):
        return {"loss": (model(batch[0]) - 1).square().mean()}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a task and weights for it in several forms."""
    place = tmp_path / "a 0"
    place.mkdir()
    (place / "line.py").write_text(TASK)
    torch.manual_seed(7)
    state = torch.nn.Linear(2, 3).state_dict()
    torch.save(state, place / "plain.pth")
    torch.save({"epoch": 4, "model_state_dict": {f"module.{k}": v for k, v in state.items()}, "optimizer": {"state": {},
                "param_groups": []}}, place / "full.pt")  # fmt: skip
    return place


@pytest.mark.thorough
@pytest.mark.processes
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("end_runs")
def test_an_imported_run_is_listed_exported_verified_and_trained_on(relight: Ask, runs: Path, folder: Path) -> None:
    answer = relight("import", str(folder / "full.pt"), "--task", f"{folder}/line.py:Line", "--name", "fine", "--json")
    assert (answer.exit_code, answer.stderr) == (0, "")
    told = answer.json
    source = told["imported_from"]
    assert source["sha256"] == hashlib.sha256((folder / "full.pt").read_bytes()).hexdigest()
    assert source["not_taken"] == ["epoch 4", "optimizer (optimizer state)"]
    shown = relight("show", "fine", "--json").json
    assert (shown["status"], shown["step"], shown["durable_step"], shown["attempt"]) == ("stopped", 0, 0, 0)
    assert shown["imported_from"]["name"] == "full.pt"
    assert "full.pt" in relight("show", "fine").stdout
    (listed,) = relight("checkpoints", "fine", "--json").json
    assert (listed["reason"], listed["step"], listed["verified"]) == ("import", 0, True)
    assert relight("digest", "fine").stdout.strip() == told["digest"]
    assert relight("verify", "fine").exit_code == 0
    exported = relight("export", "fine", "--which", "latest", "--format", "pth", "--json").json
    weights = torch.load(exported["path"], weights_only=True)
    assert all(torch.equal(value, weights[key]) for key, value in torch.load(folder / "plain.pth").items())
    assert json.loads(Path(exported["card"]).read_text())["imported_from"]["name"] == "full.pt"

    trained = relight("resume", "fine", timeout_s=240)
    assert trained.exit_code == 0, trained
    assert "resumes from its checkpoint at step 0" in trained.stdout
    again = relight(
        "import", str(folder / "plain.pth"), "--task", f"{folder}/line.py:Line", "--name", "again", "--json"
    )
    assert again.json["digest"] == told["digest"]
    relight("resume", "again", timeout_s=240)
    assert relight("digest", "again").stdout == relight("digest", "fine").stdout


@pytest.mark.processes
def test_weights_are_converted(relight: Ask, folder: Path) -> None:
    out = folder / "out.safetensors"
    answer = relight("import", str(folder / "full.pt"), "--out", str(out))
    assert answer.exit_code == 0
    path, sha256, size, what, left = answer.stdout.splitlines()
    assert path == str(out)
    assert sha256 == f"SHA-256 {hashlib.sha256(out.read_bytes()).hexdigest()}"
    assert size.startswith("safetensors, ")
    assert what.startswith("PyTorch checkpoint, entry 'model_state_dict': 2 tensors, 9 parameters, SHA-256 ")
    assert left == "Not imported: epoch 4, optimizer (optimizer state)."
    told = relight("import", str(folder / "full.pt"), "--out", str(out), "--json").json
    assert told.keys() == {"path", "imported_from", "tensors", "parameters", "notes", "sha256", "bytes"}


class Harm:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.processes
def test_a_malicious_file_is_one_line_and_nothing_happens(relight: Ask, runs: Path, folder: Path) -> None:
    torch.save({"state_dict": torch.load(folder / "plain.pth"), "x": Harm(folder / "it ran")}, folder / "evil.ckpt")
    answer = relight("import", str(folder / "evil.ckpt"), "--task", f"{folder}/line.py:Line")
    assert answer.exit_code == 1
    assert "evil.ckpt is malicious: loading it would run" in answer.error
    assert answer.stdout == ""
    assert not (folder / "it ran").exists()
    assert list(runs.iterdir()) == []


@pytest.mark.processes
def test_weights_of_another_shape_are_one_line_and_no_run(relight: Ask, runs: Path, folder: Path) -> None:
    answer = relight("import", str(folder / "plain.pth"), "--task", f"{folder}/line.py:Line", "--set", "width=5")
    assert answer.exit_code == 1
    assert "2 with another shape: weight ([3, 2] in the file, [5, 2] in the model), bias" in answer.error
    assert list(runs.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [(), ("--task", "digits", "--out", "x"), ("--out", "x", "--name", "y"), ("--out", "x", "--set", "a=1")]
)
def test_exactly_one_of_task_and_out_must_be_given(ask: Ask, folder: Path, arguments: tuple[str, ...]) -> None:
    assert ask("import", str(folder / "plain.pth"), *arguments).exit_code == 2


def test_a_missing_file_is_wrong_usage(ask: Ask, tmp_path: Path) -> None:
    answer = ask("import", str(tmp_path / "none.pth"), "--task", "digits")
    assert answer.exit_code == 2
    assert "none.pth" in answer.error
