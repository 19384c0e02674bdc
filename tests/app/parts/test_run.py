"""The parts of a run's page: the buttons and notices in every state."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relight.checkpoints.store import CheckpointStore
from relight.drill.proof import DrillProof, FirstDifference, write_proof
from relight.drill.trainings import DrillFailed
from relight.errors import RunBusy
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record, write_record
from relight.runs.records import AttemptStart, Pace, Parent, PreparedTask, ResumeCheck, SavingState, TaskReference
from relight.runs.run_record import read_run_record
from relight.runs.stop_request import request_stop
from relight.supervision.attempt_start import Launched
from relight.supervision.ranks import record_rank
from relight_app import actions
from relight_app.engine import Engine
from relight_app.parts.registry import PARTS
from tests.app.asking import ask, ask_in_passing, problem, wait_until
from tests.app.parts.shown import Element, show, show_run
from tests.app.sample_runs import TRACEBACK, SampleRun, make_run

EXPORTS = {"Export best weights": True, ".pth": True}


def _buttons(part: Element) -> dict[str, bool]:
    """Return for each button, by label, whether it can be pressed, without the card of a dead run.

    "Prove resume" and "Verify" always can be.
    """
    buttons = {label: on for label, on in part.buttons().items() if not label.startswith("Resume from")}
    assert buttons.pop("Prove resume")
    assert buttons.pop("Verify", True)
    return buttons


def _titles(part: Element) -> list[str]:
    return [heading.text for heading in part.find_all("h1")]


@pytest.mark.parametrize(
    ("status", "buttons"),
    [
        ("running", {"Stop": True}),
        ("crashed", {"Resume": True}),
        ("interrupted", {"Resume": True}),
        ("stopped", {"Resume": True}),
        ("finished", {}),
    ],
)
def test_only_what_can_be_done_is_offered(engine: Engine, runs: Path, status: str, buttons: dict[str, bool]) -> None:
    layout = make_run(runs, SampleRun("x", status=status, step=1_200 if status == "finished" else 600))
    part = show_run(engine, layout.run_id)
    assert _titles(part) == ["x"]
    assert _buttons(part) == buttons | EXPORTS


def test_every_button_sends_what_its_action_takes(engine: Engine, runs: Path) -> None:
    stopping = make_run(runs, SampleRun("stopping", status="running", step=600))
    request_stop(stopping)
    layouts = [stopping, *(make_run(runs, SampleRun(name, status=name, step=600)) for name in ("running", "crashed"))]
    acting = [
        one for layout in layouts for one in show_run(engine, layout.run_id).walk() if "data-act" in one.attributes
    ]
    assert {str(one.attributes["data-act"]) for one in acting} >= {"stop", "resume", "export", "pin", "verify", "drill"}
    for one in acting:
        typed = {str(one.attributes["data-field"]): "typed"} if one.attributes.get("data-field") else {}
        assert msgspec.convert(one.payload | typed, actions.ACTIONS[str(one.attributes["data-act"])].request)


def test_without_a_checkpoint_nothing_can_be_exported(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="crashed", step=30, checkpoints=0))
    part = show_run(engine, layout.run_id)
    assert _buttons(part) == {"Resume": True, "Export best weights": False, ".pth": False}
    assert "30 steps. There is no checkpoint: a resume starts from step 0." in part.text
    assert "No checkpoint The run ended before" in part.text
    assert "no checkpoint" in problem(ask(engine, "export", run=layout.run_id))


def test_a_crash_shows_its_whole_traceback_and_what_was_lost(engine: Engine, runs: Path) -> None:
    layout = make_run(
        runs, SampleRun("x", status="crashed", step=600, durable_lag=25, error="boom: it broke", traceback=TRACEBACK)
    )
    part = show(engine, "run-notices", id=layout.run_id)
    assert "boom: it broke" in part.text
    assert " ".join(TRACEBACK.split()) in part.text
    assert "25 steps. A resume continues from step 575" in part.text


def test_a_failure_to_save_is_loud_and_stop_asks_before_work_is_lost(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="running", step=600, saving_failure="The disk is full."))
    part = show_run(engine, layout.run_id)
    assert any("Checkpoints cannot be saved. The disk is full." in one.text for one in part.find_all(role="alert"))
    stop = part.button("Stop")
    assert stop.payload == {"run": layout.run_id, "now": True}
    assert "The disk is full." in str(stop.attributes["data-confirm"])
    assert "40 steps" in str(stop.attributes["data-confirm"])
    assert (stop.attributes["data-confirm-yes"], stop.attributes["data-confirm-no"]) == ("Stop now", "Keep training")


def test_how_often_it_saves_is_said_and_more_at_risk_than_promised_is_a_warning(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="running", step=600))
    saving = read_record(layout.attempt(1).saving, SavingState)
    pace = Pace(reason="balance", interval_s=130.0, cost_s=0.092, at_risk_s=131.0, max_loss_s=240.0)
    write_record(layout.attempt(1).saving, msgspec.structs.replace(saving, pace=pace))
    part = show_run(engine, layout.run_id)
    assert "Every 2 min 10 s: a checkpoint costs 92 ms of training, 0.071 % of your time." in part.text
    (risk,) = [one for one in part.walk() if one.attributes.get("data-warn") == "work_at_risk_s"]
    assert risk.attributes["data-warn-above"] == "240.0"


def test_stop_without_anything_to_lose_does_not_ask(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="running", step=600))
    stop = show_run(engine, layout.run_id).button("Stop")
    assert "data-confirm" not in stop.attributes
    assert stop.payload == {"run": layout.run_id}


def test_a_stop_in_progress_is_shown_and_can_be_forced(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="running", step=600))
    request_stop(layout)
    part = show_run(engine, layout.run_id)
    assert _buttons(part) == {"Stopping…": False, "Stop now": True} | EXPORTS
    assert "data-confirm" in part.button("Stop now").attributes


def test_a_resume_that_is_refused_gives_the_engines_sentence(
    engine: Engine, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int | None, str]] = []

    def refuse(layout: RunLayout, *, from_: int | None, token: str, trust: bool) -> Launched:
        asked.append((layout.run_id, from_, token))
        raise RunBusy("Run 'x' is already training (pid 41). Stop it first.")

    monkeypatch.setattr(actions, "resume_run", refuse)
    layout = make_run(runs, SampleRun("x", status="crashed", step=600))
    sentence = problem(ask(engine, "resume", **show_run(engine, layout.run_id).button("Resume").payload))
    assert asked == [(layout.run_id, None, f"{layout.run_id}-after-1")]
    assert sentence == "Run 'x' is already training (pid 41). Stop it first."
    part = show_run(engine, layout.run_id)
    assert sentence in [one.text for one in part.find_all(role="alert")], "every tab of this run says so"
    assert part.button("Resume").enabled


def test_a_resume_that_must_wait_shows_that_it_is_under_way(
    engine: Engine, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def wait(layout: RunLayout, **_: Any) -> Launched:
        assert release.wait(30)
        return Launched(layout, 2, True)

    monkeypatch.setattr(actions, "resume_run", wait)
    layout = make_run(runs, SampleRun("x", status="crashed", step=600))
    assert ask_in_passing(engine, "resume", key="press", run=layout.run_id).status == 202
    assert _buttons(show_run(engine, layout.run_id)) == {"Resuming…": False} | EXPORTS
    release.set()
    assert ask(engine, "resume", key="press", run=layout.run_id).status == 200
    assert _buttons(show_run(engine, layout.run_id)) == {"Resume": True} | EXPORTS


def test_a_guess_of_what_the_best_is_is_a_notice_with_the_option_that_settles_it(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="running", step=600))
    record = read_run_record(layout)
    assert "does not say whether higher" not in show_run(engine, layout.run_id).text
    write_record(layout.record, msgspec.structs.replace(record, direction_guessed=True))
    engine.memo.forget()
    text = show_run(engine, layout.run_id).text
    assert "The name of the metric accuracy does not say whether higher or lower is better." in text
    assert "add higher_is_better=True or False to the task's class" in text


def test_a_damaged_checkpoint_is_reported_and_hides_no_other(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="stopped", step=600))
    newest = CheckpointStore(layout.checkpoints).list().checkpoints[-1]
    newest.path.write_bytes(newest.path.read_bytes()[:-40])
    part = show_run(engine, layout.run_id)
    assert newest.path.name in part.text
    menus = [str(one.attributes["aria-label"]) for one in part.find_all("button", aria_haspopup="menu")]
    assert len([label for label in menus if label.startswith("Actions for step")]) == 2


def test_an_export_ends_in_a_link_called_download(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x"))
    button = show_run(engine, layout.run_id).button("Export best weights")
    answer = ask(engine, str(button.attributes["data-act"]), **button.payload)
    (exported,) = layout.exports.glob("*.safetensors")
    assert exported.name == answer.body["file"] == "best_model.safetensors", "the path that `relight export` uses, too"
    (link,) = [one for one in show_run(engine, layout.run_id).find_all("a") if one.text == "Download"]
    assert link.attributes["href"] == f"/files/{layout.run_id}/exports/{exported.name}"
    assert link.attributes["download"] == exported.name


def test_an_unknown_run_leads_back_to_the_list(engine: Engine, runs: Path) -> None:
    make_run(runs, SampleRun("digits"))
    for query in ({"id": "digit-nowhere"}, {}):
        part = show(engine, *(name for name in PARTS if name.startswith("run-")), **query)
        assert _titles(part) == ["Run not found"]
        assert part.links() == ["/"]
        assert part.buttons() == {}


def test_a_copied_run_opens_under_the_name_of_its_folder(engine: Engine, runs: Path) -> None:
    original = make_run(runs, SampleRun("x", status="crashed", step=600))
    shutil.move(original.folder, runs / "copied-elsewhere")
    part = show_run(engine, "copied-elsewhere", tab="config")
    assert _titles(part) == ["x"]
    assert _buttons(part) == {"Resume": True} | EXPORTS
    assert part.button("Resume").payload["run"] == "copied-elsewhere"
    assert any("from=copied-elsewhere" in link for link in part.links())


@pytest.mark.parametrize("content", ["", "{", "\x80\x91"])
def test_a_run_with_a_damaged_record_is_shown_as_damaged_not_as_missing(
    engine: Engine, runs: Path, content: str
) -> None:
    layout = make_run(runs, SampleRun("x"))
    layout.record.write_text(content)
    part = show_run(engine, layout.run_id)
    assert _titles(part) == ["Damaged run"]
    assert "run.json" in part.text


def test_an_address_cannot_leave_the_runs_folder(engine: Engine, runs: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "elsewhere", SampleRun("secret"))
    for asked in (f"../elsewhere/{other.run_id}", str(other.folder), "..", "."):
        part = show_run(engine, asked)
        assert _titles(part) == ["Run not found"]
        assert part.buttons() == {}


def test_a_hostile_name_stays_text(engine: Engine, runs: Path) -> None:
    name = "<script>alert(1)</script>"
    layout = make_run(runs, SampleRun(name, status="crashed", step=600, error='"><img src=x>', reason='"><img src=x>'))
    for tab in ("log", "config", "attempts"):
        part = show_run(engine, layout.run_id, tab=tab)
        assert (part.find_all("script"), part.find_all("img"), part.find_all("b")) == ([], [], [])
        assert _titles(part) == [name]


PROOF: dict[str, Any] = {
    "config": {"workers": 0}, "time_s": 1_790_000_000.0, "bit_exact": True, "steps": 40, "killed_at_step": 12,
    "fingerprint": {"torch": "2.13.0", "device": "cpu", "threads": 2}, "resumed_from_step": 11, "mid_epoch": True,
    "checkpoints_compared": 4, "tensors_compared": 17, "metric_steps_compared": 40, "state_digest": "d" * 32,
    "first_difference": None, "duration_s": 9.0, "task": TaskReference(kind="builtin", name="digits"),
}  # fmt: skip


def test_a_proven_resume_is_a_badge_that_turns_gray_when_something_changed(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x"))
    environment = layout.attempt(1).environment
    environment.write_text('{"torch": "2.13.0", "device": "cpu", "threads": 2}')
    assert "resume proven" not in show_run(engine, layout.run_id).text
    write_proof(runs, DrillProof(**PROOF))
    engine.memo.forget()  # an action does this at its end
    part = show_run(engine, layout.run_id)
    assert "resume proven" in part.text
    assert any("torch 2.13.0, cpu, 2 threads" in str(one.attributes.get("title")) for one in part.find_all("span"))
    assert "Bit-exact: after kill -9, the run resumed as if nothing had happened" in part.text
    changed = make_run(runs, SampleRun("y"))
    changed.attempt(1).environment.write_text('{"torch": "2.14.0", "device": "cpu", "threads": 2}')
    part = show_run(engine, changed.run_id)
    assert "resume proven before a change" in part.text
    assert "Out of date: torch was 2.13.0 and is 2.14.0" in part.text


def test_a_real_resume_that_contradicts_the_drill_is_shown_with_it(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x"))
    write_proof(runs, DrillProof(**PROOF))
    number = layout.latest_attempt()
    check = ResumeCheck(attempt=number, time_s=1.0, verdict="different", against=1, equal_steps=3, sentence="")
    write_record(layout.attempt(number).resume_check, check)
    assert f"but the resume of attempt {number} was not" in show_run(engine, layout.run_id).text


def test_a_resume_that_was_not_exact_is_shown_with_cause_and_cure(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x"))
    first = FirstDifference(
        part="tensor", name="model.w", step=16, detail="1.0 after the resume, 2.0 without it",
        cause="Likely the clock.", cure="Count steps instead.", others=3,
    )  # fmt: skip
    write_proof(runs, DrillProof(**PROOF | {"bit_exact": False, "first_difference": first}))
    shown = show_run(engine, layout.run_id).text
    assert "resume not exact" in shown
    assert "First difference: tensor model.w, at step 16" in shown
    assert "Cause: Likely the clock." in shown and "Cure: Count steps instead." in shown


def test_a_drill_runs_in_the_background_and_shows_its_progress(
    engine: Engine, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def hold(folder: Path, task: PreparedTask, *, tell: Callable[[str], None], **_: Any) -> None:
        tell("Killed -9 at step 12.")
        assert release.wait(30)
        raise DrillFailed("digits crashed at step 3, so there is nothing to compare.")

    monkeypatch.setattr(actions, "run_drill", hold)
    layout = make_run(runs, SampleRun("x", status="crashed", step=600))
    button = show_run(engine, layout.run_id).button("Prove resume")
    assert ask_in_passing(engine, "drill", key="press", **button.payload).status == 202
    wait_until(lambda: "Killed -9 at step 12." in show_run(engine, layout.run_id).text, what="the drill's progress")
    assert not show_run(engine, layout.run_id).button("Prove resume").enabled
    release.set()
    assert "there is nothing to compare" in problem(ask(engine, "drill", key="press", **button.payload))
    part = show_run(engine, layout.run_id)
    assert "there is nothing to compare" in part.text
    assert part.button("Prove resume").enabled


def test_a_verification_shows_what_is_damaged(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x"))
    assert ask(engine, "verify", run=layout.run_id).body["check"]["damaged"] == []
    assert "every digest matches" in show_run(engine, layout.run_id).text
    pack = max((layout.checkpoints / "packs").iterdir())
    pack.write_bytes(pack.read_bytes()[:-1] + b"x")
    assert len(ask(engine, "verify", run=layout.run_id).body["check"]["damaged"]) == 1
    (alert,) = show(engine, "run-checkpoints", id=layout.run_id).find_all(role="alert")
    assert "1 file damaged." in alert.text
    assert pack.name in alert.text


DAMAGED: dict[str, Callable[[RunLayout], Path]] = {
    "start": lambda layout: layout.attempt(2).start,
    "processes": lambda layout: layout.attempt(2).processes,
    "progress": lambda layout: layout.attempt(2).progress,
    "saving": lambda layout: layout.attempt(2).saving,
    "outcome": lambda layout: layout.attempt(2).outcome,
    "exit": lambda layout: layout.attempt(2).exit,
    "environment": lambda layout: layout.attempt(2).environment,
    "log": lambda layout: layout.attempt(2).log,
    "metrics": lambda layout: next(layout.metrics.glob("0002-train*")),
    "system metrics": lambda layout: next(layout.metrics.glob("0002-system*")),
    "manifest": lambda layout: max((layout.checkpoints / "manifests").iterdir()),
    "pack": lambda layout: max((layout.checkpoints / "packs").iterdir()),
    "store": lambda layout: layout.checkpoints / "format.json",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_no_damaged_file_hides_the_page_or_its_buttons(engine: Engine, runs: Path, name: str) -> None:
    layout = make_run(runs, SampleRun(name, status="crashed", step=431, attempts=2, signal="SIGKILL"))
    DAMAGED[name](layout).write_bytes(os.urandom(333))
    for tab in ("log", "config", "attempts"):
        part = show_run(engine, layout.run_id, tab=tab)
        assert _titles(part) == [name]
        assert "Checkpoints" in [heading.text for heading in part.find_all("h2")]
        assert part.button("Resume").enabled


def test_a_branch_shows_its_changes_and_its_parent_links_to_it(engine: Engine, runs: Path) -> None:
    parent = make_run(runs, SampleRun("p"))
    changes = {"lr": (0.002, 0.0005), "epochs": (12, 20)}
    child = make_run(runs, SampleRun("c", parent=Parent(run=parent.run_id, step=800, sequence=2, changes=changes)))
    shown = show_run(engine, child.run_id).text
    assert f"branched from {parent.run_id} at step 800" in shown
    assert "lr 0.002 → 0.0005" in shown and "epochs 12 → 20" in shown
    part = show_run(engine, parent.run_id)
    assert f"Branches of this run: {child.run_id}, from step 800" in part.text
    assert f"/run?id={child.run_id}" in part.links()


def test_each_attempts_log_can_be_picked(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x", status="crashed", step=600, attempts=2))
    layout.attempt(1).log.write_text("words of the first attempt")
    part = show(engine, "run-details", id=layout.run_id)
    assert "words of the first attempt" not in part.text
    (picker,) = part.find_all("select", data_query="attempt")
    assert [option.attributes["value"] for option in picker.find_all("option")] == ["", "1"]
    assert "words of the first attempt" in show(engine, "run-details", id=layout.run_id, attempt="1").text
    for unknown in ("7", "-1", "x", "9" * 5_000, "²"):
        part = show(engine, "run-details", id=layout.run_id, attempt=unknown)
        assert "End of the log of attempt 2." in part.text


def test_the_tabs_come_from_the_address(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("x"))
    for asked, chosen in (("config", "Config"), ("Attempts", "Attempts"), ("log", "Log"), ("<b>", "Log"), ("", "Log")):
        part = show(engine, "run-details", id=layout.run_id, tab=asked)
        assert [tab.text for tab in part.find_all("button", aria_selected="true")] == [chosen]


def test_no_file_of_the_run_takes_its_page_away(engine: Engine, runs: Path) -> None:
    layout = make_run(runs, SampleRun("digits", status="interrupted", attempts=2))
    log, manifests = layout.attempt(2).log, layout.checkpoints / "manifests"
    for path, put, sentence in (
        (log, os.mkfifo, "cannot be read: Is a named pipe"),
        (manifests, Path.touch, "It cannot be read: Not a directory"),
        (layout.attempt(20_000_000).folder, Path.mkdir, "digits"),
        (layout.record, os.mkfifo, "Is a named pipe"),
    ):
        if path.exists():
            path.rename(runs / f".aside-{path.name}")
        put(path)
        engine.memo.forget()
        assert sentence in show_run(engine, layout.run_id).text, sentence


def test_the_ranks_are_in_the_header_and_each_has_its_log(engine: Engine, runs: Path) -> None:
    one = make_run(runs, SampleRun("one", status="crashed", step=600))
    assert not show(engine, "run-details", id=one.run_id).find_all("select", data_query="rank")
    layout = make_run(runs, SampleRun("x", status="crashed", step=600))
    start = read_record(layout.attempt(1).start, AttemptStart)
    write_record(layout.attempt(1).start, msgspec.structs.replace(start, nproc=2))
    rank_1 = record_rank(layout, rank=1, attempt=1)
    rank_1.log.write_text("words of rank 1")
    rank_1.environment.write_text('{"device": "cuda:1"}')
    assert "2 ranks" in show_run(engine, layout.run_id).text
    part = show(engine, "run-details", id=layout.run_id)
    assert "words of rank 1" not in part.text
    (picker,) = part.find_all("select", data_query="rank")
    assert "Rank 1 on GPU 1" in picker.text
    assert [option.attributes["value"] for option in picker.find_all("option")] == ["", "1"]
    part = show(engine, "run-details", id=layout.run_id, rank="1")
    assert "words of rank 1" in part.text
    assert any(link.endswith("attempt=1&rank=1") for link in part.links())
    for unknown in ("2", "-1", "x", "9" * 5_000, "²"):
        assert "words of rank 1" not in show(engine, "run-details", id=layout.run_id, rank=unknown).text
