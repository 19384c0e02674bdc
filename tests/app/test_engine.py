"""The dashboard's reader is up to date after every action, is shared by all sessions, and does not load torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from relight.errors import RunNotFound
from relight.overview.summary import summarize_run
from relight_app.engine import Engine, current_engine
from tests.app.asking import ask, problem
from tests.app.sample_runs import SampleRun, make_run


def test_all_sessions_share_one_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELIGHT_RUNS", str(tmp_path))
    assert current_engine() is current_engine()
    assert current_engine().folder == tmp_path


def test_a_run_is_found_by_id_name_or_beginning_and_an_unknown_one_is_not(tmp_path: Path) -> None:
    layout = make_run(tmp_path, SampleRun("my run"))
    engine = Engine(tmp_path)
    for asked in (layout.run_id, "my run", layout.run_id[:8]):
        assert engine.find_layout(asked).folder == layout.folder
    for asked in ("", "nothing", "../" + tmp_path.name, f"{layout.run_id}/../{layout.run_id}"):
        with pytest.raises(RunNotFound):
            engine.find_layout(asked)


def test_checkpoints_are_labelled_and_a_pin_shows_at_once(tmp_path: Path) -> None:
    layout = make_run(tmp_path, SampleRun("x"))
    engine = Engine(tmp_path)
    first = engine.list_checkpoints(layout.run_id).checkpoints[0]
    assert "pinned" not in first.labels
    assert ask(engine, "pin", run=layout.run_id, step=first.step).status == 200
    listed = engine.list_checkpoints(layout.run_id).checkpoints
    assert "pinned" in listed[0].labels
    assert sum("best" in info.labels for info in listed) == 1


def test_a_pin_of_a_missing_step_is_one_sentence(tmp_path: Path) -> None:
    layout = make_run(tmp_path, SampleRun("x"))
    answer = ask(Engine(tmp_path), "pin", run=layout.run_id, step=7)
    assert "There is no checkpoint at step 7" in problem(answer)
    assert answer.body["traceback"] is None


def test_the_small_curve_follows_a_running_run_and_is_kept_for_a_dead_one(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    run = summarize_run(make_run(tmp_path, SampleRun("x")))
    curve = engine.read_curve(run)
    assert curve is not None
    assert curve[0] == "train/loss"
    assert 10 < len(curve[1]) <= 48
    assert curve[1][0] > curve[1][-1]
    assert engine.read_curve(run) is curve


def test_exports_are_listed_newest_first_with_their_cards(tmp_path: Path) -> None:
    layout = make_run(tmp_path, SampleRun("x"))
    engine = Engine(tmp_path)
    assert engine.list_exports(layout.run_id) == []
    for which, kind in (("best", "safetensors"), ("latest", "safetensors")):
        assert ask(engine, "export", run=layout.run_id, which=which, format=kind).status == 200
    (layout.exports / "stray.safetensors").write_bytes(b"")
    exports = engine.list_exports(layout.run_id)
    assert len(exports) == 3
    steps = {info.step for info in engine.list_checkpoints(layout.run_id).checkpoints}
    known = [file for file in exports if file.step is not None]
    assert {file.step for file in known} <= steps
    assert all(file.sha256 is not None and len(file.sha256) == 64 for file in known)


def test_the_pages_load_no_torch() -> None:
    code = (
        "import sys; from relight_app.navigation import PAGES; import importlib; "
        "[importlib.import_module(f'relight_app.pages.{name}_page') for name in PAGES]; "
        "import relight_app.server.asgi_app; "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "False"
