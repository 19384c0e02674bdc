"""Trainings of the tests do without PyTorch's compiler, and nothing else is different."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.compiler import leave_out_compiler, with_compiler

_TRAIN = """
import sys, torch
torch.manual_seed(0)
model = torch.nn.Linear(3, 2)
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(3):
    optimizer.zero_grad()
    model(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
print("config" in vars(sys.modules["torch._dynamo"]), model.weight.tolist())
compiled = torch.compile(lambda x: 2 * x, backend="eager")
print("config" in vars(sys.modules["torch._dynamo"]), compiled(torch.ones(1)).item())
optimizer.step()
"""


@pytest.mark.processes
def test_an_optimizer_moves_the_same_without_the_compiler_and_who_compiles_gets_it() -> None:
    without = with_compiler(os.environ)
    leave_out_compiler(without)
    said = []
    for environment in (with_compiler(os.environ), without):
        done = subprocess.run(
            [sys.executable, "-c", _TRAIN], env=environment, capture_output=True, text=True, check=True
        )
        said.append(done.stdout.splitlines())
    assert [lines[0].split()[0] for lines in said] == ["True", "False"]
    assert said[0][0].removeprefix("True") == said[1][0].removeprefix("False")
    assert said[0][1] == said[1][1] == "True 2.0"


def test_other_folders_of_the_path_stay() -> None:
    environment = {"PYTHONPATH": os.pathsep.join(["/a", "/b"]), "HOME": "/"}
    before = dict(environment)
    leave_out_compiler(environment)
    leave_out_compiler(environment)
    assert environment["PYTHONPATH"].split(os.pathsep)[1:] == ["/a", "/b"]
    assert with_compiler(environment) == before
    assert with_compiler({"HOME": "/"}) == {"HOME": "/"}
