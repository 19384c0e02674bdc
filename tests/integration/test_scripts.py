"""Training scripts: started by Relight, with plain `python`, with another interpreter, and as branches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import soak
from integration.conftest import Workshop
from relight.checkpoints.store import CheckpointStore
from relight.metrics.series import read_series
from relight.overview.summary import summarize_run
from relight.runs.catalog import find_run, list_layouts
from relight.runs.layout import RunLayout
from relight.runs.record_file import read_record
from relight.runs.records import AttemptProcesses, AttemptStart
from relight.runs.status import RunStatus
from relight.supervision.resume import resume_run

pytestmark = pytest.mark.processes

SCRIPT = """
import argparse
import os
import sys
import time

import torch
from torch import nn
from torch.utils.data import TensorDataset

import app, core
import relight

assert (app.NAME, core.NAME) == ("app", "core")
assert os.path.dirname(os.path.abspath(__file__)) == os.path.abspath(sys.path[0]), sys.path
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--hidden", type=int, default=4)
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--nap", type=float, default=0.4)
args = parser.parse_args()
run = relight.init(config=vars(args), seed=1, checkpoint_every_s=0, checkpoint_every_steps=3)
points = torch.randn(48, 3)
loader = run.loader(TensorDataset(points, points.sum(1, keepdim=True)), batch_size=8, shuffle=True)
model = nn.Sequential(nn.Linear(3, args.hidden), nn.Dropout(0.1), nn.Linear(args.hidden, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
run.track(net=model, optimizer=optimizer, scheduler=scheduler)
print("in", os.getcwd(), "with", args.lr)
for epoch in run.epochs(args.epochs):
    for x, y in loader:
        loss = (model(x) - y).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not os.path.exists("fast"):
            time.sleep(args.nap)
        run.step(loss=loss, rate=optimizer.param_groups[0]["lr"])
    run.evaluated(error=loss.item())
    scheduler.step()
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A user's folder: a script, and packages with the same names as ours."""
    folder = tmp_path / "a project"
    for package in ("core", "app"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").write_text(f"NAME = {package!r}\n")
    (folder / "train.py").write_text(SCRIPT)
    # Files in the script's folder that shadow our modules reach neither supervisor nor writer.
    (folder / "typer.py").write_text("raise SystemExit('the wrong module')\n")
    yield folder


def _digest(layout: RunLayout) -> str:
    soak.wait_for(lambda: not soak.is_locked(layout), why="the writer to be done")
    store = CheckpointStore(layout.checkpoints)
    return store.digest(store.find("latest"))


def _start_alone(workshop: Workshop, project: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], RunLayout]:
    before = {layout.run_id for layout in list_layouts(workshop.folder)}
    process = subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=project,
        env={**os.environ, "RELIGHT_RUNS": str(workshop.folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def look() -> RunLayout | None:
        assert process.poll() is None, "the script has ended"
        return next((each for each in list_layouts(workshop.folder) if each.run_id not in before), None)

    return process, soak.wait_for(look, why="a run")


def test_a_script_survives_kills_and_resumes_like_a_task(
    workshop: Workshop, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = workshop.relight(
        "run", "train.py", "--name", "mine", "--detach", "--set", "epochs=5", "--", "--lr", "0.2", cwd=project
    )
    assert launched.returncode == 0, launched.stderr
    layout = find_run(workshop.folder, "mine")
    workshop.wait_for_step(layout, 7)
    shown = json.loads(workshop.relight("show", "mine", "--json").stdout)
    assert (shown["status"], shown["task"], shown["steps_total"]) == ("running", "train.py", 30)
    assert shown["config"] == {"lr": 0.2, "hidden": 4, "epochs": 5, "nap": 0.4}
    assert workshop.relight("stop", "mine").returncode == 0
    assert summarize_run(layout).status is RunStatus.STOPPED
    resume_run(layout)
    summary = workshop.wait_for_step(layout, 15)
    assert summary.pids.trainer is not None
    os.kill(summary.pids.trainer, signal.SIGKILL)
    assert workshop.wait_for_end(layout).signal == "SIGKILL"
    (project / "fast").touch()
    resume_run(layout)
    summary = workshop.finish(layout)
    assert summary.best is not None
    assert (summary.step, summary.best.metric) == (30, "validation/error")
    assert read_series(layout.metrics, "train/loss").steps.tolist() == list(range(1, 31))
    assert f"in {project} with 0.2" in workshop.relight("logs", "mine").stdout
    # Started with plain python, copied elsewhere, and killed too, the same script computes the same.
    (project / "fast").unlink()
    (tmp_path / "copies").mkdir()
    monkeypatch.setenv("RELIGHT_MIRROR", str(tmp_path / "copies"))
    process, alone = _start_alone(workshop, project, "--lr", "0.2", "--epochs", "5")
    try:
        workshop.wait_for_step(alone, 8)
        running = summarize_run(alone)
        assert (running.status, running.pids.trainer) == (RunStatus.RUNNING, process.pid)
        assert running.pids.supervisor is not None
    finally:
        process.kill()
        process.wait()
    dead = soak.wait_for(
        lambda: found if not (found := summarize_run(alone)).status.is_live else None, timeout_s=2.0, why="its end"
    )
    assert dead.status is RunStatus.CRASHED
    assert "without reporting why" in workshop.wait_for_end(alone).reason
    (project / "fast").touch()
    resume_run(alone)
    workshop.finish(alone)
    assert _digest(alone) == _digest(layout)
    copied = tmp_path / "copies" / alone.run_id / "checkpoints" / "manifests"
    manifest = CheckpointStore(alone.checkpoints).find("latest").name.manifest
    soak.wait_for((copied / manifest).exists, why="its copy")


def test_a_killed_script_goes_on_where_you_start_it_with_relight_resume(workshop: Workshop, project: Path) -> None:
    process, layout = _start_alone(workshop, project, "--epochs", "2")
    workshop.wait_for_step(layout, 4)
    process.kill()
    process.wait()
    (project / "fast").touch()
    done = subprocess.run(
        [sys.executable, "train.py", "--epochs", "2"],
        cwd=project,
        env={**os.environ, "RELIGHT_RUNS": str(workshop.folder), "RELIGHT_RESUME": layout.run_id},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = workshop.finish(layout)
    assert (summary.attempt, summary.step) == (2, 12)
    start = read_record(layout.attempt(2).start, AttemptStart)
    assert (start.reason, start.from_step >= 3) == ("resume", True)
    assert [each.run_id for each in list_layouts(workshop.folder)] == [layout.run_id]


def test_ctrl_c_saves_and_a_killed_supervisor_ends_the_script(workshop: Workshop, project: Path) -> None:
    process, layout = _start_alone(workshop, project, "--nap", "0.2")
    try:
        workshop.wait_for_step(layout, 2)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 130
        record = workshop.wait_for_end(layout)
        assert record.outcome == "stopped"
        assert CheckpointStore(layout.checkpoints).find("latest").step == record.step
        assert "Press Ctrl-C again to end it at once" in layout.attempt(1).log.read_text()
        process, layout = _start_alone(workshop, project, "--nap", "0.2")
        workshop.wait_for_step(layout, 2)
        os.kill(read_record(layout.attempt(1).processes, AttemptProcesses).supervisor.pid, signal.SIGKILL)
        assert process.wait(30) == 130
        assert summarize_run(layout).status is RunStatus.INTERRUPTED
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.thorough
def test_a_branch_of_a_script_has_other_arguments_and_records_the_difference(workshop: Workshop, project: Path) -> None:
    arguments = ("--", "--nap", "0", "--epochs", "4")
    launched = workshop.relight("run", "train.py", "--name", "parent", *arguments, cwd=project)
    assert launched.returncode == 0, launched.stdout + launched.stderr
    wrong = workshop.relight("branch", "parent", "--from", "12", "--set", "lrr=1")
    assert (wrong.returncode, wrong.stderr) == (2, "relight: The script's config has no 'lrr': did you mean 'lr'?\n")
    branched = workshop.relight(
        "branch", "parent", "--from", "latest", "--name", "child", "--set", "lr=0.01", "--set", "epochs=6"
    )
    assert branched.returncode == 0, branched.stdout + branched.stderr
    child = json.loads(workshop.relight("show", "child", "--json").stdout)
    assert child["parent"]["changes"] == {"lr": [0.1, 0.01], "epochs": [4, 6]}
    rates = read_series(Path(child["path"]) / "metrics", "train/rate")
    # The schedule continues: a tenth of the parent's rates in the fifth and sixth epoch.
    assert rates.steps[0] == 25
    assert rates.values.tolist() == pytest.approx([0.01 / 2**4] * 6 + [0.01 / 2**5] * 6)
    tuned = workshop.relight("branch", "parent", "--from", "best", "--weights-only", "--name", "tuned", *arguments[:3])
    assert tuned.returncode == 0, tuned.stdout + tuned.stderr
    summary = summarize_run(find_run(workshop.folder, "tuned"))
    assert summary.parent is not None
    assert (summary.step, summary.parent.weights_only) == (36, True)
    assert summary.parent.changes["epochs"] == (4, 6)


@pytest.mark.thorough
def test_a_module_that_changes_its_folder_is_resumed_where_it_was_launched(
    workshop: Workshop, project: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (project / "train").mkdir()
    (project / "train" / "__init__.py").touch()
    changed = SCRIPT.replace("points =", f"os.chdir({str(tmp_path / 'elsewhere')!r})\npoints =")
    (project / "train" / "main.py").write_text(changed.replace("assert os.path", "assert True or os.path"))
    launched = workshop.relight("run", "-m", "train.main", "--name", "module", "--detach", cwd=project)
    assert launched.returncode == 0, launched.stderr
    layout = find_run(workshop.folder, "module")
    summary = workshop.wait_for_step(layout, 5)
    assert summary.pids.trainer is not None
    os.kill(summary.pids.trainer, signal.SIGKILL)
    workshop.wait_for_end(layout)
    (tmp_path / "elsewhere" / "fast").touch()
    resume_run(layout)
    assert workshop.finish(layout).step == 36
    check = summarize_run(layout).resume_check
    assert check is not None and check.verdict == "exact"


def test_another_interpreter_is_checked_before_a_run_exists(workshop: Workshop, project: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    venv.create(bare, with_pip=False)
    refused = workshop.relight("run", "train.py", "--python", str(bare / "bin" / "python"), cwd=project)
    assert refused.returncode == 1
    assert "has no relight and torch. Install with:" in refused.stderr
    assert list_layouts(workshop.folder) == []
    unknown = workshop.relight("run", "train.py", "--python", "no-such-python", cwd=project)
    assert (unknown.returncode, len(unknown.stderr.splitlines())) == (2, 1)
    other = tmp_path / "its python"
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    done = workshop.relight(
        "run", "train.py", "--name", "other", "--python", str(other), "--", "--nap", "0", "--epochs", "1", cwd=project
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.thorough
def test_the_drill_proves_a_script(workshop: Workshop, project: Path) -> None:
    (project / "fast").touch()
    drill = workshop.relight("drill", "train.py", "--steps", "20", "--", "--lr", "0.3", cwd=project)
    assert drill.returncode == 0, drill.stdout + drill.stderr
    assert "bit-exact: train.py came back from kill -9 as if nothing had happened." in drill.stdout


def test_a_script_that_never_calls_init_gets_the_reason(workshop: Workshop, tmp_path: Path) -> None:
    script = tmp_path / "idle.py"
    script.write_text("import relight\nprint('nothing to do')\nif not __name__:\n    relight.init()\n")
    answer = workshop.relight("run", str(script))
    assert answer.returncode == 3
    (layout,) = list_layouts(workshop.folder)
    assert "ended with exit code 0 before it called relight.init()" in summarize_run(layout).reason
