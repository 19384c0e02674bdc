"""Runs appear whole or not at all, once for a token, and are found by id, name or prefix."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relight.errors import ConfigError, DamagedFile, RelightError, RunNotFound, UsageError
from relight.runs import durable_file
from relight.runs.catalog import create_run, find_run, list_layouts, runs_folder
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import ImportedFrom, Objective, PreparedTask, RunRecord, TaskReference
from tests.runs.conftest import acting_as_nobody
from tests.runs.run_builder import DIGITS

CREATE = """
import sys, time; from pathlib import Path
from relight.runs.catalog import create_run; from relight.runs.records import PreparedTask, TaskReference
print("up", flush=True); sys.stdin.readline()
task = TaskReference(kind="builtin", name="digits")
made = create_run(Path(sys.argv[1]), PreparedTask(task), token="click")
print(made.layout.run_id, made.created, flush=True)
"""


def _create(folder: Path, task: PreparedTask = PreparedTask(DIGITS), **more: Any) -> RunLayout:  # noqa: B008  frozen
    return create_run(folder, task, **more).layout


def test_a_created_run_says_what_it_is(tmp_path: Path) -> None:
    made = create_run(
        tmp_path / "runs",
        PreparedTask(DIGITS, {"lr": 0.1}, Objective("validation/accuracy")),
        name="my first",
    )
    assert made.created
    assert re.fullmatch(r"my-first-[a-z2-7]{4}", made.layout.run_id)
    record = read_record(made.layout.record, RunRecord)
    assert (record.run, record.name, record.config) == (made.layout.run_id, "my first", {"lr": 0.1})
    assert abs(record.created_s - time.time()) < 60
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [made.layout.run_id]


def test_without_a_name_the_task_gives_one(tmp_path: Path) -> None:
    assert _create(tmp_path).run_id.startswith("digits-")
    assert read_record(_create(tmp_path, name="  \n ").record, RunRecord).name == "digits"


def test_it_is_all_on_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        calls.append("fsync")
        real_fsync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        calls.append("rename")
        return real_rename(path, target)

    monkeypatch.setattr(durable_file.os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    _create(tmp_path)
    assert calls[-2:] == ["rename", "fsync"]
    assert calls.index("rename") >= 2


def test_a_launcher_killed_in_the_middle_leaves_no_run(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from relight.runs.catalog import create_run\n"
        "from relight.runs.records import PreparedTask, TaskReference\n"
        "Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "create_run(Path(sys.argv[1]), PreparedTask(TaskReference(kind='builtin', name='digits')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list_layouts(tmp_path) == []
    (left,) = tmp_path.iterdir()
    _create(tmp_path)
    assert left.exists(), "it could be another launcher's that is still at work"
    old = time.time() - 7200
    os.utime(left, (old, old))
    _create(tmp_path)
    assert not left.exists()
    assert len(list_layouts(tmp_path)) == 2


def test_the_same_token_gives_the_same_run(tmp_path: Path) -> None:
    first = create_run(tmp_path, PreparedTask(DIGITS), token="click")
    again = create_run(tmp_path, PreparedTask(DIGITS), token="click", name="another name")
    assert first.created
    assert not again.created
    assert again.layout == first.layout
    assert create_run(tmp_path, PreparedTask(DIGITS), token="another click").created


def test_of_threads_with_one_token_at_once_one_creates(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    made: list[tuple[str, bool]] = []

    def create() -> None:
        barrier.wait()
        run = create_run(tmp_path, PreparedTask(DIGITS), token="click")
        made.append((run.layout.run_id, run.created))

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len({run_id for run_id, _ in made}) == 1
    assert [created for _, created in made].count(True) == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_of_processes_with_one_token_at_once_one_creates(
    tmp_path: Path, start_process: Callable[..., subprocess.Popen[str]]
) -> None:
    launchers = [start_process(CREATE, tmp_path) for _ in range(3)]
    for launcher in launchers:
        assert launcher.stdout
        assert launcher.stdout.readline() == "up\n"
    for launcher in launchers:
        assert launcher.stdin
        launcher.stdin.write("go\n")
        launcher.stdin.flush()
    answers = [launcher.communicate(timeout=30)[0].split() for launcher in launchers]
    assert len({run_id for run_id, _ in answers}) == 1
    assert [created for _, created in answers].count("True") == 1


def test_an_id_that_another_run_has_is_passed_over(tmp_path: Path) -> None:
    first = _create(tmp_path, token="click")
    record = json.loads(first.record.read_text())
    record["token"] = "somebody else's"
    del record["digest"]
    first.record.write_text(json.dumps(record))
    second = create_run(tmp_path, PreparedTask(DIGITS), token="click")
    assert second.created
    assert second.layout != first


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/runs", "/dev/null/runs", "x" * 300])
def test_a_runs_folder_that_cannot_be_written_gets_one_sentence(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RelightError, match=r"No run can be created in .*--runs or RELIGHT_RUNS") as caught:
        _create(tmp_path / where)
    assert caught.value.exit_code == 1


def test_a_full_disk_gets_the_same_sentence_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable_file.os, "write", full)
    with pytest.raises(RelightError, match=r"No run can be created.*No space left"):
        _create(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_gets_the_same_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RelightError, match="Permission denied"):
            _create(tmp_path)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_config_that_json_would_change_is_refused_by_key(tmp_path: Path, value: float) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.lr ="):
        _create(tmp_path, PreparedTask(DIGITS, {"schedule": {"lr": [1.0, value]}}))
    assert list(tmp_path.iterdir()) == []


def test_names_may_be_anything_on_one_line(tmp_path: Path) -> None:
    for name in ("模型-ü🙂", "a 0'; echo x", "-rf", "../../etc", "x" * 200, "$(reboot)"):
        layout = _create(tmp_path, name=name)
        assert layout.folder.parent == tmp_path
        assert find_run(tmp_path, name) == layout
    assert read_record(_create(tmp_path, name="two\nlines\x1b[31m").record, RunRecord).name == "two lines [31m"


def test_a_name_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"300 characters\. Use at most 200"):
        _create(tmp_path, name="x" * 300)


def test_a_run_is_found_by_id_name_and_unique_prefix(tmp_path: Path) -> None:
    digits = _create(tmp_path)
    spiral = _create(tmp_path, PreparedTask(TaskReference(kind="file", name="spiral.py:Spiral")), name="turns")
    assert find_run(tmp_path, digits.run_id) == digits
    assert find_run(tmp_path, "turns") == spiral
    assert find_run(tmp_path, "digi") == digits


def test_an_id_counts_before_a_name_and_a_name_before_a_prefix(tmp_path: Path) -> None:
    first = _create(tmp_path)
    thief = _create(tmp_path, name=first.run_id)
    assert find_run(tmp_path, first.run_id) == first
    named = _create(tmp_path, name=first.run_id[:5])
    assert thief.run_id.startswith(first.run_id)
    assert find_run(tmp_path, first.run_id[:5]) == named


def test_what_could_be_several_lists_them(tmp_path: Path) -> None:
    first, second = _create(tmp_path), _create(tmp_path)
    with pytest.raises(RunNotFound, match=r"'digits' could be 2 runs") as caught:
        find_run(tmp_path, "digits")
    assert first.run_id in str(caught.value)
    assert second.run_id in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_unknown_run_names_the_nearest(tmp_path: Path) -> None:
    _create(tmp_path, name="accuracy study")
    with pytest.raises(RunNotFound, match=r"no run 'acuracy study'.*Did you mean 'accuracy study'"):
        find_run(tmp_path, "acuracy study")
    with pytest.raises(RunNotFound, match="To see all runs: relight list"):
        find_run(tmp_path, "zzzz")


@pytest.mark.parametrize("wanted", ["", "..", "../..", ".", "/", "\0", "a\nb"])
def test_nothing_outside_the_folder_is_a_run(tmp_path: Path, wanted: str) -> None:
    folder = tmp_path / "runs"
    _create(folder)
    with pytest.raises(RunNotFound):
        find_run(folder, wanted)


def test_an_empty_or_missing_folder_says_so(tmp_path: Path) -> None:
    assert list_layouts(tmp_path / "none") == []
    with pytest.raises(RunNotFound, match="has no runs"):
        find_run(tmp_path / "none", "x")


def test_a_file_in_place_of_the_folder_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RelightError, match=r"runs folder .* cannot be read.*Choose another"):
        list_layouts(tmp_path / "file")


def test_foreign_files_and_folders_are_no_runs_but_damaged_runs_are(tmp_path: Path) -> None:
    run = _create(tmp_path)
    (tmp_path / "README.md").write_text("")
    (tmp_path / "notes").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "run.json").write_text("{}")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    broken = _create(tmp_path, name="broken")
    broken.record.unlink()
    assert {layout.run_id for layout in list_layouts(tmp_path)} == {run.run_id, broken.run_id}
    assert find_run(tmp_path, broken.run_id) == broken


def test_the_runs_folder_is_the_one_given_else_the_variables_else_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RELIGHT_RUNS", raising=False)
    assert runs_folder() == tmp_path / "runs"
    monkeypatch.setenv("RELIGHT_RUNS", "elsewhere")
    assert runs_folder() == tmp_path / "elsewhere"
    assert runs_folder(Path("given")) == tmp_path / "given"
    monkeypatch.setenv("RELIGHT_RUNS", "")
    assert runs_folder(None) == tmp_path / "runs"
    with pytest.raises(UsageError):
        runs_folder("a\0b")


def test_runs_live_in_folders_that_need_care(weird_folder: Path) -> None:
    run = _create(weird_folder)
    assert list_layouts(weird_folder) == [run]
    assert find_run(weird_folder, run.run_id) == run


def test_what_fills_a_run_is_in_it_from_its_first_moment(tmp_path: Path) -> None:
    source = ImportedFrom(name="x.pth", path="/x.pth", kind="PyTorch state_dict", sha256="ab" * 32)

    def fill(building: RunLayout) -> ImportedFrom:
        assert list_layouts(tmp_path) == []
        building.checkpoints.mkdir()
        return source

    layout = _create(tmp_path, fill=fill)
    assert layout.checkpoints.is_dir()
    assert read_record(layout.record, RunRecord).imported_from == source


def test_a_run_whose_filling_fails_never_was(tmp_path: Path) -> None:
    def fill(building: RunLayout) -> ImportedFrom:
        building.checkpoints.mkdir()
        raise RelightError("It does not fit.")

    with pytest.raises(RelightError, match="It does not fit"):
        _create(tmp_path, fill=fill)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_the_user_may_not_read_hide_no_run(open_folder: Path) -> None:
    layout = _create(open_folder)
    for name in ("lost+found", "secret-k3f9"):
        (open_folder / name / "attempts").mkdir(parents=True)
        (open_folder / name).chmod(0)
    (open_folder / "loop").symlink_to("loop")
    with acting_as_nobody():
        assert list_layouts(open_folder) == [layout]
        assert find_run(open_folder, "digits") == layout


def test_attempts_that_cannot_be_read_are_damage(open_folder: Path) -> None:
    layout = _create(open_folder)
    layout.attempts.chmod(0)
    with acting_as_nobody(), pytest.raises(DamagedFile, match=r"attempts' cannot be read: Permission denied"):
        layout.list_attempts()


def test_only_names_that_relight_writes_are_attempts(tmp_path: Path) -> None:
    layout = _create(tmp_path)
    for name in ("0001", "20000000", "0000", "00002", "9" * 30, "\u0663\u0663\u0663\u0663", "0003\n", ".0004.tmp"):
        (layout.attempts / name).mkdir()
    assert layout.list_attempts() == [1, 20_000_000]


def test_a_link_to_a_missing_folder_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to("elsewhere")
    for ask in (lambda: list_layouts(tmp_path / "runs"), lambda: _create(tmp_path / "runs" / "deeper")):
        with pytest.raises(RelightError, match=r"runs' is a link to a folder that is missing"):
            ask()
