"""A script is read, with the modules next to it that it imports, before it is launched; nothing is run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from relight.errors import RelightError, TaskError, UsageError
from relight.tasks.reference import launch_script, resolve_task, validate_config


@pytest.mark.parametrize(
    "files",
    [
        {"train.py": "import relight\nrelight.init()\n"},
        {"train.py": "import relight as rl\ndef main():\n    rl.init(config={})\n"},
        {"train.py": "from relight import init\n"},
        {
            "train.py": "from lib.loop import train\n",
            "lib/__init__.py": "",
            "lib/loop.py": "import relight\nrelight.init()\n",
        },
        {
            "train.py": "import lib\n",
            "lib/__init__.py": "from .loop import x\n",
            "lib/loop.py": "from relight import init\n",
        },
    ],
)
def test_a_script_that_calls_init_is_recognized(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    reference = resolve_task("train.py", working_folder=tmp_path)
    assert (reference.kind, reference.name, reference.class_name) == ("script", "train.py", None)
    assert reference.path == str(tmp_path / "train.py")
    assert reference.working_folder == str(tmp_path)
    prepared = validate_config(launch_script(reference, arguments=["--lr", "3"]), ["a=b"])
    assert prepared.reference.arguments == ("--lr", "3")
    assert (prepared.config, prepared.objective.metric) == ({"a": "b"}, None)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("print('relight.init()')\n", UsageError, "train.py does not use relight"),
        ("import relight\n", UsageError, "train.py never calls relight.init()"),
        ("import relight\nrelight.init(\n", TaskError, "train.py has a syntax error in line 2"),
        ("\0", TaskError, "train.py"),
        ("import relight\nclass A(relight.Task):\n    pass\n", UsageError, "write train.py:A"),
    ],
)
def test_a_file_that_cannot_be_launched_is_refused_with_one_sentence(
    tmp_path: Path, text: str, kind: type[RelightError], said: str
) -> None:
    (tmp_path / "train.py").write_text(text)
    with pytest.raises(kind) as caught:
        resolve_task("train.py", working_folder=tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_interpreter_that_cannot_run_the_script_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import relight\nrelight.init()\n")
    reference = resolve_task("train.py", working_folder=tmp_path)
    with pytest.raises(UsageError, match="is not an executable interpreter"):
        launch_script(reference, python=tmp_path / "python")
    with pytest.raises(TaskError, match="cannot run a training script"):
        launch_script(reference, python=Path("/bin/cat"))
    # The link of a virtual environment is kept: its target has other packages.
    assert launch_script(reference, python=Path(sys.executable)).python == sys.executable
