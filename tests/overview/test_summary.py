"""A run in a few figures; a list that no damage can empty, and that costs next to nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from relight.errors import DamagedFile
from relight.metrics.writer import MetricWriter
from relight.overview.summary import list_runs, summarize_run
from relight.runs.process_identity import current_process
from relight.runs.record_file import read_record, write_record
from relight.runs.records import Parent, RunRecord
from tests.opened_files import count_reads
from tests.runs.run_builder import RunBuilder, dead_process

KEYS_OF_THE_DESIGN = [
    "run",
    "name",
    "status",
    "reason",
    "attempt",
    "step",
    "epoch",
    "steps_total",
    "durable_step",
    "work_at_risk_s",
    "work_at_risk_steps",
    "best",
    "metrics",
    "pids",
    "path",
]


def test_a_finished_run(tmp_path: Path) -> None:
    run = RunBuilder.create(tmp_path).finished(100)
    summary = summarize_run(run.layout)
    assert (summary.status, summary.step, summary.steps_total, summary.durable_step) == ("finished", 100, 100, 100)
    assert (summary.work_at_risk_s, summary.work_at_risk_steps) == (0.0, 0)
    assert summary.metrics == {"train/loss": 0.5, "train/lr": 0.1}
    assert summary.best is not None
    assert (summary.best.step, summary.best.metric, summary.best.value) == (50, "validation/accuracy", 0.9)
    assert summary.eta_s is None
    assert summary.path == str(run.layout.folder)


def test_its_json_begins_with_the_keys_that_were_promised(tmp_path: Path) -> None:
    shown = json.loads(msgspec.json.encode(summarize_run(RunBuilder.create(tmp_path).finished().layout)))
    assert list(shown)[: len(KEYS_OF_THE_DESIGN)] == KEYS_OF_THE_DESIGN
    assert shown["pids"] == {"supervisor": None, "trainer": None, "writer": None}
    assert shown["status"] == "finished"


def test_a_summary_reads_each_file_once(tmp_path: Path) -> None:
    run = RunBuilder.create(tmp_path).finished(50).start(from_step=50).processes(dead_process(), dead_process())
    run.progress(60).saving(durable_step=50).outcome("crashed")
    with count_reads(run.layout.folder) as reads:
        summarize_run(run.layout)
    assert {"run.json", *(f"attempts/0002/{name}.json" for name in ("start", "processes", "outcome"))} <= set(reads)
    assert max(reads.values()) == 1, reads


def test_a_running_run_has_pids_rate_eta_and_work_at_risk(tmp_path: Path) -> None:
    me = current_process()
    run = RunBuilder.create(tmp_path).start(age_s=20).processes(me, me)
    write_record(run.files.writer, me)
    run.progress(40, steps_total=100, steps_per_s=2.0, epoch=1, epochs=3).checkpoint(1, 30)
    run.saving(durable_step=30, durable_time_s=time.time() - 5)
    summary = summarize_run(run.layout)
    assert summary.status == "running"
    assert (summary.pids.supervisor, summary.pids.trainer, summary.pids.writer) == (me.pid,) * 3
    assert (summary.steps_per_s, summary.eta_s, summary.phase) == (2.0, 30.0, "training")
    assert (summary.epoch, summary.epochs) == (1, 3)
    assert (summary.durable_step, summary.work_at_risk_steps) == (30, 10)
    assert 5.0 <= summary.work_at_risk_s < 60.0


def test_a_dead_run_has_no_pids_and_no_eta(tmp_path: Path) -> None:
    run = RunBuilder.create(tmp_path).start().processes(dead_process(), dead_process()).progress(40, steps_per_s=2.0)
    summary = summarize_run(run.layout)
    assert summary.status == "interrupted"
    assert (summary.pids.supervisor, summary.pids.trainer, summary.pids.writer) == (None, None, None)
    assert summary.eta_s is None
    assert summary.work_at_risk_steps == 40


def test_a_resumed_attempt_that_has_not_begun_keeps_what_is_known(tmp_path: Path) -> None:
    me = current_process()
    run = RunBuilder.create(tmp_path).start().progress(70, best_step=60, best_value=0.7, epoch=2, work_s=30.0)
    run.exit("crashed", step=70, signal="SIGKILL").checkpoint(1, 50).start(from_step=50, notes=("Passed over s60.",))
    run.processes(me)
    summary = summarize_run(run.layout)
    assert (summary.status, summary.attempt, summary.step, summary.durable_step) == ("queued", 2, 50, 50)
    assert (summary.steps_total, summary.epoch, summary.work_s) == (1000, 2, 30.0)
    assert summary.best is not None
    assert summary.best.step == 60
    assert summary.notes == ("Passed over s60.",)
    assert summary.error is None


def test_a_crash_shows_its_error_and_only_show_its_traceback(tmp_path: Path) -> None:
    run = RunBuilder.create(tmp_path).start()
    run.exit("crashed", error="ValueError: x", traceback="Traceback\n  whole\nValueError: x")
    shown = summarize_run(run.layout)
    assert (shown.error, shown.reason) == ("ValueError: x", "ValueError: x")
    assert shown.traceback == "Traceback\n  whole\nValueError: x"
    (listed,) = list_runs(tmp_path).runs
    assert (listed.error, listed.traceback) == ("ValueError: x", None)


def test_a_saving_failure_shows_while_the_run_lives(tmp_path: Path) -> None:
    me = current_process()
    run = RunBuilder.create(tmp_path).start().processes(me, me).saving(failure="No space left on device.")
    assert summarize_run(run.layout).saving_failure == "No space left on device."
    run.exit("finished")
    assert summarize_run(run.layout).saving_failure is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_best_that_is_no_number_is_none(tmp_path: Path, value: float) -> None:
    run = RunBuilder.create(tmp_path).start().progress(3, best_step=2, best_value=value)
    assert summarize_run(run.layout).best is None


def test_a_best_metric_that_is_never_logged_is_told(tmp_path: Path) -> None:
    run = RunBuilder.create(tmp_path).finished(100)
    assert summarize_run(run.layout).best_missing is None, "nothing was validated yet"
    record = read_record(run.layout.record, RunRecord)
    write_record(run.layout.record, msgspec.structs.replace(record, best_metric="validation/f1"))
    writer = MetricWriter(run.layout.metrics, stream="validation", attempt=1)
    writer.log(50, {"accuracy": 0.9, "loss": 0.1})
    writer.close()
    summary = summarize_run(run.layout)
    assert summary.best_missing == (
        "There is no best checkpoint: its metric, validation/f1, was never logged. Set best_metric to one that was: "
        "validation/accuracy, validation/loss."
    )
    assert summary.best_missing in summary.notes
    write_record(run.layout.record, msgspec.structs.replace(record, best_metric="validation/accuracy"))
    assert summarize_run(run.layout).best_missing is None


def test_a_branch_names_its_parent(tmp_path: Path) -> None:
    run = RunBuilder.create(tmp_path, parent=Parent(run="digits-aaaa", step=5, sequence=1, changes={"lr": (1, 2)}))
    parent = summarize_run(run.layout).parent
    assert parent is not None
    assert (parent.run, parent.changes) == ("digits-aaaa", {"lr": (1, 2)})


def test_the_list_is_newest_first(tmp_path: Path) -> None:
    made = [RunBuilder.create(tmp_path, name=f"r{number}").layout.run_id for number in range(4)]
    assert [run.run for run in list_runs(tmp_path).runs] == made[::-1]


FILES_OF_A_RUN = [
    "attempts/0001/start.json",
    "attempts/0001/processes.json",
    "attempts/0001/exit.json",
    "attempts/0001/saving.json",
    "attempts/0001/writer.json",
    "attempts/0001/progress.bin",
    "attempts/0001/environment.json",
    "attempts/0001/outcome.json",
    "metrics/0001-train.rlm",
    "checkpoints/manifests/00000001-s100-0123abcd.json",
    "stop.json",
    "lock",
]


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "folder", "missing"])
@pytest.mark.parametrize("name", FILES_OF_A_RUN)
def test_no_damaged_file_hides_a_run_or_its_neighbor(tmp_path: Path, name: str, damage: str) -> None:
    run = RunBuilder.create(tmp_path).finished(100)
    write_record(run.files.writer, dead_process())
    neighbor = RunBuilder.create(tmp_path, name="neighbor").finished(7)
    path = run.layout.folder / name
    data = path.read_bytes() if path.exists() else b'{"attempt": 1'
    path.unlink(missing_ok=True)
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "garbage": b"\x00\xff\xfe{[" * 50}[damage])
    listing = list_runs(tmp_path)
    assert listing.damaged == []
    assert {summary.run for summary in listing.runs} == {run.layout.run_id, neighbor.layout.run_id}
    shown = summarize_run(run.layout)
    if name == "attempts/0001/exit.json":
        assert shown.status == "interrupted"
    else:
        assert shown.status == "finished"
    if damage in ("truncated", "empty", "garbage") and name in FILES_OF_A_RUN[:5]:
        assert any(str(path) in note for note in shown.notes)


@pytest.mark.parametrize("data", [None, b"", b'{"format": "relight-run", "ver', b"\xff\x00garbage"])
def test_a_run_without_its_record_is_listed_as_damaged_beside_the_others(tmp_path: Path, data: bytes | None) -> None:
    broken, whole = RunBuilder.create(tmp_path, name="broken").finished(), RunBuilder.create(tmp_path).finished()
    broken.layout.record.unlink()
    if data is not None:
        broken.layout.record.write_bytes(data)
    listing = list_runs(tmp_path)
    assert [run.run for run in listing.runs] == [whole.layout.run_id]
    (damaged,) = listing.damaged
    assert damaged.run == broken.layout.run_id
    assert str(broken.layout.record) in damaged.reason
    with pytest.raises(DamagedFile):
        summarize_run(broken.layout)


def test_a_copied_run_folder_still_tells_its_story(tmp_path: Path, weird_folder: Path) -> None:
    run = RunBuilder.create(tmp_path / "runs").finished(100)
    moved = weird_folder / run.layout.run_id
    run.layout.folder.rename(moved)
    (summary,) = list_runs(weird_folder).runs
    assert (summary.status, summary.step, summary.path) == ("finished", 100, str(moved))


def test_an_empty_or_missing_folder_lists_nothing(tmp_path: Path) -> None:
    listing = list_runs(tmp_path / "none")
    assert (listing.runs, listing.damaged) == ([], [])


def test_runs_are_listed_without_heavy_imports(tmp_path: Path) -> None:
    RunBuilder.create(tmp_path).finished(100)
    code = (
        "import sys; from pathlib import Path; from relight.overview.summary import list_runs\n"
        "assert len(list_runs(Path(sys.argv[1])).runs) == 1\n"
        "print([name for name in ('torch', 'numpy', 'pydantic', 'rich', 'typer') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
