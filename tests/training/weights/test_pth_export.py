"""A .pth holds exactly the model's state_dict, with weights still tied, and is complete or not there."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from relight.checkpoints.export import export_weights
from relight.checkpoints.store import CheckpointStore
from relight.errors import CheckpointNotFound, DamagedCheckpoint, RelightError
from relight.training.weights import pth_export
from relight.training.weights.pth_export import export_state_dict
from tests.training.committed import commit

ODD_TYPES = (
    torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.int8, torch.bool
)  # fmt: skip


class Tied(nn.Module):
    """A module with tied parameters, two equal but separate ones, unusual types, a buffer and plain extra state."""

    def __init__(self, extra: Any = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in range(2))
        self.extra = extra
        for place, kind in enumerate(ODD_TYPES):
            self.register_buffer(f"odd{place}", torch.arange(6).remainder(2).reshape(2, 3).to(kind))
        self.register_buffer("nan", torch.tensor(float("nan")))
        self.register_buffer("empty", torch.empty(0, 3))
        self.register_buffer("hidden", torch.ones(2), persistent=False)

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


def load(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def is_bitwise_equal(one: Tensor, other: Tensor) -> bool:
    flat = [t.contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*flat)


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name != "checkpoints"]


def test_the_file_is_the_model_s_own_state_dict_and_loads_back_into_it(tmp_path: Path) -> None:
    model = Tied(extra={"words": ["a", 1, 2.5, float("nan"), None], "scale": torch.ones(2)})
    info = commit(tmp_path / "checkpoints", model)
    answer = export_state_dict(tmp_path / "checkpoints", info.path.name, tmp_path / "a'; x.pth")
    state, expected = load(tmp_path / "a'; x.pth"), model.state_dict()
    assert list(state) == list(expected)
    for key, value in expected.items():
        if isinstance(value, Tensor):
            assert is_bitwise_equal(state[key], value), key
    assert "hidden" not in state
    Tied().load_state_dict(state, strict=True)
    assert answer == {"tensors": len(expected) - 1, "bytes": (tmp_path / "a'; x.pth").stat().st_size}


def test_tied_weights_stay_one_tensor_and_equal_ones_stay_two(tmp_path: Path) -> None:
    info = commit(tmp_path / "checkpoints", Tied())
    export_state_dict(tmp_path / "checkpoints", info.path.name, tmp_path / "out.pth")
    state = load(tmp_path / "out.pth")
    assert state["embedding.weight"].data_ptr() == state["head.weight"].data_ptr()
    one, other = state["norms.0.weight"], state["norms.1.weight"]
    assert torch.equal(one, other) and one.data_ptr() != other.data_ptr()


def test_wrapper_prefixes_are_gone(tmp_path: Path) -> None:
    info = commit(tmp_path / "checkpoints", nn.DataParallel(nn.Linear(2, 2)))
    export_state_dict(tmp_path / "checkpoints", info.path.name, tmp_path / "out.pth")
    assert list(load(tmp_path / "out.pth")) == ["weight", "bias"]


def test_an_existing_file_is_replaced_in_one_step_and_nothing_else_is_left(tmp_path: Path) -> None:
    info = commit(tmp_path / "checkpoints", nn.Linear(2, 2))
    (tmp_path / "out.pth").write_bytes(b"older")
    export_state_dict(tmp_path / "checkpoints", info.path.name, tmp_path / "out.pth")
    assert leftovers(tmp_path) == ["out.pth"]
    assert "weight" in load(tmp_path / "out.pth")


def test_a_damaged_checkpoint_is_never_exported_and_the_older_file_stays(tmp_path: Path) -> None:
    model = nn.Linear(64, 64)
    info = commit(tmp_path / "checkpoints", model)
    pack = tmp_path / "checkpoints/packs" / info.packs[0]
    data = bytearray(pack.read_bytes())
    data[data.index(model.weight.detach().numpy().tobytes()) + 500] ^= 1
    pack.write_bytes(data)
    (tmp_path / "out.pth").write_bytes(b"older")
    with pytest.raises(DamagedCheckpoint):
        export_state_dict(tmp_path / "checkpoints", info.path.name, tmp_path / "out.pth")
    assert (tmp_path / "out.pth").read_bytes() == b"older"
    assert leftovers(tmp_path) == ["out.pth"]


@pytest.mark.parametrize("full_after", [0, 1000, 20_000])
def test_a_full_disk_gets_a_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_after: int
) -> None:
    info = commit(tmp_path / "checkpoints", nn.Linear(100, 100))

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() + memoryview(data).nbytes > full_after:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode="r", *rest: Full(self, "x") if mode == "xb" else opened(self, mode, *rest)
    )
    with pytest.raises(RelightError, match="No space left on device"):
        export_state_dict(tmp_path / "checkpoints", info.path.name, tmp_path / "out.pth")
    assert leftovers(tmp_path) == []


def test_a_file_that_reads_back_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = commit(tmp_path / "checkpoints", Tied())

    def load_damaged(path: Path) -> Any:
        state = torch.load(path, weights_only=True)
        state["norms.1.running_var"][2] += 1e-6
        return state

    monkeypatch.setattr(pth_export, "_load", load_damaged)
    with pytest.raises(RelightError, match=r"differs from the checkpoint at 'norms.1.running_var'"):
        export_state_dict(tmp_path / "checkpoints", info.path.name, tmp_path / "out.pth")
    assert leftovers(tmp_path) == []


def test_missing_checkpoint_folder_and_weights_each_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match="There is no checkpoint x"):
        export_state_dict(tmp_path / "checkpoints", "x", tmp_path / "out.pth")
    info = commit(tmp_path / "checkpoints", nn.Identity(), optimizer=False)
    with pytest.raises(RelightError, match="has no model weights"):
        export_state_dict(tmp_path / "checkpoints", info.path.name, tmp_path / "out.pth")
    info = commit(tmp_path / "checkpoints", nn.Linear(2, 2), step=4)
    with pytest.raises(RelightError, match="cannot be written: No such file or directory"):
        export_state_dict(tmp_path / "checkpoints", info.path.name, tmp_path / "nowhere/out.pth")


def test_the_command_answers_in_one_line_of_json(tmp_path: Path) -> None:
    info = commit(tmp_path / "checkpoints", nn.Linear(2, 2))

    def run(*arguments: str) -> tuple[int, Any]:
        command = [sys.executable, "-P", "-m", "relight.training.weights.pth_export", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return result.returncode, json.loads(result.stdout) if result.stdout else result.stderr

    code, answer = run(str(tmp_path / "checkpoints"), info.path.name, str(tmp_path / "out.pth"))
    assert code == 0 and answer["ok"] and answer["tensors"] == 2
    code, answer = run(str(tmp_path / "checkpoints"), "nothing", str(tmp_path / "out.pth"))
    assert code == 1 and not answer["ok"] and "There is no checkpoint nothing" in answer["error"]
    code, usage = run()
    assert code == 2 and "CHECKPOINTS_FOLDER" in usage


def test_the_store_exports_through_it(tmp_path: Path) -> None:
    model = nn.Linear(5, 3)
    info = commit(tmp_path / "checkpoints", model)
    exported = export_weights(CheckpointStore(tmp_path / "checkpoints"), info, tmp_path / "out.pth", format="pth")
    assert exported.tensors == 2
    assert torch.equal(load(exported.path)["weight"], model.weight)
