"""What can make two trainings differ is found by reading the task's code, with its line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from relight.drill.suspects import DataWatch, find_suspects, find_warned_kernels


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        ("import time\ntime.time()", "clock", "time.time()"),
        ("import time as t\nt.time_ns()", "clock", "t.time_ns()"),
        ("from time import perf_counter as now\nnow()", "clock", "now()"),
        ("import datetime\ndatetime.datetime.now()", "clock", "datetime.datetime.now()"),
        ("import os\nos.urandom(8)", "entropy", "os.urandom()"),
        ("import numpy as np\nnp.random.default_rng()", "entropy", "np.random.default_rng()"),
        ("import numpy as np\nnp.random.default_rng(3)", "own generator", "np.random.default_rng()"),
        ("from numpy.random import default_rng\ndefault_rng(3)", "own generator", "default_rng()"),
        ("import torch\ntorch.Generator()", "own generator", "torch.Generator()"),
        ("import random\nrandom.Random(0)", "own generator", "random.Random()"),
        ("import numpy as np\nnp.random.randn(3)", "numpy", "np.random.randn()"),
        ("\nhash('a')", "hash", "hash()"),
        ("\nfor x in {1, 2}: pass", "hash", "a loop over a set"),
        ("\nlist(set('ab'))", "hash", "list() of a set"),
        ("def step(self):\n    self.calls += 1", "attribute", "'self.calls' in step(),"),
        ("def __getitem__(self, i):\n    self.cache[i] = 1", "attribute", "'self.cache' in __getitem__(),"),
        ("def step(self):\n    global seen", "attribute", "'seen' (a global of step())"),
        ("for x in y:\n    n += 1; run.step()", "attribute", "'n', which the loop changes"),
        ("while y:\n    n = 0.9 * n + y; run.step()", "attribute", "'n', which the loop changes"),
    ],
)
def test_each_suspect_is_found_with_its_line(tmp_path: Path, code: str, kind: str, text: str) -> None:
    (tmp_path / "task.py").write_text(code)
    (found,) = find_suspects(tmp_path, ["task.py"])
    assert (found.kind, found.file, found.line, found.text) == (kind, "task.py", 2, text)
    assert found.place == f"{text} on line 2 of task.py"


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.randn(3)",
        "import random\nrandom.random()",
        "sorted({1, 2})",
        "def build_model(self):\n self.x = 1",
        "for x in y:\n n += 1",
        "for x in y:\n n = 0\n for z in x:\n  n += 1; run.step()",
    ],
)
def test_what_a_checkpoint_holds_is_no_suspect(tmp_path: Path, code: str) -> None:
    (tmp_path / "task.py").write_text(code)
    assert find_suspects(tmp_path, ["task.py"]) == ()


def test_other_tasks_of_the_file_are_passed_over_but_not_the_bases(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(
        "class Data:\n    def __getitem__(self, i): self.a = 1\n"
        "class Base(relight.Task):\n    def step(self): self.b = 1\n"
        "class Mine(Base):\n    def step(self): self.c = 1\n"
        "class Other(Base):\n    def step(self): self.d = 1\n"
    )
    found = find_suspects(tmp_path, ["task.py"], class_name="Mine")
    assert [suspect.line for suspect in found] == [2, 4, 6]


def test_files_that_cannot_be_read_have_no_suspects(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def (")
    (tmp_path / "binary.py").write_bytes(b"\0\xff")
    assert find_suspects(tmp_path, ["broken.py", "binary.py", "gone.py", "\0"]) == ()


def test_the_kernels_that_pytorch_warned_of_are_named_once() -> None:
    line = (
        "t.py:3: UserWarning: scatter_add_cuda_kernel does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True, warn_only=True)'.\n"
    )
    assert find_warned_kernels(f"epoch 1\n{line}{line}") == ("scatter_add_cuda_kernel",)
    assert find_warned_kernels("nothing") == ()


def test_data_that_changes_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"1")
    watch = DataWatch({"data": str(folder), "lr": 0.1, "name": "digits", "gone": "/nowhere/at/all"})
    assert watch.find_change() is None
    (folder / "a.png").write_bytes(b"2")
    os.utime(folder / "a.png", ns=(1, 1))
    assert watch.find_change() == str(folder)
