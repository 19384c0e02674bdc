"""The run's page says how far the copy elsewhere is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from relight.mirror.address import parse_mirror
from relight.mirror.report import set_mirror
from relight.runs.process_identity import current_process
from relight.runs.record_file import write_record
from relight.runs.records import MirrorState
from relight_app.engine import Engine
from tests.app.asking import ask, problem
from tests.app.parts.shown import show
from tests.app.sample_runs import SampleRun, make_run


def test_the_checkpoints_say_where_they_are_copied_and_what_waits(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="running", step=600))
    assert show(engine, "run-checkpoints", id=layout.run_id).find_all("div", data_key="mirror") == []
    set_mirror(layout, parse_mirror("s3://bucket/runs"))
    state = MirrorState(
        url="s3://bucket/runs", time_s=1.0, process=current_process(), copied_sequence=99, copied_step=560,
        copied_s=1_000.0, failure="Connection refused.", failing_since_s=2_000.0, waiting_checkpoints=2,
        waiting_bytes=3_100_000_000,
    )  # fmt: skip
    write_record(layout.mirror_state, state)
    (line,) = show(Engine(runs), "run-checkpoints", id=layout.run_id).find_all("div", data_key="mirror")
    assert f"Copied to s3://bucket/runs/{layout.run_id} up to step 560" in line.text
    assert line.find_all("time", data_s="1000")
    assert "2 checkpoints (3.1 GB) wait: Connection refused since" in line.text
    assert "warn" in str(line.attributes["class"])


def test_the_form_shows_the_mirror_of_the_environment_but_never_a_password(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def value() -> str:
        (form,) = show(engine, "launch-form", task="digits").find_all("form", data_act="launch")
        return form.fields()["mirror"]

    assert value() == ""
    monkeypatch.setenv("RELIGHT_MIRROR", "s3://bucket/runs")
    assert value() == "s3://bucket/runs"
    monkeypatch.setenv("RELIGHT_MIRROR", "s3://key:s3cr3t@bucket/runs")
    assert value() == ""


def test_the_command_below_the_form_has_the_mirror(engine: Engine) -> None:
    request = json.dumps({"task": "digits", "mirror": "s3://bucket/runs"})
    assert show(engine, "launch-command", request=request).text == "relight run digits --mirror s3://bucket/runs"


def test_a_launch_with_a_password_in_its_mirror_is_refused(engine: Engine) -> None:
    told = problem(ask(engine, "launch", task="digits", mirror="s3://key:s3cr3t@bucket/x"))
    assert "must not contain a user, a password" in told
    assert "s3cr3t" not in told
