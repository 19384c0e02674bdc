"""An action is done once for each idempotency key, and its answer is remembered, also by the next server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from relight.errors import RelightError, RunBusy, UntrustedRun, UsageError
from relight.supervision.attempt_start import Launched
from relight_app import actions, answers
from relight_app.answers import Answers, restore_jobs
from relight_app.engine import Engine
from tests.app.asking import ask, ask_in_passing, problem, wait_until
from tests.app.parts.shown import show_run
from tests.app.sample_runs import SampleRun, make_run


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path / "runs")


class Stops:
    """Counts the stops instead of stopping anything; a stop takes until `release`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.release = threading.Event()
        self.release.set()
        self.error: BaseException | None = None

    def stop(self, layout: Any, *, now: bool) -> None:
        self.asked.append(layout.run_id)
        assert self.release.wait(30)
        if self.error is not None:
            raise self.error


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stops]:
    recorder = Stops()
    monkeypatch.setattr(actions, "stop_run", recorder.stop)
    yield recorder
    recorder.release.set()


@pytest.fixture
def run(engine: Engine) -> str:
    return make_run(engine.folder, SampleRun("x", status="running", step=5, checkpoints=0)).run_id


def test_the_same_key_is_done_once_and_answered_the_same(engine: Engine, run: str, stops: Stops) -> None:
    first = ask(engine, "stop", key="press", run=run)
    assert (first.status, first.body) == (200, {"run": run})
    assert ask(engine, "stop", key="press", run=run) == first
    assert stops.asked == [run]
    ask(engine, "stop", key="another press", run=run)
    assert stops.asked == [run, run]


def test_the_same_request_in_other_words_is_the_same_request(engine: Engine, run: str, stops: Stops) -> None:
    known = Answers(engine)
    first = known.answer("stop", f'{{"run": "{run}"}}'.encode(), key="press", patience_s=30)
    again = known.answer("stop", f'{{ "now": "false", "run": "{run}" }}'.encode(), key="press", patience_s=30)
    assert first == again
    assert stops.asked == [run]


def test_a_key_that_was_used_for_another_request_is_refused(engine: Engine, run: str, stops: Stops) -> None:
    ask(engine, "stop", key="press", run=run)
    for action, payload in (("stop", {"run": run, "now": True}), ("verify", {"run": run})):
        answer = ask(engine, action, key="press", **payload)
        assert answer.status == 409
        assert "used for another request" in problem(answer)
    assert stops.asked == [run]


def test_another_server_gives_the_same_answer_without_doing_it_again(engine: Engine, run: str, stops: Stops) -> None:
    stops.error = RunBusy("Run 'x' is already training.")
    first = ask(engine, "stop", key="press", run=run)
    assert ask(Engine(engine.folder), "stop", key="press", run=run) == first
    assert stops.asked == [run]
    assert problem(first) == "Run 'x' is already training."


def test_the_next_server_shows_what_the_one_before_has_found(engine: Engine) -> None:
    run = make_run(engine.folder, SampleRun("whole")).run_id
    ask(engine, "verify", run=run)
    ask(engine, "describe", file="nowhere.py:Task")  # a failure is told at once, and by nobody later
    later = Engine(engine.folder)
    assert "every digest matches" not in show_run(later, run).text
    restore_jobs(later)
    assert "every digest matches" in show_run(later, run).text
    assert later.jobs.find(("describe", "nowhere.py:Task")) is None


def test_what_takes_long_is_pending_and_the_same_request_waits_on(engine: Engine, run: str, stops: Stops) -> None:
    stops.release.clear()
    for _ in range(2):
        pending = ask_in_passing(engine, "stop", key="press", run=run)
        assert (pending.status, pending.body) == (202, {"pending": True, "told": []})
    stops.release.set()
    assert ask(engine, "stop", key="press", run=run).body == {"run": run}
    assert stops.asked == [run]


def test_work_that_ended_while_nobody_waited_is_not_done_again(engine: Engine, run: str, stops: Stops) -> None:
    stops.release.clear()
    assert ask_in_passing(engine, "stop", key="press", run=run).status == 202
    stops.release.set()
    wait_until(lambda: any(engine.folder.glob(".actions/*.json")), what="the answer was kept")
    for server in (engine, Engine(engine.folder)):
        assert ask(server, "stop", key="press", run=run).body == {"run": run}
    assert stops.asked == [run]


def test_two_requests_at_once_with_one_key_are_done_once(engine: Engine, run: str, stops: Stops) -> None:
    stops.release.clear()
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(ask, engine, "stop", key="press", run=run) for _ in range(4)]
        wait_until(lambda: bool(stops.asked), what="the stop began")
        stops.release.set()
        found = [one.result() for one in asked]
    assert [(one.status, one.body) for one in found] == [(200, {"run": run})] * 4
    assert stops.asked == [run]


def test_two_keys_join_the_running_work_on_one_subject(
    engine: Engine, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, begun = threading.Event(), []

    def resume(layout: Any, *, token: str, **_: Any) -> Launched:
        begun.append(token)
        assert release.wait(30)
        return Launched(layout, 2, True)

    monkeypatch.setattr(actions, "resume_run", resume)
    for tab in ("one tab", "another tab"):
        assert ask_in_passing(engine, "resume", key=tab, run=run, attempt=1).status == 202
    release.set()
    for tab in ("one tab", "another tab"):
        assert ask(engine, "resume", key=tab, run=run, attempt=1).body == {"run": run}
    assert begun == [f"{run}-after-1"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"run": "x", "when": "now"}', "unknown field `when`"),
        (b'{"now": true}', "missing required field `run`"),
        (b'{"run": 7}', "Expected `str`, got `int`"),
        (b'{"run": "x", "now": "perhaps"}', "Expected `bool`"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{", "truncated"),
        (b"\xff", "valid"),
        (b"[" * 5_000, "valid"),
        (b"", "missing required field `run`"),
    ],
)
def test_a_request_that_is_not_valid_is_a_sentence_and_does_nothing(
    engine: Engine, stops: Stops, body: bytes, said: str
) -> None:
    answer = Answers(engine).answer("stop", body, key="press", patience_s=30)
    assert answer.status == 400
    assert said in problem(answer)
    assert problem(answer).startswith("The request for 'stop' is not valid: ")
    assert stops.asked == []
    assert not engine.folder.exists(), "nothing is written for it"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("No such step."), 400),
        (RelightError("The run is busy."), 409),
        (OSError(28, "No space left on device", "/runs/x"), 409),
    ],
)
def test_a_refusal_is_the_engines_sentence(
    engine: Engine, run: str, stops: Stops, error: Exception, status: int
) -> None:
    stops.error = error
    answer = ask(engine, "stop", run=run)
    assert answer.status == status
    assert (str(error.args[-1] if len(error.args) == 1 else error.args[1])) in problem(answer)
    assert answer.body["traceback"] is None


def test_a_bug_in_relight_is_reported_with_its_traceback(engine: Engine, run: str, stops: Stops) -> None:
    stops.error = ValueError("odd")
    answer = ask(engine, "stop", run=run)
    assert answer.status == 500
    assert "Relight has a bug: ValueError: odd" in problem(answer)
    assert "raise self.error" in answer.body["traceback"]


def test_untrusted_code_asks_for_trust(engine: Engine, run: str, stops: Stops) -> None:
    stops.error = UntrustedRun("To train it means to run: the code in /x.py.")
    answer = ask(engine, "stop", run=run)
    assert answer.status == 409
    assert answer.body["ask"] == "trust"
    assert "the code in /x.py" in problem(answer)


def test_an_answer_that_cannot_be_written_arrives_all_the_same(engine: Engine, run: str, stops: Stops) -> None:
    (engine.folder / ".actions").write_text("no folder")
    assert ask(engine, "stop", key="press", run=run).body == {"run": run}


def test_a_damaged_answer_is_no_answer(engine: Engine, run: str, stops: Stops) -> None:
    ask(engine, "stop", key="press", run=run)
    (kept,) = (engine.folder / ".actions").iterdir()
    kept.write_text("{")
    assert ask(Engine(engine.folder), "stop", key="press", run=run).body == {"run": run}
    assert stops.asked == [run, run]


def test_an_unusual_key_is_no_path(engine: Engine, run: str, stops: Stops) -> None:
    for key in ("../../escape", "/etc/passwd", "a/b", "", "ä" * 200):
        assert ask(engine, "stop", key=key, run=run).status == 200
    kept = list((engine.folder / ".actions").iterdir())
    assert len(kept) == 5
    assert {path.parent for path in engine.folder.parent.rglob("*.json") if path in kept} == {
        engine.folder / ".actions"
    }


def test_answers_are_forgotten_after_a_day(engine: Engine, run: str, stops: Stops) -> None:
    ask(engine, "stop", key="old", run=run)
    (old,) = (engine.folder / ".actions").iterdir()
    os.utime(old, (time.time() - 90_000, time.time() - 90_000))
    ask(Engine(engine.folder), "stop", key="new", run=run)  # a server sweeps at its first answer
    assert not old.exists()
    assert len(list((engine.folder / ".actions").iterdir())) == 1


def test_the_folder_of_the_answers_is_no_run(engine: Engine, run: str, stops: Stops) -> None:
    ask(engine, "stop", run=run)
    listing = engine.list_runs()
    assert [one.run for one in listing.runs] == [run]
    assert listing.damaged == []


def test_what_an_action_changed_shows_at_once(engine: Engine, run: str) -> None:
    layout = make_run(engine.folder, SampleRun("y"))
    before = engine.list_checkpoints(layout.run_id).checkpoints[0]
    ask(engine, "pin", run=layout.run_id, step=before.step)
    assert "pinned" in engine.list_checkpoints(layout.run_id).checkpoints[0].labels


def test_pending_work_says_how_far_it_is(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hold(*_: Any, tell: Callable[[str], None], **__: Any) -> None:
        tell("Killed -9 at step 12.")
        assert release.wait(30)
        raise RelightError("Nothing to compare.")

    monkeypatch.setattr(actions, "run_drill", hold)
    wait_until(
        lambda: "Killed -9 at step 12." in ask_in_passing(engine, "drill", key="press", task="digits").body["told"],
        what="the drill's progress",
    )
    release.set()
    assert problem(ask(engine, "drill", key="press", task="digits")) == "Nothing to compare."


def test_every_action_refuses_an_empty_or_unknown_run_with_a_sentence(engine: Engine, run: str) -> None:
    asked: dict[str, dict[str, Any]] = {
        "launch": {"task": ""}, "resume": {"run": ""}, "stop": {"run": "../x"}, "branch": {"run": "nothing", "step": 1},
        "export": {"run": ""}, "pin": {"run": "nothing", "step": 1}, "verify": {"run": "."}, "drill": {},
        "describe": {"file": ""},
    }  # fmt: skip
    assert set(asked) <= set(actions.ACTIONS)
    for name, payload in asked.items():
        answer = ask(engine, name, **payload)
        assert answer.status in (400, 409), (name, answer)
        assert problem(answer).endswith((".", ")")), (name, problem(answer))
        assert answer.body["traceback"] is None, name
    assert answers._FOLDER.startswith("."), "hidden from the list of runs"
