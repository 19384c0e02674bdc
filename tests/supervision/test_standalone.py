"""Which run a script that you started yourself continues."""

from __future__ import annotations

from pathlib import Path

import pytest

from relight.errors import RelightError, RunNotFound, UsageError
from relight.runs.catalog import create_run
from relight.runs.layout import RunLayout
from relight.runs.process_identity import current_process
from relight.runs.record_file import write_record
from relight.runs.records import AttemptExit, AttemptStart, Outcome, PreparedTask, ProcessIdentity, TaskReference
from relight.supervision.standalone import RunIsOver, Standalone, Torchrun, begin_standalone
from relight.supervision.stop import stop_run

AGENT = ProcessIdentity(pid=8, start_ticks=5.0, boot_id="a boot", host="n1")
OTHER = ProcessIdentity(pid=8, start_ticks=5.0, boot_id="a boot", host="n2")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def _make(runs: Path, *, outcome: Outcome, agents: tuple[ProcessIdentity, ...] = (AGENT,), script: bool = True) -> str:
    task = TaskReference(kind="script", name="train.py", path="/somewhere/train.py")
    layout, _ = create_run(runs, PreparedTask(task if script else TaskReference(kind="builtin", name="digits")))
    attempt = RunLayout(layout.folder).attempt(1)
    attempt.folder.mkdir(parents=True)
    write_record(attempt.start, AttemptStart(attempt=1, time_s=1.0, reason="launch", nproc=2, agents=agents))
    write_record(attempt.exit, AttemptExit(attempt=1, time_s=2.0, outcome=outcome))
    return layout.run_id


def _begin(runs: Path, *, resume: str | None = None, agents: tuple[ProcessIdentity, ...] = ()) -> Standalone:
    return begin_standalone(
        Path("/elsewhere/train.py"), arguments=(), runs=runs, resume=resume, torchrun=Torchrun(2, agents)
    )


def test_a_torchrun_whose_run_is_over_trains_nothing_more(runs: Path) -> None:
    run = _make(runs, outcome="finished")
    with pytest.raises(RunIsOver, match=f"'{run}' has finished"):
        _begin(runs, agents=(OTHER, AGENT))  # one of its processes is enough


def test_torchrun_does_not_start_again_what_you_have_stopped(runs: Path) -> None:
    run = _make(runs, outcome="stopped")
    with pytest.raises(RunIsOver, match=f"start torchrun again with RELIGHT_RESUME={run}"):
        _begin(runs, agents=(AGENT,))


def test_a_stop_between_two_rounds_of_torchrun_counts(runs: Path) -> None:
    run = _make(runs, outcome="crashed", agents=(current_process(),))  # this torchrun is alive
    assert stop_run(RunLayout(runs / run), wait_s=0.0) is not None
    with pytest.raises(RunIsOver, match=f"start torchrun again with RELIGHT_RESUME={run}"):
        _begin(runs, agents=(current_process(),))


def test_without_its_torchrun_a_crashed_run_has_nothing_to_stop(runs: Path) -> None:
    run = _make(runs, outcome="crashed")
    with pytest.raises(RelightError, match="not training"):
        stop_run(RunLayout(runs / run))


def test_only_a_process_of_that_very_torchrun_finds_its_run(runs: Path) -> None:
    _make(runs, outcome="finished")
    with pytest.raises(RunNotFound):
        _begin(runs, agents=(OTHER, current_process()), resume="nosuch")


def test_a_finished_run_is_not_continued_by_name(runs: Path) -> None:
    run = _make(runs, outcome="finished")
    with pytest.raises(RelightError, match="nothing to resume"):
        _begin(runs, resume=run)


def test_a_run_is_continued_by_its_own_script_only(runs: Path, tmp_path: Path) -> None:
    run = _make(runs, outcome="crashed")
    with pytest.raises(UsageError, match=r"was made by the script 'train.py', and this is 'other.py'"):
        begin_standalone(tmp_path / "other.py", arguments=(), runs=runs, resume=run)
    task = _make(runs, outcome="crashed", script=False)
    with pytest.raises(UsageError, match=f"trains the task 'digits'.*relight resume {task}"):
        _begin(runs, resume=task)
