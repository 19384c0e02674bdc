"""A user's file becomes a task class, whatever its name and the files next to it. Errors are one sentence.

Each test imports in a separate process, so `sys.path` and `sys.modules` of the tests stay unchanged.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

WHOLE_TASK = """
from relight import Data, Task, TaskConfig, option

class Spiral(Task):
    class Config(TaskConfig):
        hidden: int = option(8, "Hidden units.", ge=1)

    def build_model(self): ...
    def build_data(self): ...
    def step(self, model, batch): ...
"""

INCOMPLETE = "from relight import Task\nclass Spiral(Task):\n    def step(self, m, b): ..."

# Imports torch once and answers each request in a new fork.
_SERVER = """
import json, os, sys
from relight.errors import TaskError
from relight.runs.records import TaskReference
from relight.training.task_loading import load_task_class

def answer(request):
    os.chdir(request["cwd"])
    reference = TaskReference(**request["reference"])
    try:
        task = load_task_class(reference)
    except TaskError as error:
        return {"error": str(error), "traceback": error.traceback, "left": sorted(sys.modules)}
    module = sys.modules[task.__module__]
    return {"module": task.__module__, "name": task.__name__, "same": task is load_task_class(reference),
            "found": getattr(module, task.__name__) is task, "path": sys.path}

for line in sys.stdin:
    if os.fork() == 0:
        sys.__stderr__.write(json.dumps(answer(json.loads(line))) + "\\n")
        sys.__stderr__.flush()
        os._exit(0)
    os.wait()
"""

Load = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    """Return a function that loads a class from a file in a new process and returns the result."""
    command = [sys.executable, "-P", "-c", _SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stderr is not None
        stdin, stderr = server.stdin, server.stderr

        def ask(path: Path | None, class_name: str | None = "Spiral", *, cwd: Path | None = None, **more: Any) -> Any:
            reference = {"kind": "file", "name": "the task", "class_name": class_name, **more}
            if path is not None:
                reference["path"] = str(path)
            folder = cwd or (path.parent if path is not None else Path.cwd())
            stdin.write(json.dumps({"cwd": str(folder), "reference": reference}) + "\n")
            stdin.flush()
            return json.loads(stderr.readline())

        yield ask
        stdin.close()
        server.wait(timeout=30)


Explain = Callable[..., tuple[str, str | None]]


@pytest.fixture
def explain(load: Load) -> Explain:
    """Return a function that loads a broken file and returns the error sentence and the traceback."""

    def ask(path: Path, class_name: str = "Spiral", **more: Any) -> tuple[str, str | None]:
        answer = load(path, class_name, **more)
        assert "error" in answer, answer
        assert "\n" not in answer["error"]
        return answer["error"], answer["traceback"]

    return ask


def write(path: Path, text: str = WHOLE_TASK) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


@pytest.mark.parametrize(
    "name",
    ["spiral.py", "a b.py", "a'; echo x.py", "my-task.py", "ünï.py", "random.py", "torch.py", "relight.py", "1.py"],
)
def test_a_file_of_any_name_loads_once_and_its_class_is_found_by_module(load: Load, tmp_path: Path, name: str) -> None:
    answer = load(write(tmp_path / name))
    assert answer["name"] == "Spiral" and answer["same"] and answer["found"]


def test_a_plain_name_is_the_one_that_import_gives_so_that_other_processes_find_it(load: Load, tmp_path: Path) -> None:
    answer = load(write(tmp_path / "spiral.py"))
    assert answer["module"] == "spiral"
    assert answer["path"][0] == str(tmp_path)


def test_a_package_beside_the_file_with_its_name_is_not_taken_for_it(load: Load, tmp_path: Path) -> None:
    write(tmp_path / "spiral/__init__.py", "raise ValueError('the package')")
    assert load(write(tmp_path / "spiral.py"))["module"] == "relight_task_spiral"


def test_a_file_named_like_a_module_of_python_does_not_take_its_place(load: Load, tmp_path: Path) -> None:
    assert load(write(tmp_path / "turtle.py"))["module"] == "relight_task_turtle"


def test_neighbours_called_core_and_app_are_the_person_s_own(load: Load, tmp_path: Path) -> None:
    write(tmp_path / "core/__init__.py", "")
    write(tmp_path / "core/model.py", "WIDTH = 3")
    write(tmp_path / "app/data.py", "SIZE = 4")  # without __init__.py: a namespace package
    path = write(tmp_path / "train.py", "from core.model import WIDTH\nfrom app.data import SIZE\n" + WHOLE_TASK)
    assert load(path)["name"] == "Spiral"
    repository = Path(__file__).resolve().parents[2]  # it also has folders called core and app
    assert load(path, cwd=repository, working_folder=str(repository))["name"] == "Spiral"


def test_the_working_folder_is_searched_last(load: Load, tmp_path: Path) -> None:
    write(tmp_path / "project/core/__init__.py", "")
    write(tmp_path / "project/random.py", "raise ValueError('shadows the standard library')")
    path = write(tmp_path / "project/tasks/spiral.py", "import core, random\nrandom.random()\n" + WHOLE_TASK)
    answer = load(path, working_folder=str(tmp_path / "project"))
    assert answer["name"] == "Spiral"
    assert answer["path"][-1] == str(tmp_path / "project")


def test_a_file_inside_a_package_may_import_relatively(load: Load, tmp_path: Path) -> None:
    write(tmp_path / "mine/__init__.py", "")
    write(tmp_path / "mine/deep/__init__.py", "")
    write(tmp_path / "mine/net.py", "WIDTH = 3")
    answer = load(write(tmp_path / "mine/deep/spiral.py", "from ..net import WIDTH\n" + WHOLE_TASK))
    assert answer["module"] == "mine.deep.spiral" and answer["same"] and answer["found"]


def test_postponed_annotations_and_dataclasses_work(load: Load, tmp_path: Path) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import Literal\n"
    text += "@dataclass\nclass Point:\n    x: int\nKind = Literal['a', 'b']\n"
    text += WHOLE_TASK.replace("hidden: int", 'kind: Kind = option("a", "Kind.")\n        hidden: int')
    assert load(write(tmp_path / "spiral.py", text))["name"] == "Spiral"


def test_built_in_tasks_load_by_name(load: Load) -> None:
    answer = load(None, None, kind="builtin", name="digits")
    assert (answer["module"], answer["name"]) == ("relight.training.tasks.digits", "Digits")


def test_a_syntax_error_gives_file_line_and_the_whole_traceback(explain: Explain, tmp_path: Path) -> None:
    sentence, traceback = explain(write(tmp_path / "spiral.py", "x = 1\nclass Spiral(:\n    pass\n"))
    assert sentence == "spiral.py has a syntax error in line 2: invalid syntax. Correct it and launch again."
    assert traceback is not None and "class Spiral(:" in traceback and "SyntaxError" in traceback
    assert "task_loading" not in traceback


def test_a_syntax_error_in_a_neighbour_names_the_neighbour(explain: Explain, tmp_path: Path) -> None:
    write(tmp_path / "net.py", "\n\n)\n")
    sentence, traceback = explain(write(tmp_path / "spiral.py", "import net\n" + WHOLE_TASK))
    assert sentence.startswith("net.py has a syntax error in line 3")
    assert traceback is not None and 'spiral.py", line 1' in traceback


def test_an_exception_on_import_gives_its_line_and_every_frame_and_cause(explain: Explain, tmp_path: Path) -> None:
    text = "def make():\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n"
    write(tmp_path / "net.py", text + "        raise ValueError('too\\nwide') from e\n")
    sentence, traceback = explain(write(tmp_path / "spiral.py", "import net\n\nnet.make()\n"))
    assert sentence == "spiral.py cannot be imported: ValueError in line 3: too."
    assert traceback is not None
    for part in ("ZeroDivisionError", "net.py", "in make", "net.make()", "ValueError: too"):
        assert part in traceback
    assert "task_loading" not in traceback and "importlib" not in traceback


def test_a_missing_package_is_named_with_the_python_that_lacks_it(explain: Explain, tmp_path: Path) -> None:
    sentence, _ = explain(write(tmp_path / "spiral.py", "import os\nimport surely_not_there.x\n"))
    assert sentence.startswith("spiral.py, line 2 imports 'surely_not_there', which is not installed. Install it for ")
    assert sys.executable in sentence


@pytest.mark.parametrize("ending", ["import sys; sys.exit(3)", "raise SystemExit('usage: …')", "exit()"])
def test_a_file_that_ends_python_on_import_is_refused(explain: Explain, tmp_path: Path, ending: str) -> None:
    sentence, _ = explain(write(tmp_path / "spiral.py", ending))
    assert "ends Python when it is imported" in sentence


def test_a_failed_import_leaves_no_half_module_behind(load: Load, tmp_path: Path) -> None:
    assert "spiral" not in load(write(tmp_path / "spiral.py", "raise ValueError"))["left"]


@pytest.mark.parametrize("content", [b"\x00\x01", b"\xff\xfe\xfa = 1", b"# coding: klingon\n", b"x = '\xff'\n"])
def test_bytes_that_are_no_python_get_a_sentence(explain: Explain, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spiral.py").write_bytes(content)
    sentence, _ = explain(tmp_path / "spiral.py")
    assert "spiral.py" in sentence


def test_a_missing_file_says_where_it_was(explain: Explain, tmp_path: Path) -> None:
    sentence, _ = explain(tmp_path / "gone.py", cwd=tmp_path)
    assert f"The task file {tmp_path}/gone.py does not exist" in sentence


def test_a_missing_class_gets_the_nearest_or_all_tasks(explain: Explain, tmp_path: Path) -> None:
    path = write(tmp_path / "spiral.py")
    assert explain(path, "Spirl")[0] == f"{path} has no class 'Spirl'. Did you mean 'Spiral'?"
    assert explain(path, "Zebra")[0] == f"{path} has no class 'Zebra'. It defines the task Spiral."
    assert "defines no relight.Task" in explain(write(tmp_path / "empty.py", "x = 1"))[0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("class Spiral: pass", "is not a task. A task is a subclass of relight.Task."),
        ("Spiral = 3", "is a int, not a class."),
        ("from relight import Task as Spiral", "is not a task"),
        (INCOMPLETE, "must also define build_model() and build_data()"),
        (WHOLE_TASK + "\n    Config = dict", "Config' in"),
        (WHOLE_TASK + "\n    best_metric = 3", "best_metric"),
    ],
)  # fmt: skip
def test_a_class_that_is_no_whole_task_is_refused(explain: Explain, tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in explain(write(tmp_path / "spiral.py", text))[0]


def test_a_task_may_inherit_its_parts(load: Load, tmp_path: Path) -> None:
    write(tmp_path / "base.py")
    path = write(
        tmp_path / "spiral.py", "from base import Spiral as Base\nclass Mine(Base):\n    best_metric = 'accuracy'\n"
    )
    assert load(path, "Mine")["name"] == "Mine"
    assert load(path, "Base")["name"] == "Spiral"
