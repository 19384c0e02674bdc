"""From the name of a task to a prepared task, and the sentence for each failure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from relight.errors import ConfigError, DeviceError, RelightError, TaskError, UsageError
from relight.runs.records import Objective
from relight.tasks.inspection import inspect_task
from relight.tasks.reference import describe_task, list_tasks, resolve_module, resolve_task, validate_config

SPIRAL = '''
import os
from pathlib import Path
from pydantic import field_validator
from relight import Data, Task, TaskConfig, option

print("noise on stdout, {\\"ok\\": false}")
os.write(1, b"and some without an end")

class SmallSpiral(Task):
    """Tells three arms
    of a spiral apart.

    More about it.
    """
    class Config(TaskConfig):
        """The config."""
        hidden: int = option(8, "Hidden units.", ge=1, le=64)
        data: str = option(".", "Folder.")

        @field_validator("data")
        @classmethod
        def _must_be_there(cls, value):
            if not Path(value).is_dir():
                raise ValueError(f"there is no folder {value}")
            return value

    best_metric = "accuracy"
    def build_model(self): ...
    def build_data(self): ...
    def step(self, model, batch): ...
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a 0" / "spi'ral.py"
    path.parent.mkdir()
    path.write_text(SPIRAL)
    return path


def refusal(text: str, kind: type[RelightError] = UsageError, *, folder: Path | None = None) -> str:
    with pytest.raises(kind) as caught:
        resolve_task(text, working_folder=folder)
    return str(caught.value)


def test_a_built_in_name_is_found() -> None:
    reference = resolve_task(" digits ")
    assert (reference.kind, reference.name, reference.path) == ("builtin", "digits", None)


def test_a_class_in_a_file_is_found_from_any_folder(file: Path) -> None:
    reference = resolve_task(f"a 0/{file.name}:SmallSpiral", working_folder=file.parent.parent)
    assert reference.kind == "file"
    assert reference.name == f"{file.name}:SmallSpiral"
    assert reference.path == str(file)
    assert reference.working_folder == str(file.parent.parent)
    assert resolve_task(f"{file}:SmallSpiral").code_digest == reference.code_digest
    file.write_text(SPIRAL + "\n")
    assert resolve_task(f"{file}:SmallSpiral").code_digest != reference.code_digest


def test_a_tilde_means_the_home_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    assert resolve_task(f"~/{file.name}:SmallSpiral").path == str(file)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    assert "Did you mean 'digits'?" in refusal("digit")
    assert "Unknown task ''" in refusal("")


def test_a_missing_file_gets_the_nearest_one(file: Path) -> None:
    assert f'there is no file {file.parent}/spiral.py. Did you mean "spi\'ral.py"?'.replace('"', "'") in refusal(
        "spiral.py:X", folder=file.parent
    )
    assert "there is no folder" in refusal("nowhere/spiral.py:X", folder=file.parent)
    assert "Unknown task" in refusal("nowhere/spiral", folder=file.parent)


def test_a_file_without_a_class_is_asked_for_one(file: Path) -> None:
    hint = f"write {file.name}:SmallSpiral; the file has SmallSpiral."
    assert refusal(str(file)) == f"'{file}' does not name a class: {hint}"
    assert "'1x' is not a class name" in refusal(f"{file}:1x")
    file.write_text("class A: ...\nclass B: ...\n")
    assert "write spi'ral.py:CLASS; the file has A, B." in refusal(f"{file}:")
    file.write_text("(")
    assert "write spi'ral.py:CLASS." in refusal(f"{file}:")


def test_a_file_that_is_not_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    assert "is not a Python file" in refusal("notes.txt:X", folder=tmp_path)
    (tmp_path / "x.py").mkdir()
    assert "there is no file" in refusal("x.py:X", folder=tmp_path)


def test_a_built_in_task_is_prepared_with_a_complete_config() -> None:
    prepared = validate_config(resolve_task("digits"), ["epochs=3", "lr=0.01"])
    assert prepared.config["epochs"] == 3 and prepared.config["batch_size"] == 64
    assert prepared.objective == Objective("validation/accuracy", higher_is_better=True)
    assert validate_config(resolve_task("stdlib-gpt"), {"size": "mini"}).objective.metric == "validation/loss"


@pytest.mark.parametrize(
    ("task", "assignment", "kind", "sentence"),
    [
        ("digits", "epoch=3", ConfigError, "Unknown key 'epoch': did you mean 'epochs'?"),
        ("digits", "epochs=0", ConfigError, "epochs=0 is out of bounds"),
        ("digits", "device=gpu", ConfigError, "device=gpu is not valid"),
        ("images", "epochs=1", ConfigError, "set data=FOLDER"),
        ("images", "data=/surely/not/there", TaskError, "The data folder /surely/not/there does not exist."),
    ],
)
def test_a_built_in_task_that_cannot_be_trained_is_refused(
    task: str, assignment: str, kind: type[RelightError], sentence: str
) -> None:
    with pytest.raises(kind) as caught:
        validate_config(resolve_task(task), [assignment])
    assert sentence in str(caught.value)
    assert caught.value.exit_code == (2 if kind is ConfigError else 1)


@pytest.mark.parametrize("assignment", ["device=cuda:77", "precision=fp16 device=cpu"])
def test_a_missing_device_is_refused(assignment: str) -> None:
    with pytest.raises(DeviceError, match=r"device=cuda:77 is not available|precision=fp16 needs a CUDA GPU"):
        validate_config(resolve_task("digits"), assignment.split())


def test_your_own_task_is_described_and_prepared(file: Path) -> None:
    reference = resolve_task(f"{file}:SmallSpiral")
    described = describe_task(reference)
    assert (described.title, described.summary) == ("Small Spiral", "Tells three arms of a spiral apart.")
    assert [field.name for field in described.fields[:2]] == ["hidden", "data"]
    assert described.fields[0].maximum == 64
    prepared = validate_config(resolve_task(described.name), ["hidden=9"])
    assert prepared.config["hidden"] == 9 and prepared.config["epochs"] == 10
    assert prepared.objective == Objective("validation/accuracy", higher_is_better=True)


def test_your_own_validator_refuses_a_config_in_its_own_words(file: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_config(resolve_task(f"{file}:SmallSpiral"), ["hidden=99", "data=/surely/not/there", "hiden=3"])
    assert "hidden=99 is out of bounds: it must be at least 1 and at most 64." in str(caught.value)
    assert "data=/surely/not/there: there is no folder /surely/not/there." in str(caught.value)
    assert "Unknown key 'hiden': did you mean 'hidden'?" in str(caught.value)


def test_a_file_that_does_not_import_gives_one_sentence_and_the_whole_traceback(file: Path) -> None:
    file.write_text("def f():\n    raise ValueError('no')\nf()\n")
    with pytest.raises(TaskError) as caught:
        validate_config(resolve_task(f"{file}:SmallSpiral"))
    assert str(caught.value) == "spi'ral.py cannot be imported: ValueError in line 2: no."
    assert caught.value.traceback is not None
    assert "line 2, in f" in caught.value.traceback and "relight" not in caught.value.traceback


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import os; os.kill(os.getpid(), 9)", "ended Python with SIGKILL."),
        ("import os; os._exit(0)", "ended Python with exit code 0."),
        ("import os; os.close(1); os.close(2); os._exit(7)", "with exit code 7."),
    ],
)
def test_a_file_that_ends_its_process_is_refused(file: Path, code: str, sentence: str) -> None:
    file.write_text(code)
    with pytest.raises(TaskError) as caught:
        describe_task(resolve_task(f"{file}:SmallSpiral"))
    assert sentence in str(caught.value)


def test_an_import_that_never_ends_times_out_and_shows_the_waiting_line(file: Path, tmp_path: Path) -> None:
    file.write_text(f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n")
    with pytest.raises(TaskError, match="did not finish importing") as caught:
        inspect_task(resolve_task(f"{file}:SmallSpiral"), timeout_s=1)
    assert "line 3" in (caught.value.traceback or "")
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()


@pytest.mark.timeout(100)
def test_threads_started_by_the_file_do_not_delay_the_answer(file: Path) -> None:
    file.write_text("import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n" + SPIRAL)
    assert describe_task(resolve_task(f"{file}:SmallSpiral")).title == "Small Spiral"


def test_the_launch_form_lists_the_built_in_tasks_in_order() -> None:
    listed = list_tasks()
    assert [task.name for task in listed] == ["digits", "stdlib-gpt", "images"]
    assert listed[0].objective == Objective("validation/accuracy", higher_is_better=True)
    assert not listed[1].objective.higher_is_better
    assert all(task.summary and task.fields for task in listed)


def test_a_built_in_task_is_prepared_without_torch_and_without_a_process() -> None:
    code = """
import subprocess, sys
subprocess.Popen = None
from relight.tasks.reference import describe_task, list_tasks, resolve_module, resolve_task, validate_config
list_tasks()
describe_task(resolve_task("digits"))
validate_config(resolve_task("digits"), ["device=cpu"])
assert "torch" not in sys.modules and "relight.training" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a training script that only `python -m package.train` can run."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "helpers.py").write_text("import relight\n\ndef begin():\n    return relight.init()\n")
    (folder / "train.py").write_text("from .helpers import begin\nrun = begin()\n")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_module_with_a_training_script_is_found_as_python_would_find_it(package: Path) -> None:
    found = resolve_module("package.train")
    assert (found.kind, found.name, found.module) == ("script", "package.train", "package.train")
    assert (found.path, found.working_folder) == (str(package / "train.py"), str(package.parent))
    (package / "__main__.py").write_text("import relight\nrelight.init()\n")
    assert resolve_module("package").path == str(package / "__main__.py")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("package.nothing", "There is no module package.nothing in "),
        ("package/train.py", "-m takes the name of a module"),
        ("", "-m takes the name of a module"),
    ],
)
def test_a_module_that_is_not_there_is_refused(package: Path, name: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        resolve_module(name)


def test_the_name_of_a_module_without_m_gets_the_command_that_works(package: Path) -> None:
    with pytest.raises(UsageError, match=r"relight run -m package\.train"):
        resolve_task("package.train")


def test_a_script_that_goes_to_another_folder_was_started_where_python_was(tmp_path: Path) -> None:
    code = "import os, relight; os.chdir('/'); from relight.start_folder import START_FOLDER; print(START_FOLDER)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path)
