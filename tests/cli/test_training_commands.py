"""`run`, `stop`, `resume` and `branch` with real trainings, and every error that prevents a start."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.patience import stretch

if TYPE_CHECKING:
    from tests.cli.conftest import Answer, Ask, RunMaker

pytestmark = pytest.mark.usefixtures("end_runs")

BROKEN = {
    "syntax.py": "def f(:\n",
    "raises.py": "import relight\n\ndef helper():\n    raise KeyError('lost')\n\nhelper()\n",
    "empty.py": "import math\n",
}


def _wait(ask: Ask, run: str, holds: Callable[[dict[str, Any]], bool], timeout_s: float = 120.0) -> dict[str, Any]:
    """Poll `show --json` until `holds` is true, and return the run."""
    deadline = time.monotonic() + timeout_s
    while True:
        shown: dict[str, Any] = ask("show", run, "--json").json
        if holds(shown):
            return shown
        assert time.monotonic() < deadline, shown
        time.sleep(0.05)


@pytest.mark.processes
def test_a_run_killed_with_9_is_resumed_and_finishes(relight: Ask, ask: Ask, runs: Path) -> None:
    launched = relight(
        "run",
        "digits",
        "--set",
        "epochs=2",
        "--set",
        "checkpoint_every_steps=5",
        "--name",
        "My trial!",
        "--detach",
        "--json",
    )
    assert (launched.exit_code, launched.stderr) == (0, "")
    run = launched.json["run"]
    assert (runs / run / "run.json").is_file()
    assert launched.json["status"] in ("queued", "running")
    shown = _wait(ask, run, lambda shown: (shown["durable_step"] or 0) >= 5 and shown["pids"]["trainer"])
    os.kill(shown["pids"]["trainer"], signal.SIGKILL)
    killed_s = time.monotonic()
    shown = _wait(ask, run, lambda shown: shown["status"] == "crashed")
    assert time.monotonic() - killed_s < stretch(2.0)
    assert "kill" in shown["reason"].lower()

    resumed = relight("resume", run)
    assert (resumed.exit_code, resumed.stderr) == (0, "")
    first, *rest = resumed.stdout.splitlines()
    assert first.startswith(f"{run} resumes from its checkpoint at step ")
    assert any(line.startswith("epoch 2/2  step 46/46  ") for line in rest)
    assert rest[-3] == f"{run} finished at step 46 of 46."
    assert rest[-1] == f"Best weights: relight export {run}"

    again = relight("resume", run)
    assert again.exit_code == 1
    assert "finished" in again.error


@pytest.mark.thorough
@pytest.mark.processes
def test_a_stopped_run_has_lost_nothing_and_a_branch_continues_with_another_config(relight: Ask, ask: Ask) -> None:
    run = relight("run", "digits", "--set", "epochs=500", "--detach", "--json").json["run"]
    _wait(ask, run, lambda shown: shown["step"] >= 3)
    stopped = relight("stop", run)
    assert (stopped.exit_code, stopped.stderr) == (0, "")
    shown = ask("show", run, "--json").json
    assert (shown["status"], shown["durable_step"], shown["work_at_risk_steps"]) == ("stopped", shown["step"], 0)
    assert stopped.stdout.splitlines()[-1] == f"Resume: relight resume {run}"

    again = relight("stop", run)
    assert again.exit_code == 1
    assert "nothing to stop" in again.error

    step = shown["step"]
    branched = relight(
        "branch", run, "--from", str(step), "--set", "lr=0.0001", "--set", f"max_steps={step + 2}", "--name", "child"
    )
    assert branched.exit_code == 0, branched
    child = ask("show", "child", "--json").json
    assert branched.stdout.startswith(f"{child['run']} starts from step {step} of {run} in ")
    assert (child["status"], child["step"]) == ("finished", step + 2)
    assert (child["parent"]["run"], child["parent"]["step"]) == (run, step)
    assert child["config"]["lr"] == 0.0001


def test_a_resume_says_what_it_skipped_why_and_what_that_costs(relight: Ask, make_run: RunMaker) -> None:
    layout = make_run(outcome="crashed", step=23, reason="Killed by SIGKILL.")
    layout.attempt(1).processes.unlink()  # otherwise this process would count as the trainer
    newest = max(layout.checkpoints.glob("packs/*"))
    newest.write_bytes(newest.read_bytes()[:-1])
    answer = relight("resume", layout.run_id, "--detach")
    assert answer.exit_code == 0, answer
    lines = answer.stdout.splitlines()
    assert lines[0] == f"{layout.run_id} resumes from its checkpoint at step 10 (attempt 2)."
    assert any(newest.name in line and "bytes instead of" in line for line in lines)
    assert any("costs 10 steps" in line for line in lines)
    assert "It had reached step 23, so 13 steps in all must be trained again." in lines


def test_a_run_that_is_being_trained_is_not_resumed(relight: Ask, make_run: RunMaker) -> None:
    from relight.runs.lock import RunLock

    layout = make_run(outcome=None)
    with RunLock.acquire(layout):
        answer = relight("resume", layout.run_id)
    assert answer.exit_code == 1
    assert f"pid {os.getpid()}" in answer.error


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("digitz",), 2, "Did you mean 'digits'?"),
        (("nowhere/task.py:Task",), 2, "no folder"),
        (("digits", "--set", "epocs=3"), 2, "did you mean 'epochs'?"),
        (("digits", "--set", "epochs=0"), 2, "at least 1"),
        (("digits", "--set", "epochs=many"), 2, "whole number"),
        (("digits", "--set", "epochs"), 2, "KEY=VALUE"),
        (("digits", "--", "--lr", "3"), 2, "--set KEY=VALUE"),
        (("digits", "--python", "/usr/bin/python3"), 2, "training scripts"),
        (("digits", "--restarts", "-1"), 2, "--restarts"),
        (("digits", "--nodes", "2"), 2, "add --on slurm"),
        (("digits", "--on", "moon"), 2, "Use --on slurm"),
        (("digits", "--on", "here", "--nodes", "2"), 2, "add --on slurm"),
        (("digits", "--on", "ray", "--nodes", "2"), 2, "a job for one machine"),
        (("digits", "--on", "ray", "--nproc", "auto"), 2, "Give the number of ranks"),
        (("digits", "--on", "ray", "--image", "x"), 2, "--image is for --on kubernetes"),
        (("digits", "--on", "kubernetes", "--json"), 2, "--json needs --to FILE"),
        (("digits", "--on", "kubernetes", "--set", "epochs=0"), 2, "at least 1"),
        (("digits", "--on", "kubernetes", "--to", "/nowhere/x.yaml"), 1, "cannot be written"),
        (("digits", "--to", "x.yaml"), 2, "--on ray or --on kubernetes"),
        (("digits", "--id", "x-a2b3", "--detach"), 2, "leave --detach"),
        (("digits", "--id", "a/b"), 2, "cannot be the id of a run"),
        (("digits", "--on", "slurm", "--nproc", "auto"), 2, "on each node"),
        (("digits", "--on", "slurm", "--sbatch", "--partition gpu"), 2, "--partition=gpu, not"),
        (("digits", "--on", "slurm", "--", "gpu"), 2, "--partition=gpu, not"),
        (("digits", "--set", "device=cuda:7"), 1, "device"),
        (("images",), 1, ""),
        ((), 2, "TASK"),
    ],
)
def test_what_cannot_be_trained_gets_one_line_and_leaves_no_run(
    relight: Ask, runs: Path, arguments: tuple[str, ...], exit_code: int, said: str
) -> None:
    answer = relight("run", *arguments)
    assert said in answer.error
    assert answer.exit_code in ({1, 2} if arguments == ("images",) else {exit_code})
    assert answer.stdout == ""
    assert not runs.exists() or not list(runs.iterdir())


@pytest.mark.parametrize("on", ["ray", "kubernetes"])
def test_a_job_file_has_the_command_and_no_run_is_made(relight: Ask, runs: Path, tmp_path: Path, on: str) -> None:
    file = tmp_path / "job"
    options = ("--set", "epochs=3", "--name", "Two words", "--nproc", "2", "--restarts", "1")
    answer = relight("run", "digits", "--on", on, *options, "--to", str(file))
    assert answer.exit_code == 0, answer
    wrote, start, _ = answer.stdout.splitlines()
    assert wrote == f"Wrote {file}."
    assert str(file) in start
    text = file.read_text()
    words = ["relight", "run", "digits", "--id", *options[:2], "--name", "Two words", "--restarts", "--nproc", "--runs"]
    places = [text.index(word, text.index("relight run" if on == "ray" else "command:")) for word in words]
    assert places == sorted(places)
    assert "two-words-" in text
    assert not runs.exists()
    printed = relight("run", "digits", "--on", on, "--id", "x-a2b3")
    assert "x-a2b3" in printed.stdout
    assert len(printed.stderr.splitlines()) == 2, "what to type next is not part of the file"


@pytest.mark.parametrize("name", list(BROKEN))
def test_a_broken_task_file_gets_one_line_and_its_own_traceback_whole(
    relight: Ask, runs: Path, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    file.write_text(BROKEN[name])
    answer = relight("run", f"{file}:Spiral")
    assert answer.exit_code == 1
    assert name in answer.error
    if name == "raises.py":
        assert "Traceback (most recent call last)" in answer.stdout
        assert "in helper" in answer.stdout
        assert "KeyError" in answer.error
    assert not runs.exists()


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("class Mine:\n    pass\n", 2, "train.py does not use relight"),
        ("import relight\nprint(relight.__version__)\n", 2, "train.py never calls relight.init()"),
        ("import relight\nrelight.init(\n", 1, "train.py has a syntax error in line 2"),
        ("import relight\nclass A(relight.Task):\n    pass\n", 2, "write train.py:A"),
    ],
)
def test_a_script_that_cannot_be_saved_is_refused_before_a_run_exists(
    relight: Ask, runs: Path, tmp_path: Path, source: str, code: int, said: str
) -> None:
    script = tmp_path / "train.py"
    script.write_text(source)
    answer = relight("run", str(script), "--", "--lr", "3")
    assert (answer.exit_code, len(answer.error.splitlines())) == (code, 1)
    assert said in answer.error
    assert not runs.exists()


def test_a_runs_folder_that_cannot_be_written_is_one_line(relight: Ask, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answer: Answer = relight("run", "digits", "--detach", "--runs", str(tmp_path / "file" / "runs"))
    assert answer.exit_code == 1
    assert "--runs" in answer.error


def test_a_branch_with_a_wrong_key_is_refused_before_anything_is_made(
    relight: Ask, runs: Path, make_run: RunMaker
) -> None:
    layout = make_run()
    answer = relight("branch", layout.run_id, "--from", "best", "--set", "lrr=1")
    assert answer.exit_code == 2
    assert "'lr'" in answer.error
    answer = relight("branch", layout.run_id, "--from", "11")
    assert answer.exit_code == 2
    assert "10, 20" in answer.error
    assert [path.name for path in runs.iterdir()] == [layout.run_id]


def test_all_interrupted_says_one_sentence_a_run_and_fails_if_one_stays_dead(
    ask: Ask, make_run: RunMaker, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from relight.supervision import interrupted_runs
    from relight.supervision.interrupted_runs import ResumeResult

    assert ask("resume", "--all-interrupted").stdout == "There are no interrupted runs to resume.\n"
    crashed = make_run("broken", outcome="crashed", error="ValueError: no")
    answer = ask("resume", "--all-interrupted")
    assert (answer.exit_code, f"not resumed: {crashed.run_id}." in answer.stdout) == (0, True)
    results = [
        ResumeResult(run="a-1", name="a", attempt=2, sentence="a-1 resumes from step 3 (attempt 2)."),
        ResumeResult(run="b-2", name="b", attempt=None, sentence="b-2 was not resumed: its script is missing."),
    ]
    asked: list[tuple[Path, bool]] = []

    def resume(folder: Path, *, crashed: bool) -> Iterator[ResumeResult]:
        asked.append((folder, crashed))
        return iter(results)

    monkeypatch.setattr(interrupted_runs, "resume_interrupted_runs", resume)
    answer = ask("resume", "--all-interrupted", "--crashed")
    assert (answer.exit_code, answer.stdout) == (1, f"{results[0].sentence}\n")
    assert answer.error == f"relight: {results[1].sentence}"
    results.pop()
    answer = ask("resume", "--all-interrupted", "--json")
    assert (answer.exit_code, answer.json[0]["attempt"]) == (0, 2)
    assert asked == [(runs, True), (runs, False)]


@pytest.mark.parametrize(
    "wrong", [(), ("--crashed",), ("x", "--all-interrupted"), ("--all-interrupted", "--from", "3")]
)
def test_a_resume_needs_one_run_or_all(ask: Ask, runs: Path, wrong: tuple[str, ...]) -> None:
    assert ask("resume", *wrong).exit_code == 2
