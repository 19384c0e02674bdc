"""Checkpoint files as other programs write them: ordinary ones and harmful ones."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn


class Net(nn.Module):
    """A net with tied weights, a batch norm with its counter, and a nested block."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight


def make_net(seed: int = 3) -> Net:
    """Return a net whose weights depend on `seed`."""
    torch.manual_seed(seed)
    return Net()


def optimizer_state(net: nn.Module) -> dict[str, Any]:
    """Return the state of an optimizer that has taken one step."""
    optimizer = torch.optim.AdamW(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def usual_checkpoint(net: nn.Module, key: str = "model_state_dict") -> dict[str, Any]:
    """Return a checkpoint like those of most training loops."""
    return {
        "epoch": 12,
        key: net.state_dict(),
        "optimizer_state_dict": optimizer_state(make_net()),
        "scheduler": {"last_epoch": 12},
        "loss": torch.tensor(0.25),
        "best_acc": np.float64(0.93),
    }


def lightning_checkpoint(net: nn.Module, prefix: str = "model.") -> dict[str, Any]:
    """Return a checkpoint like those of Lightning, with one tensor that does not belong to the model."""
    state = OrderedDict((prefix + key, value) for key, value in net.state_dict().items())
    state["criterion.weight"] = torch.ones(7)
    return {
        "pytorch-lightning_version": "2.5.0",
        "epoch": 3,
        "global_step": 450,
        "state_dict": state,
        "optimizer_states": [optimizer_state(make_net())],
        "lr_schedulers": [{"last_epoch": 3}],
        "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": {"lr": 0.1},
    }


def write_hugging_face(folder: Path, net: nn.Module, *, shards: int = 0, pickled: bool = False) -> Path:
    """Write a model folder with one file, or with shards and their index. Tied weights are stored once."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    state = {key: value.clone() for key, value in net.state_dict().items() if key != "head.weight"}
    stem, ending = ("pytorch_model", "bin") if pickled else ("model", "safetensors")

    def write(name: str, part: dict[str, Any]) -> None:
        if pickled:
            torch.save(part, folder / name)
        else:
            save_file(part, folder / name, metadata={"format": "pt"})

    if not shards:
        write(f"{stem}.{ending}", state)
        return folder
    weight_map = {}
    for place in range(shards):
        name = f"{stem}-{place + 1:05d}-of-{shards:05d}.{ending}"
        part = {key: state[key] for key in sorted(state)[place::shards]}
        write(name, part)
        weight_map.update(dict.fromkeys(part, name))
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


class Calls:
    """An object whose pickle calls `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def harmful_calls(mark: Path) -> dict[str, Any]:
    """Return objects that create the file `mark`, or do worse, if a file with them is loaded without protection."""
    return {
        "os.system": Calls(os.system, f"touch '{mark}'"),
        "subprocess": Calls(subprocess.check_call, ["touch", str(mark)]),
        "eval": Calls(eval, f"open({str(mark)!r}, 'w')"),
        "exec": Calls(exec, f"open({str(mark)!r}, 'w')"),
        "open": Calls(open, str(mark), "w"),
        "getattr": Calls(getattr, Calls(__import__, "os"), "getcwd"),
        "pickle": Calls(pickle.loads, pickle.dumps(Calls(os.system, f"touch '{mark}'"))),
        "torch.load": Calls(torch.load, str(mark)),
        "torch.hub": Calls(torch.hub.load, "a/b", "c"),
    }


def write_archive(path: Path, pickled: bytes, *, parts: dict[str, bytes] | None = None, compress: bool = False) -> Path:
    """Write a zip file with the layout of torch.save and any pickle in it."""
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/byteorder", b"little")
        for name, data in (parts or {}).items():
            archive.writestr(f"archive/data/{name}", data)
    return path
