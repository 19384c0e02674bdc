"""What is not a file, or not a sane one, under the name of any file of a run: every reader says so and goes on."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from relight.checkpoints.export import export_to_run
from relight.checkpoints.store import CheckpointStore
from relight.drill.proof import DrillProof, write_proof
from relight.errors import RelightError
from relight.metrics.metric_summary import summarize_metrics
from relight.metrics.tail import MetricTail
from relight.overview.attempts import summarize_attempts
from relight.overview.summary import list_runs
from relight.overview.verification import check_run
from relight.runs.catalog import find_run
from relight.runs.layout import RunLayout
from relight.runs.lock import is_locked
from relight.runs.log import follow_log, tail_offset
from relight.runs.record_file import read_record, write_record
from relight.runs.records import RunRecord, ScriptRecord, TrainerOutcome
from relight.runs.stop_request import request_stop
from relight_app.engine import Engine
from relight_app.server.files import find_layout
from relight_app.server.live_state import read_live_state
from tests.app.sample_runs import SampleRun, make_run
from tests.patience import stretch

Put = Callable[[Path], object]


def _put_socket(path: Path) -> None:
    # The address of a socket may have some hundred bytes only, so bind where its name is short.
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind("s.sock")
    (path.parent / "s.sock").replace(path)


def _put_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 2 << 30)


HOSTILE: dict[str, Put] = {
    "pipe": os.mkfifo,
    "socket": _put_socket,
    "huge": _put_huge,
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "nested": lambda path: path.write_bytes(b"[" * 100_000),
    "moderately-nested": lambda path: path.write_bytes(b'{"config":{"a":' + b"[" * 900 + b"]" * 900 + b"}}"),
}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    """A run with every kind of file; each test takes a copy."""
    layout = make_run(tmp_path_factory.mktemp("made") / "runs", SampleRun("digits", status="interrupted", attempts=2))
    attempt = layout.attempt(2)
    write_record(attempt.script, ScriptRecord())
    write_record(attempt.outcome, TrainerOutcome(outcome="stopped", step=3))
    write_record(attempt.writer, ScriptRecord())
    attempt.environment.write_text('{"device": "cpu"}')
    request_stop(layout)
    store = CheckpointStore(layout.checkpoints)
    info = store.pin(store.find("latest"))
    export_to_run(layout, store, info, best=False, format="safetensors")
    task = read_record(layout.record, RunRecord)
    write_proof(
        layout.folder.parent,
        DrillProof(
            task=task.task, config=task.config, time_s=1.0, bit_exact=True, fingerprint={}, steps=1, killed_at_step=1,
            resumed_from_step=1, mid_epoch=True, checkpoints_compared=1, tensors_compared=1, metric_steps_compared=1,
            state_digest="", first_difference=None, duration_s=1.0,
        ),
    )  # fmt: skip
    return layout


@contextlib.contextmanager
def _watchdog(what: str) -> Iterator[None]:
    """Fail a reader that hangs, and one that fills the memory."""

    def hangs(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"a reader hangs at {what}")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(int(stretch(20)))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _read_everything(folder: Path, run: str) -> None:
    """Read the run in each way that the command line, the page and the live stream do."""
    listing = list_runs(folder)
    names = [*(one.run for one in listing.runs), *(one.run for one in listing.damaged)]
    assert len(names) == 2, "a damaged run hides no other"
    layout = find_run(folder, run)
    find_layout(run)
    read_live_state(layout)
    is_locked(layout)
    summarize_attempts(layout, status=None, reason="")  # type: ignore[arg-type]
    with contextlib.suppress(RelightError):
        summarize_metrics(layout.metrics, None)
    MetricTail(layout.metrics).poll()
    with contextlib.suppress(RelightError):
        log = layout.attempt(2).log
        list(follow_log(log, ended=lambda: True, offset=tail_offset(log, lines=10)))
    engine = Engine(folder)
    asked: tuple[Callable[[], object], ...] = (
        lambda: engine.list_checkpoints(run),
        lambda: engine.read_log(run, attempt=2),
        lambda: engine.list_metrics(run),
        lambda: engine.list_exports(run),
        lambda: engine.read_environment(run, attempt=2),
        lambda: engine.plan_retention(run),
        lambda: engine.read_proof(engine.read_run(run), engine.read_record(run)),
        lambda: engine.read_curve(engine.read_run(run)),
        lambda: engine.read_stop(engine.read_run(run)),
        lambda: engine.list_attempts(engine.read_run(run)),
        lambda: check_run(layout),
    )
    for ask in asked:
        with contextlib.suppress(RelightError):
            ask()


@pytest.mark.parametrize("kind", HOSTILE)
def test_nothing_in_place_of_a_file_hangs_or_kills_a_reader(
    whole_run: RunLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    made = whole_run.folder.parent
    names = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file() and path.suffix != ".tmp")
    assert len(names) > 25, names
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder = tmp_path / "runs"
    monkeypatch.setenv("RELIGHT_RUNS", str(folder))
    shutil.copytree(made, folder)
    make_run(folder, SampleRun("other", checkpoints=0, step=4, steps_total=4, epochs=1))
    for name in names:
        path = folder / name
        path.rename(tmp_path / "aside")
        HOSTILE[kind](path)
        with _watchdog(f"{kind} {name}"):
            _read_everything(folder, whole_run.run_id)
            checked = {damage.path: damage.reason for damage in check_run(RunLayout(folder / whole_run.run_id)).damaged}
        if name.parts[0] != ".drills" and name.name not in ("lock", "log.txt"):  # their text may be anything
            assert any(path.name in damaged for damaged in [*checked, *checked.values()]), (name, checked)
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        (tmp_path / "aside").rename(path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 200_000, "KiB more: it was read into memory"
