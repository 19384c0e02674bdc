"""The import process makes a first checkpoint that equals a new run with these weights, or a clean file."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from relight.checkpoints import weights_file
from relight.checkpoints.store import CheckpointStore
from relight.errors import ExportError, RelightError, UsageError
from relight.runs.records import Objective, PreparedTask, TaskReference
from relight.training.weights.weight_errors import WeightsRefused
from relight.training.weights.weight_import import convert
from tests.training.foreign_files import harmful_calls, lightning_checkpoint, make_net, usual_checkpoint

NET = make_net()

TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from relight import Data, Task, TaskConfig, option

print("a person's print")

class Line(Task):
    class Config(TaskConfig):
        width: int = option(3, "Width.", ge=1)

    def build_model(self):
        return nn.Sequential(nn.Linear(2, self.config.width), nn.BatchNorm1d(self.config.width))

    def build_data(self):
        if self.config.width == 9:
            raise ValueError("no data for nine")
        return Data(train=TensorDataset(torch.ones(8, 2)))

    def step(self, model, batch):
        return {"loss": model(batch[0]).square().mean()}
"""


def ask(folder: Path, source: Path, *, width: int = 3, **order: Any) -> tuple[int, Any]:
    """Run the process with an order for a run's checkpoint. Return its exit code and answer."""
    task = folder / "line.py"
    task.write_text(TASK)
    reference = TaskReference(kind="file", name="line.py:Line", path=str(task), class_name="Line")
    prepared = PreparedTask(reference, {"width": width}, Objective("validation/loss"))
    whole = {"source": str(source), "checkpoints": str(folder / "checkpoints"), "prepared": prepared, **order}
    command = [sys.executable, "-P", "-m", "relight.training.weights.weight_import"]
    done = subprocess.run(command, input=msgspec.json.encode(whole), capture_output=True, timeout=240, check=False)
    assert done.stdout.count(b"\n") == 1, (done.stdout, done.stderr)
    return done.returncode, msgspec.json.decode(done.stdout)


def line_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(11)
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()


@pytest.mark.processes
def test_the_first_checkpoint_holds_the_weights_and_the_rest_of_a_fresh_start(tmp_path: Path) -> None:
    weights = line_weights()
    torch.save(usual_checkpoint(NET, "other") | {"model_state_dict": weights}, tmp_path / "best.pth")
    code, answer = ask(tmp_path, tmp_path / "best.pth")
    assert (code, answer["ok"], answer["tensors"], answer["parameters"]) == (0, True, 7, 15)
    assert answer["imported_from"]["part"] == "model_state_dict"
    assert answer["imported_from"]["sha256"] == hashlib.sha256((tmp_path / "best.pth").read_bytes()).hexdigest()
    store = CheckpointStore(tmp_path / "checkpoints")
    (info,) = store.list().checkpoints
    assert (info.step, info.epoch, info.reason, info.attempt, info.verified) == (0, 0, "import", 0, True)
    assert store.digest(info) == answer["digest"]
    with store.open(info) as reader:
        for key, value in weights.items():
            assert bytes(reader.read(f"model.{key}")) == value.numpy().tobytes(), key
        assert reader.state["counters"]["step"] == 0
        assert reader.state["parts"].keys() == {"model", "optimizer", "scheduler", "loader"}
        assert not [name for name in reader.tensor_names if name.startswith("optimizer.")]
        assert reader.environment["imported_from"]["name"] == "best.pth"


@pytest.mark.processes
def test_the_same_import_has_the_same_digest_wherever_the_file_lies(tmp_path: Path) -> None:
    digests = set()
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        torch.save(line_weights(), tmp_path / place / f"{place}.pth")
        digests.add(ask(tmp_path / place, tmp_path / place / f"{place}.pth")[1]["digest"])
    assert len(digests) == 1


@pytest.mark.processes
def test_weights_that_do_not_fit_leave_no_checkpoint(tmp_path: Path) -> None:
    torch.save(line_weights(), tmp_path / "x.pth")
    code, answer = ask(tmp_path, tmp_path / "x.pth", width=4)
    assert code == 1
    assert "0.weight ([3, 2] in the file, [4, 2] in the model)" in answer["error"]
    assert answer["traceback"] is None
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.processes
def test_an_error_in_the_tasks_own_code_keeps_its_traceback(tmp_path: Path) -> None:
    torch.save(line_weights(), tmp_path / "x.pth")
    code, answer = ask(tmp_path, tmp_path / "x.pth", width=9)
    assert code == 1
    assert "no data for nine" in answer["error"]
    assert 'raise ValueError("no data for nine")' in answer["traceback"]


@pytest.mark.processes
def test_harm_is_refused_before_the_task_is_even_loaded(tmp_path: Path) -> None:
    torch.save({"model": line_weights(), "x": harmful_calls(tmp_path / "it ran")["os.system"]}, tmp_path / "x.pth")
    code, answer = ask(tmp_path, tmp_path / "x.pth", width=9)
    assert code == 1
    assert f"would run '{os.name}.system'" in answer["error"]
    assert not (tmp_path / "it ran").exists()


def test_a_converted_file_holds_exactly_the_tensors(tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in NET.state_dict().items()}
    state["module.strided"] = torch.arange(12.0).reshape(3, 4).t()
    state["module.empty"] = torch.empty(0, 3)
    state["module.half"] = torch.ones(3, dtype=torch.bfloat16)
    state["module.conjugate"] = torch.tensor([1 + 2j]).conj()
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    told = convert(tmp_path / "x.pth", tmp_path / "new folder" / "out.safetensors")
    loaded = load_file(tmp_path / "new folder" / "out.safetensors")
    assert loaded.keys() == {key.removeprefix("module.") for key in state}
    for key, value in loaded.items():
        assert torch.equal(value, state[f"module.{key}"].resolve_conj()) and value.dtype == state[f"module.{key}"].dtype
    assert told["sha256"] == hashlib.sha256((tmp_path / "new folder" / "out.safetensors").read_bytes()).hexdigest()
    with safe_open(tmp_path / "new folder" / "out.safetensors", "pt") as opened:
        assert opened.metadata()["imported_sha256"] == hashlib.sha256((tmp_path / "x.pth").read_bytes()).hexdigest()


def test_a_part_alone_can_be_converted(tmp_path: Path) -> None:
    torch.save(lightning_checkpoint(NET), tmp_path / "x.ckpt")
    told = convert(tmp_path / "x.ckpt", tmp_path / "out.safetensors", part="model.")
    assert load_file(tmp_path / "out.safetensors").keys() == NET.state_dict().keys()
    assert told["notes"] == ["'model.' was removed from all names."]


def test_a_type_that_safetensors_lacks_is_refused_and_the_older_file_stays(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2, dtype=torch.complex128)}, tmp_path / "x.pth")
    (tmp_path / "out.safetensors").write_text("older")
    with pytest.raises(ExportError, match="'w' has the type C128"):
        convert(tmp_path / "x.pth", tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_converted_file_that_reads_back_wrong_never_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(NET.state_dict(), tmp_path / "x.pth")
    compare = weights_file._compare

    def rot(path: Path, *others: Any) -> None:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        compare(path, *others)

    monkeypatch.setattr(weights_file, "_compare", rot)
    with pytest.raises(ExportError, match="reads back wrong"):
        convert(tmp_path / "x.pth", tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(NET.state_dict(), tmp_path / "x.pth")

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(weights_file.SYSTEM, "reserve", refuse)
    with pytest.raises(ExportError, match="No space left on device"):
        convert(tmp_path / "x.pth", tmp_path / "out.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_a_folder_as_the_file_to_write_is_usage(tmp_path: Path) -> None:
    torch.save(NET.state_dict(), tmp_path / "x.pth")
    with pytest.raises(UsageError, match="is a folder"):
        convert(tmp_path / "x.pth", tmp_path)


def test_the_source_can_be_replaced_by_its_own_conversion(tmp_path: Path) -> None:
    torch.save(NET.state_dict(), tmp_path / "x")
    convert(tmp_path / "x", tmp_path / "x")
    assert load_file(tmp_path / "x").keys() == NET.state_dict().keys()


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsRefused):
        convert(tmp_path / "nothing", tmp_path / "out.safetensors")
    assert issubclass(WeightsRefused, RelightError)
