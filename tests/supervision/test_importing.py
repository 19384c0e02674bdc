"""An import makes a complete run or none, starts nothing, and loads no torch in the calling process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relight.errors import RelightError, TaskError
from relight.overview.summary import summarize_run
from relight.runs.catalog import list_layouts
from relight.runs.record_file import read_record
from relight.runs.records import ImportedFrom, Objective, PreparedTask, RunRecord, TaskReference
from relight.runs.status import RunStatus
from relight.supervision import importing
from relight.supervision.importing import ImportedRun, convert_weights, import_run

ANSWER = {
    "ok": True,
    "imported_from": {"name": "x.pth", "path": "/x.pth", "kind": "PyTorch state_dict", "sha256": "ab" * 32},
    "tensors": 2,
    "parameters": 6,
    "notes": ["A note."],
    "digest": "cd" * 16,
}

# Replaces the process with torch. The environment says what it does.
CHILD = """
import json, os, sys, time
from pathlib import Path
order = json.loads(sys.stdin.read())
Path(os.environ["ORDER"]).write_text(json.dumps(order))
if "checkpoints" in order:
    folder = Path(order["checkpoints"], "manifests")
    folder.mkdir(parents=True)
    (folder / "00000001-s0-0123abcd.json").write_text("{}")
exec(os.environ["CHILD"])
"""


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Replace the reading process by one that writes a checkpoint file and then runs the given code."""
    (tmp_path / "child.py").write_text(CHILD)
    monkeypatch.setenv("ORDER", str(tmp_path / "order.json"))

    def make(code: str) -> list[str]:
        monkeypatch.setenv("CHILD", code)
        command = [sys.executable, str(tmp_path / "child.py")]
        monkeypatch.setattr(importing, "_READER", command)
        return command

    return make


def ask(folder: Path, source: Path = Path("x.pth")) -> ImportedRun:
    return import_run(
        folder,
        source,
        PreparedTask(TaskReference(kind="builtin", name="digits"), {"epochs": 2}, Objective("validation/accuracy")),
        name="fine",
    )


def test_an_imported_run_appears_complete_and_records_its_source(tmp_path: Path, child: Any) -> None:
    child(f"print('noise'); print(json.dumps({ANSWER!r}))")
    imported = ask(tmp_path / "runs")
    record = read_record(imported.layout.record, RunRecord)
    assert record.imported_from == imported.report.imported_from
    assert isinstance(record.imported_from, ImportedFrom) and record.imported_from.sha256 == "ab" * 32
    assert (record.name, record.config, record.best_metric) == ("fine", {"epochs": 2}, "validation/accuracy")
    assert (imported.layout.checkpoints / "manifests" / "00000001-s0-0123abcd.json").is_file()
    summary = summarize_run(imported.layout)
    assert (summary.status, summary.durable_step, summary.attempt) == (RunStatus.STOPPED, 0, 0)
    assert summary.reason == "Its weights were imported. Resume it to train from them."
    assert summary.imported_from == record.imported_from


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print(json.dumps({'ok': False, 'error': 'It does not fit.', 'traceback': None}))", r"^It does not fit\.$"),
        ("os.kill(os.getpid(), 9)", "probably because memory ran out"),
        ("sys.exit(5)", "ended with exit code 5"),
        ("print('no json'); sys.exit(1)", "ended with exit code 1"),
    ],
)
def test_a_failed_import_leaves_no_run(tmp_path: Path, child: Any, code: str, said: str) -> None:
    child(code)
    with pytest.raises(RelightError, match=said):
        ask(tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_traceback_of_your_task_is_kept_whole(tmp_path: Path, child: Any) -> None:
    child("print(json.dumps({'ok': False, 'error': 'E', 'traceback': 'line 1\\nline 2'}))")
    with pytest.raises(TaskError) as raised:
        ask(tmp_path / "runs")
    assert raised.value.traceback == "line 1\nline 2"


def test_a_killed_import_leaves_no_run(tmp_path: Path, child: Any) -> None:
    command = child("Path(os.environ['ORDER']).write_text(str(os.getpid())); time.sleep(60)")
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "from relight.supervision import importing; importing._READER = sys.argv[3:];"
        "from tests.supervision.test_importing import ask; ask(Path(sys.argv[2]))"
    )
    runs, pid = tmp_path / "runs", tmp_path / "order.json"
    arguments = [str(Path(__file__).parents[2]), str(runs), *command]
    asking = subprocess.Popen([sys.executable, "-c", script, *arguments])
    try:
        deadline = time.monotonic() + 60
        while not (pid.exists() and pid.read_text().isdecimal()):
            assert asking.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        asking.kill()
        asking.wait()
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert list(runs.glob(".creating-*/checkpoints/manifests/*.json"))
    assert list_layouts(runs) == []


def test_the_order_contains_absolute_paths(tmp_path: Path, child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    child("print(json.dumps({'ok': False, 'error': 'E'}))")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RelightError):
        convert_weights(Path("x.pth"), Path("out.safetensors"), part="model.")
    order = json.loads((tmp_path / "order.json").read_text())
    assert order == {"source": f"{tmp_path}/x.pth", "part": "model.", "out": f"{tmp_path}/out.safetensors"}


def test_importing_loads_no_torch_in_the_calling_process() -> None:
    code = "import sys, relight.supervision.importing; print('torch' in sys.modules, 'numpy' in sys.modules)"
    told = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "False False\n"


@pytest.mark.processes
def test_the_real_process_refuses_and_converts(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(2)}, tmp_path / "x.pth")
    with pytest.raises(RelightError, match=r"x\.pth does not fit the model of digits"):
        ask(tmp_path / "runs", tmp_path / "x.pth")
    assert list((tmp_path / "runs").iterdir()) == []
    told = convert_weights(tmp_path / "x.pth", tmp_path / "x.safetensors")
    assert told.tensors == 1 and (tmp_path / "x.safetensors").stat().st_size == told.bytes
