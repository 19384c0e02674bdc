"""After a reboot all runs come back with one command, but none that a person stopped or that its code ended."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from relight.overview.summary import list_runs, summarize_run
from relight.runs.about import change_about
from relight.runs.process_identity import current_process
from relight.runs.record_file import read_record, write_record
from relight.runs.records import AttemptProcesses, RunRecord
from relight.supervision import interrupted_runs
from relight.supervision.interrupted_runs import (
    RECENT_S,
    find_interrupted_runs,
    resume_interrupted_runs,
    word_interrupted,
)
from supervision.conftest import Lab, kill
from tests.runs.run_builder import RunBuilder, dead_process


def _interrupted(folder: Path, *, age_s: float = 3600.0, step: int = 50) -> RunBuilder:
    died_s = time.time() - age_s
    run = RunBuilder.create(folder).start(age_s=age_s + 60).processes(dead_process(), dead_process())
    run.progress(step, time_s=died_s, started_s=died_s - 50).checkpoint(1, step - 10)
    return run.saving(time_s=died_s, durable_step=step - 10, durable_time_s=died_s - 35.5)


def test_only_runs_that_nobody_stopped_are_found_and_the_last_comes_first(tmp_path: Path) -> None:
    older, newer = _interrupted(tmp_path, age_s=0), _interrupted(tmp_path, age_s=0)
    crashed = RunBuilder.create(tmp_path).start().exit("crashed", error="ValueError: no", step=3)
    crashed.processes(dead_process(), dead_process())
    RunBuilder.create(tmp_path).start().processes(dead_process(), dead_process()).exit("stopped")
    RunBuilder.create(tmp_path).finished()
    RunBuilder.create(tmp_path).start().processes(current_process(), current_process())
    archived, resumed = _interrupted(tmp_path), _interrupted(tmp_path)
    change_about(archived.layout, archived=True)
    resumed.start(from_step=40).processes(current_process(), current_process())
    runs = list_runs(tmp_path).runs
    found = find_interrupted_runs(
        msgspec.structs.replace(run, updated_s=1000.0 + (run.run == newer.layout.run_id)) for run in runs
    )
    assert found[0].run == newer.layout.run_id
    assert {entry.run: entry.crashed for entry in found} == {
        older.layout.run_id: False, newer.layout.run_id: False, crashed.layout.run_id: True,
    }  # fmt: skip
    assert [(entry.lost_steps, entry.resumes_at, round(entry.lost_s, 1)) for entry in found if not entry.crashed] == [
        (10, 40, 35.5)
    ] * 2


def test_the_sentence_counts_runs_and_lost_work(tmp_path: Path) -> None:
    for _ in range(2):
        _interrupted(tmp_path)
    now_s = time.time() + 6 * 3600
    found = find_interrupted_runs(list_runs(tmp_path).runs, now_s=now_s)
    assert word_interrupted(found, now_s=now_s) == "2 runs were interrupted 6 h ago; 1 min 11 s of work lost."
    one = [msgspec.structs.replace(found[0], lost_s=0.0)]
    assert word_interrupted(one, now_s=now_s) == "1 run was interrupted 6 h ago; no work lost."
    assert word_interrupted([msgspec.structs.replace(found[0], crashed=True)], now_s=now_s) == ""


def test_a_run_from_weeks_ago_is_left_alone_with_a_reason(tmp_path: Path) -> None:
    run = _interrupted(tmp_path)
    (found,) = find_interrupted_runs(list_runs(tmp_path).runs, now_s=time.time() + RECENT_S + 60)
    assert found.run == run.layout.run_id
    assert "archive it" in (found.obstacle or "")


def test_a_run_of_another_machine_and_code_from_elsewhere_are_left_alone(lab: Lab) -> None:
    other = msgspec.structs.replace(dead_process(), boot_id="another", host="another")
    run = _interrupted(lab.folder).processes(other, other)
    (found,) = find_interrupted_runs([msgspec.structs.replace(summarize_run(run.layout), cause="other_machine")])
    assert "another" in (found.obstacle or "")


@pytest.mark.processes
def test_a_press_that_arrives_twice_resumes_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = lab.launch("train", "10000").layout
    lab.wait_for_step(layout, 1)
    kill(lab.trainer(layout))
    lab.wait_for_exit(layout)
    seen_by_both = list_runs(lab.folder)
    monkeypatch.setattr(interrupted_runs, "list_runs", lambda _: seen_by_both)
    attempts = [[result.attempt for result in resume_interrupted_runs(lab.folder, token="press")] for _ in range(2)]
    assert attempts == [[2], [2]]
    (refused,) = resume_interrupted_runs(lab.folder)
    assert (refused.attempt, "already training" in refused.sentence) == (None, True)


@pytest.mark.processes
def test_all_interrupted_runs_come_back_and_only_they(lab: Lab) -> None:
    killed, reboot, crashed, gone = (lab.launch("train", "10000").layout for _ in range(4))
    for layout in (killed, reboot, crashed, gone):
        lab.wait_for_step(layout, 1)
    processes = lab.processes(reboot)
    kill(lab.trainer(killed))
    lab.wait_for_exit(killed)
    assert processes.trainer is not None
    kill(processes.supervisor.pid)
    lab.wait_until_free(reboot)
    # As after a reboot: the same records, written in another boot of this machine.
    identities = (processes.supervisor, processes.trainer)
    supervisor, trainer = (msgspec.structs.replace(identity, boot_id="the boot before") for identity in identities)
    write_record(reboot.attempt(1).processes, AttemptProcesses(supervisor=supervisor, trainer=trainer))
    kill(lab.trainer(crashed))
    ended = lab.wait_for_exit(crashed)
    write_record(crashed.attempt(1).exit, msgspec.structs.replace(ended, error="ValueError: no", signal=None))
    kill(lab.trainer(gone))
    lab.wait_for_exit(gone)
    record = read_record(gone.record, RunRecord)
    moved = msgspec.structs.replace(record.task, path="/nowhere/train.py")
    write_record(gone.record, msgspec.structs.replace(record, task=moved))

    results = {result.run: result for result in resume_interrupted_runs(lab.folder, token="press")}
    assert set(results) == {killed.run_id, reboot.run_id, gone.run_id}
    assert results[killed.run_id].attempt == results[reboot.run_id].attempt == 2
    assert results[killed.run_id].sentence.startswith(f"{killed.run_id} starts from the beginning (attempt 2)")
    assert (results[gone.run_id].attempt, "missing" in results[gone.run_id].sentence) == (None, True)
    for layout in (killed, reboot):
        lab.wait_for_step(layout, 1)
    again = {result.run for result in resume_interrupted_runs(lab.folder, token="press")}
    assert again == {gone.run_id}
    assert {run.run: run.attempt for run in list_runs(lab.folder).runs} == {
        killed.run_id: 2, reboot.run_id: 2, crashed.run_id: 1, gone.run_id: 1,
    }  # fmt: skip
    with_crashed = {result.run: result.attempt for result in resume_interrupted_runs(lab.folder, crashed=True)}
    assert with_crashed == {crashed.run_id: 2, gone.run_id: None}
