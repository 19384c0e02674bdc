"""What changed between a checkpoint and the attempt that goes on from it, as a list and as a sentence."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from relight.runs.fingerprint import (
    FingerprintChange,
    compare_fingerprints,
    describe_code,
    digest_code,
    read_changes,
    take_fingerprint,
    word_changes,
    word_resume_caveat,
)

ENVIRONMENT = {
    "version": 1,
    "torch": "2.12.0",
    "threads": 2,
    "host": "ada",
    "cuda": None,
    "tf32": {"matmul": "highest", "cudnn": True},
    "determinism": {"deterministic_algorithms": True, "sentence": "…"},
    "git": {"commit": "a" * 40, "changed": False},
    "code": {"digest": "1" * 32, "files": ["task.py"]},
}


def test_a_fingerprint_has_only_what_may_change_bits() -> None:
    assert take_fingerprint(ENVIRONMENT) == {
        "torch": "2.12.0",
        "cuda": None,
        "threads": 2,
        "tf32.matmul": "highest",
        "tf32.cudnn": True,
        "determinism.deterministic_algorithms": True,
        "git.commit": "a" * 40,
        "code.digest": "1" * 32,
    }


def test_what_changed_is_told_in_one_sentence() -> None:
    now = ENVIRONMENT | {"torch": "2.13.0", "threads": 4, "cuda": "12.8", "code": {"digest": "2" * 32}}
    now |= {"tf32": {"matmul": "highest", "cudnn": False}, "git": {"commit": "b" * 40}}
    changes = compare_fingerprints(take_fingerprint(ENVIRONMENT), take_fingerprint(now))
    assert word_resume_caveat(changes) == (
        "The resume is correct but may not be bit-identical, because torch was 2.12.0 and is 2.13.0, CUDA was none and "
        "is 12.8, the number of threads was 2 and is 4, TF32 in cuDNN was on and is off, the git commit was aaaaaaa "
        "and is bbbbbbb, and the task's code has changed."
    )
    assert word_changes(changes[:1]) == "torch was 2.12.0 and is 2.13.0"
    assert word_resume_caveat(()) == ""


def test_what_one_side_does_not_know_is_no_difference() -> None:
    """As in a checkpoint of an earlier version, which kept less, and for a built-in task without code of its own."""
    assert compare_fingerprints({"torch": "2.13.0"}, {"torch": "2.13.0", "numpy": "2.4"}) == ()
    assert take_fingerprint({"code": None, "git": None}) == {}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"changes": [{"key": 1}]}', '{"changes": 3}', "{}", "\xff"])
def test_an_environment_that_cannot_be_read_tells_no_changes(tmp_path: Path, text: str) -> None:
    path = tmp_path / "environment.json"
    assert read_changes(path) == ()
    path.write_text(text, encoding="latin-1")
    assert read_changes(path) == ()


def test_changes_come_back_from_an_environment_file(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    path.write_text(json.dumps({"changes": [{"key": "threads", "before": 2, "now": 4}]}))
    assert read_changes(path) == (FingerprintChange(key="threads", before=2, now=4),)


def _module(path: Path, text: str = "") -> ModuleType:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    return module


def test_the_code_is_what_was_imported_from_the_tasks_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    modules: list[object] = [
        _module(folder / "task.py", "a"),
        _module(folder / "parts" / "__init__.py"),
        _module(folder / ".venv" / "lib" / "site-packages" / "torch.py"),
        _module(tmp_path / "elsewhere.py"),
        ModuleType("built_in"),
        object(),
    ]
    _module(folder / "not_imported.py")
    for number, module in enumerate(modules):
        monkeypatch.setitem(sys.modules, f"imported_{number}", module)
    code = describe_code(folder)
    assert code["files"] == ["parts/__init__.py", "task.py"]
    assert code["digest"] == digest_code(folder, ["task.py", "parts/__init__.py"])


def test_the_codes_digest_depends_on_each_name_and_byte(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x")
    (tmp_path / "b.py").write_text("")
    first = digest_code(tmp_path, ["a.py", "b.py"])
    (tmp_path / "a.py").write_text("")
    (tmp_path / "b.py").write_text("x")
    swapped = digest_code(tmp_path, ["a.py", "b.py"])
    (tmp_path / "b.py").unlink()
    gone = digest_code(tmp_path, ["a.py", "b.py"])
    assert len({first, swapped, gone}) == 3
