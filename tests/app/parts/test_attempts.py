"""The table of attempts shows how each attempt began and ended, and what is in its folder."""

from __future__ import annotations

import time
from pathlib import Path

from relight.overview.attempts import summarize_attempts
from relight.runs.record_file import write_record
from relight.runs.records import AttemptStart, ProcessIdentity
from relight.runs.status import RunStatus
from relight_app.parts.attempts import build_attempts
from tests.app.sample_runs import SampleRun, make_run


def test_attempts_show_their_beginning_and_end(tmp_path: Path) -> None:
    layout = make_run(tmp_path, SampleRun("x", status="crashed", step=600, attempts=2, reason="Killed by SIGKILL."))
    attempts = summarize_attempts(layout, status=RunStatus.CRASHED, reason="Killed by SIGKILL.")
    assert [attempt.number for attempt in attempts] == [1, 2]
    assert attempts[0].beginning == "launched"
    assert attempts[1].beginning.startswith("resumed from step 260")
    table = build_attempts(attempts, now_s=time.time(), run=layout.run_id, environments={})
    assert "261 to 600" in table
    assert "Killed by SIGKILL." in table


def test_an_attempt_of_your_own_torchrun_names_its_ranks_and_machines(tmp_path: Path) -> None:
    layout = make_run(tmp_path, SampleRun("x", status="crashed", step=600, attempts=2))
    agents = tuple(ProcessIdentity(pid=8, start_ticks=5.0, boot_id=host, host=host) for host in ("n2", "n1"))
    write_record(
        layout.attempt(2).start,
        AttemptStart(attempt=2, time_s=1.0, reason="restart", from_sequence=3, from_step=260, nproc=8, agents=agents),
    )
    attempts = summarize_attempts(layout, status=RunStatus.CRASHED, reason="")
    assert attempts[1].beginning == "restarted automatically from step 260, 8 ranks on n1, n2"


def test_a_damaged_attempt_does_not_hide_the_others(tmp_path: Path) -> None:
    layout = make_run(tmp_path, SampleRun("x", status="stopped", step=600, attempts=2))
    layout.attempt(1).exit.write_bytes(b"garbage")
    attempts = summarize_attempts(layout, status=RunStatus.STOPPED, reason="")
    assert [str(attempt.outcome) for attempt in attempts] == ["interrupted", "stopped"]
    assert "damaged" in attempts[0].notes[0]


def test_each_attempt_shows_its_log_exit_record_and_environment(tmp_path: Path) -> None:
    layout = make_run(tmp_path, SampleRun("x", status="interrupted", step=600, attempts=2))
    layout.attempt(2).environment.write_text('{"changes": [{"key": "threads", "before": 2, "now": 4}]}')
    attempts = summarize_attempts(layout, status=RunStatus.INTERRUPTED, reason="")
    environment = {"version": 1, "torch": "2.13.0", "tf32": {"cudnn": True}, "code": {"files": ["a.py", "b.py"]}}
    table = build_attempts(attempts, now_s=time.time(), run="x-abcd", environments={1: environment, 2: None})
    assert 'href="/files/x-abcd/log.txt?attempt=1"' in table and 'href="/files/x-abcd/log.txt?attempt=2"' in table
    assert "Exit record: crashed at" in table and "signal SIGKILL" in table
    assert "No exit record" in table, "the supervisor of the second attempt was killed"
    assert "<dt>tf32.cudnn</dt><dd>true</dd>" in table and "<dd>a.py, b.py</dd>" in table
    assert "The environment was not recorded." in table
    assert "because the number of threads was 2 and is 4" in table
