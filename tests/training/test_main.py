"""The real process, `python -m relight.training`, works in any folder, whatever files are in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from relight.runs.record_file import write_record
from relight.runs.records import AttemptStart

pytestmark = pytest.mark.processes

LAYERED = """
import torch
from core.model import build
from app.data import points
from relight import Data, Task, TaskConfig

class Layered(Task):
    class Config(TaskConfig):
        epochs: int = 1
    def build_model(self):
        return build()
    def build_data(self):
        return Data(train=points(), validation=points())
    def step(self, model, batch):
        x, y = batch
        return {"loss": torch.nn.functional.cross_entropy(model(x), y), "accuracy": torch.ones(())}
"""


def test_a_project_whose_packages_are_called_core_and_app_trains_from_a_folder_full_of_traps(
    make_run: Callable, tmp_path: Path
) -> None:
    project = tmp_path / "my project"
    for name, text in {
        "layered.py": LAYERED,
        "core/__init__.py": "",
        "core/model.py": "import torch\ndef build():\n    return torch.nn.Linear(2, 2)\n",
        "app/__init__.py": "",
        "app/data.py": "import torch\ndef points():\n    x = torch.randn(32, 2)\n"
        "    return torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())\n",
    }.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for trap in ("torch", "numpy", "relight", "core", "app", "msgspec"):
        (elsewhere / f"{trap}.py").write_text("raise SystemExit('the working folder must not be imported from')\n")
    run = make_run("a'; echo x", file=project / "layered.py", class_name="Layered")
    layout = run.layout.attempt(1)
    layout.folder.mkdir(parents=True)
    write_record(layout.start, AttemptStart(attempt=1, time_s=0.0, reason="launch"))

    # The supervisor passes -P, too. Without it, `-m` would search the working folder first for `relight`.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "relight.training", str(run.layout.folder), "1"],
        cwd=elsewhere, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert run.outcome.outcome == "finished"
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "Task: layered.py:Layered, attempt 1 of run a'; echo x."
    assert lines[1].startswith("Device: ")
    assert lines[2] == "Model: Linear, 6 parameters, fp32."
    assert lines[3] == "Data: 32 samples for training, 32 for validation; 1 batch of 64 an epoch, 1 step in all."
    assert lines[-1] == "Finished after 1 step."


ENDLESS = """
import multiprocessing
import threading
import time

import torch
from torch.utils.data import Dataset, TensorDataset
from relight import Data, Task, TaskConfig

class Broken(Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, index):
        if index == 40:
            raise ValueError("this sample is broken")
        return torch.zeros(2), 0

class Endless(Task):
    class Config(TaskConfig):
        epochs: int = 1
        workers: int = {workers}
    def build_model(self):
        return torch.nn.Linear(2, 2)
    def build_data(self):
        {left_behind}
        return Data(train={train})
    def step(self, model, batch):
        x, y = batch
        return {{"loss": torch.nn.functional.cross_entropy(model(x), y)}}
"""
WHOLE = "TensorDataset(torch.zeros(64, 2), torch.zeros(64).long())"


@pytest.mark.parametrize(
    ("workers", "train", "left_behind", "outcome"),
    [
        (2, "Broken()", "pass", "crashed"),
        (0, WHOLE, "multiprocessing.Process(target=time.sleep, args=(3600,), daemon=True).start()", "finished"),
        (0, WHOLE, "threading.Thread(target=time.sleep, args=(3600,), name='endless').start()", "finished"),
    ],
    ids=["a-broken-sample-in-a-worker", "a-process", "a-thread"],
)
def test_a_trainer_ends_whatever_its_task_left_behind(
    make_run: Callable, tmp_path: Path, workers: int, train: str, left_behind: str, outcome: str
) -> None:
    file = tmp_path / "endless.py"
    file.write_text(ENDLESS.format(workers=workers, train=train, left_behind=left_behind))
    run = make_run("endless", file=file, class_name="Endless")
    layout = run.layout.attempt(1)
    layout.folder.mkdir(parents=True)
    write_record(layout.start, AttemptStart(attempt=1, time_s=0.0, reason="launch"))
    code = (
        "import sys, relight.training.leaving as leaving, relight.training.__main__ as trainer;"
        "leaving.EXIT_WITHIN_S = 1; sys.exit(trainer.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(run.layout.folder), "1"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert run.outcome.outcome == outcome, done.stdout + done.stderr
    assert done.returncode == {"crashed": 3, "finished": 0}[outcome]
    if "Thread" in left_behind:
        assert "Still running: thread endless." in done.stdout
    else:
        assert "Still running" not in done.stdout


def test_wrong_arguments_are_a_usage_error() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "relight.training", "only-one"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage:")


def test_the_modules_that_hear_signals_load_no_torch() -> None:
    code = (
        "import sys; import relight.training.__main__; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, env=dict(os.environ))
