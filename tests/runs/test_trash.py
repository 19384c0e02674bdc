"""A deleted run is wholly in the trash or still a run, whatever happens, and a run that trains is never deleted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from relight.errors import RelightError, RunBusy, RunNotFound
from relight.overview.summary import list_runs, summarize_run
from relight.runs import trash
from relight.runs.about import change_about
from relight.runs.catalog import TRASH, find_run, list_layouts
from relight.runs.layout import RunLayout
from relight.runs.lock import RunLock
from relight.runs.process_identity import current_process
from relight.runs.trash import (
    KEPT_S,
    delete_run,
    list_trash,
    plan_deletion,
    restore_run,
    sweep_in_background,
    sweep_trash,
)
from tests.runs.run_builder import RunBuilder

DELETE = """
import os, signal, sys; from pathlib import Path
from relight.runs import trash; from relight.runs.layout import RunLayout
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
def die_after(real):
    def run(*a, **k):
        real(*a, **k); die()
    return run
def die_halfway(path, **_):
    next(Path(path).rglob("*.json")).unlink(); die()
moment = sys.argv[2]
if moment == "before the rename": trash.os.rename = die
if moment == "after the rename": trash.os.rename = die_after(os.rename)
if moment == "during the removal": trash.shutil.rmtree = die_halfway
trash.delete_run(RunLayout(Path(sys.argv[1])), now=sys.argv[3] == "now")
"""


def _files(folder: Path) -> dict[str, bytes]:
    # Taking the lock writes a pid into it.
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


def _age(entry: trash.TrashedRun, seconds: float) -> Path:
    """Make an entry look as if it had been deleted that long ago."""
    return Path(entry.path).rename(Path(entry.path).with_name(f"{entry.run}@{int(time.time() - seconds)}"))


def test_a_deleted_run_is_gone_from_lists_and_comes_back_as_it_was(weird_folder: Path) -> None:
    layout = RunBuilder.create(weird_folder, name="mine").finished().layout
    other = RunBuilder.create(weird_folder).finished().layout
    before = _files(layout.folder)
    entry = delete_run(layout)
    assert entry is not None
    assert [run.run_id for run in list_layouts(weird_folder)] == [other.run_id]
    with pytest.raises(RunNotFound, match=f"relight restore {layout.run_id}"):
        find_run(weird_folder, layout.run_id)
    assert list_trash(weird_folder) == [entry]
    assert (entry.run, entry.name, entry.removed_s - entry.deleted_s) == (layout.run_id, "mine", KEPT_S)
    assert restore_run(weird_folder, layout.run_id) == layout
    assert _files(layout.folder) == before
    assert list_trash(weird_folder) == []


def test_a_run_is_restored_by_its_name_and_the_last_deleted_one_first(tmp_path: Path) -> None:
    first = RunBuilder.create(tmp_path, name="a").finished().layout
    second = RunBuilder.create(tmp_path, name="b").finished().layout
    change_about(second, name="a")
    entry = delete_run(first)
    assert entry is not None
    _age(entry, 60)
    delete_run(second)
    assert restore_run(tmp_path, "a") == second
    assert restore_run(tmp_path, "a") == first
    with pytest.raises(RunNotFound, match="empty"):
        restore_run(tmp_path, "a")


def test_a_restore_never_replaces_a_run(tmp_path: Path) -> None:
    layout = RunBuilder.create(tmp_path).finished().layout
    delete_run(layout)
    layout.folder.mkdir()
    (layout.folder / "run.json").touch()
    with pytest.raises(RelightError, match="already"):
        restore_run(tmp_path, layout.run_id)
    assert len(list_trash(tmp_path)) == 1
    assert layout.folder.exists()


def test_deleted_restored_and_deleted_within_a_second(tmp_path: Path) -> None:
    layout = RunBuilder.create(tmp_path).finished().layout
    for _ in range(3):
        delete_run(layout)
        (tmp_path / layout.run_id).mkdir()
        (tmp_path / layout.run_id / "run.json").touch()
    assert len({entry.path for entry in list_trash(tmp_path)}) == 3


def test_now_frees_the_space_at_once(tmp_path: Path) -> None:
    layout = RunBuilder.create(tmp_path).finished().layout
    assert delete_run(layout, now=True) is None
    assert list(tmp_path.iterdir()) == [tmp_path / TRASH]
    assert list((tmp_path / TRASH).iterdir()) == []


def test_the_trash_is_swept_after_seven_days(tmp_path: Path) -> None:
    young, old = (RunBuilder.create(tmp_path).finished().layout for _ in range(2))
    entries = [delete_run(young), delete_run(old)]
    assert entries[0] is not None
    assert entries[1] is not None
    _age(entries[0], KEPT_S - 60)
    _age(entries[1], KEPT_S + 60)
    assert sweep_trash(tmp_path) == [old.run_id]
    assert [entry.run for entry in list_trash(tmp_path)] == [young.run_id]
    assert sweep_trash(tmp_path, everything=True) == [young.run_id]
    assert sweep_trash(tmp_path / "missing") == []


def test_the_background_sweep_starts_only_when_something_is_due(tmp_path: Path) -> None:
    def sweeps() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "relight-trash"]

    entry = delete_run(RunBuilder.create(tmp_path).finished().layout)
    assert entry is not None
    sweep_in_background(tmp_path)
    assert sweeps() == []
    _age(entry, KEPT_S + 60)
    sweep_in_background(tmp_path)
    for thread in sweeps():
        thread.join()
    assert list_trash(tmp_path) == []


def test_what_relight_did_not_put_there_stays(tmp_path: Path) -> None:
    kept = tmp_path / TRASH / "holiday photos"
    kept.mkdir(parents=True)
    (tmp_path / TRASH / "notes@123").touch()
    assert sweep_trash(tmp_path, everything=True) == []
    assert kept.exists()
    assert (tmp_path / TRASH / "notes@123").exists()


@pytest.mark.parametrize("now", ["later", "now"])
@pytest.mark.parametrize("moment", ["before the rename", "after the rename", "during the removal"])
def test_killed_at_any_moment_it_is_a_run_or_in_the_trash_or_gone(tmp_path: Path, moment: str, now: str) -> None:
    layout = RunBuilder.create(tmp_path).finished().layout
    before = _files(layout.folder)
    done = subprocess.run([sys.executable, "-c", DELETE, str(layout.folder), moment, now], check=False)
    assert done.returncode == (0 if (moment, now) == ("during the removal", "later") else -signal.SIGKILL)
    entries = list_trash(tmp_path)
    if layout.folder.exists():
        assert moment == "before the rename"
        assert _files(layout.folder) == before
    elif entries:
        assert now == "later"
        assert restore_run(tmp_path, layout.run_id) == layout
        assert _files(layout.folder) == before
    else:
        assert now == "now"
        sweep_trash(tmp_path)
        assert list((tmp_path / TRASH).iterdir()) == []


def test_a_run_that_trains_or_starts_is_refused(tmp_path: Path) -> None:
    live = RunBuilder.create(tmp_path).start().processes(current_process(), current_process()).progress(5).layout
    fresh = RunBuilder.create(tmp_path).layout
    for layout in (live, fresh):
        with pytest.raises(RunBusy, match=r"(running|queued).*cannot be deleted"):
            delete_run(layout)
        assert layout.folder.exists()
    assert f"pid {os.getpid()}" in (plan_deletion([live])[0].refusal or "")


def test_a_run_whose_writer_still_works_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trash, "_ENDING_WAIT_S", 0.0)
    layout = RunBuilder.create(tmp_path).finished().layout
    with RunLock.acquire(layout), pytest.raises(RunBusy, match="still works on it"):
        delete_run(layout)
    assert summarize_run(layout).status == "finished"
    delete_run(layout)


def test_links_are_never_followed(tmp_path: Path) -> None:
    elsewhere = RunBuilder.create(tmp_path / "elsewhere").finished().layout
    runs = tmp_path / "runs"
    layout = RunBuilder.create(runs).finished().layout
    (layout.exports).mkdir()
    (layout.exports / "big").symlink_to(elsewhere.folder)
    link = RunLayout(runs / "linked-run1")
    link.folder.symlink_to(elsewhere.folder)
    before = _files(elsewhere.folder)
    with pytest.raises(RelightError, match="is a link"):
        delete_run(link, now=True)
    size = plan_deletion([layout])[0].bytes
    delete_run(layout, now=True)
    assert _files(elsewhere.folder) == before
    assert size < 1 << 20
    (runs / TRASH / "linked@1").symlink_to(elsewhere.folder)
    assert sweep_trash(runs, everything=True) == []
    (runs / TRASH / "linked@1").unlink()
    (runs / TRASH).rmdir()
    (tmp_path / "elsewhere" / "other@1").mkdir()
    (runs / TRASH).symlink_to(tmp_path / "elsewhere")
    more = RunBuilder.create(runs).finished().layout
    with pytest.raises(RelightError, match="trash"):
        delete_run(more)
    assert sweep_trash(runs, everything=True) == []
    assert list_trash(runs) == []
    assert (tmp_path / "elsewhere" / "other@1").exists()
    assert _files(elsewhere.folder) == before


def test_the_plan_says_what_becomes_free_and_what_goes_with_it(tmp_path: Path) -> None:
    layout = RunBuilder.create(tmp_path).finished().layout
    child = RunBuilder.create(tmp_path, parent=_parent(layout.run_id)).finished().layout
    layout.exports.mkdir()
    (layout.exports / "best_model.safetensors").write_bytes(bytes(1_000_000))
    (layout.exports / "again").hardlink_to(layout.exports / "best_model.safetensors")
    (plan,) = plan_deletion([layout])
    assert 1_000_000 <= plan.bytes < 1_200_000
    assert (plan.exports, plan.branches, plan.refusal) == (1, (child.run_id,), None)
    assert layout.folder.exists()


def test_a_damaged_run_can_be_deleted(tmp_path: Path) -> None:
    layout = RunBuilder.create(tmp_path).finished().layout
    layout.record.write_text("{")
    assert plan_deletion([layout])[0].refusal is None
    delete_run(layout)
    assert list_runs(tmp_path).damaged == []
    assert [entry.name for entry in list_trash(tmp_path)] == [layout.run_id]


def test_two_deletions_at_once_delete_once(tmp_path: Path, start_process: Callable[..., subprocess.Popen[str]]) -> None:
    layout = RunBuilder.create(tmp_path).finished().layout
    code = (
        "import sys; from pathlib import Path; from relight.runs.layout import RunLayout\n"
        "from relight.runs.trash import delete_run; print('up', flush=True); sys.stdin.readline()\n"
        "try: delete_run(RunLayout(Path(sys.argv[1]))); print('deleted')\n"
        "except Exception as error: print(type(error).__name__)"
    )
    processes = [start_process(code, layout.folder) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
    answers = sorted(process.communicate("\n")[0].strip() for process in processes)
    assert answers.count("deleted") == 1
    assert set(answers) <= {"deleted", "RelightError", "RunBusy", "RunNotFound"}
    assert len(list_trash(tmp_path)) == 1


def _parent(run: str) -> object:
    from relight.runs.records import Parent

    return Parent(run=run, step=1, sequence=1)
