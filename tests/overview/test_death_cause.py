"""The word for what ended a run follows from its records alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from relight.overview.death_cause import INTERRUPTIONS
from relight.overview.summary import summarize_run
from relight.runs.process_identity import current_process
from relight.runs.records import ImportedFrom
from relight.runs.stop_request import request_stop
from tests.runs.run_builder import RunBuilder, dead_process

Build = Callable[[RunBuilder], object]


def _elsewhere() -> Build:
    other = msgspec.structs.replace(dead_process(), boot_id="another", host="another")
    return lambda run: run.processes(other, other)


def _restarted() -> Build:
    before = msgspec.structs.replace(dead_process(), boot_id="the boot before")
    return lambda run: run.processes(before, before)


def _dead(run: RunBuilder) -> RunBuilder:
    return run.processes(dead_process(), dead_process())


CAUSES: list[tuple[str | None, Build]] = [
    (None, lambda run: run.processes(current_process(), current_process())),
    (None, lambda run: _dead(run).exit("finished")),
    ("stopped", lambda run: _dead(run).exit("stopped", reason="Stopped by request.")),
    ("stopped", lambda run: _dead(run).exit("stopped", stop_signal="SIGINT")),
    ("stopped", lambda run: (_dead(run), run.outcome("stopped"), request_stop(run.layout, now=False, grace_s=1))),
    ("stopped_by_signal", lambda run: _dead(run).exit("stopped", stop_signal="SIGTERM")),
    ("exception", lambda run: _dead(run).exit("crashed", error="ValueError: no", exit_code=3)),
    ("exception", lambda run: _dead(run).outcome("crashed", error="ValueError: no")),
    ("exception", lambda run: _dead(run).exit("crashed", error="ValueError: no", out_of_memory="machine")),
    ("gpu_memory", lambda run: _dead(run).exit("crashed", error="OutOfMemoryError: CUDA out of memory. Tried to …")),
    ("disk_full", lambda run: _dead(run).exit("crashed", error="OSError: [Errno 28] No space left on device")),
    ("out_of_memory", lambda run: _dead(run).exit("crashed", signal="SIGKILL", out_of_memory="group")),
    (
        "out_of_memory",
        lambda run: _dead(run).exit(
            "crashed", error="RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed.",
            out_of_memory="machine",
        ),
    ),
    ("killed", lambda run: _dead(run).exit("crashed", signal="SIGKILL")),
    ("killed", lambda run: run.processes(current_process(), dead_process())),
    ("signal", lambda run: _dead(run).exit("crashed", signal="SIGHUP")),
    ("fatal_signal", lambda run: _dead(run).exit("crashed", signal="SIGSEGV")),
    ("exit_code", lambda run: _dead(run).exit("crashed", exit_code=1)),
    ("ended_unseen", lambda run: _dead(run).exit("crashed")),
    ("machine_restarted", _restarted()),
    ("supervisor_killed", _dead),
    ("other_machine", _elsewhere()),
    ("never_started", lambda run: run),
    ("never_started", lambda run: run.exit("crashed", reason="The supervisor could not be started.")),
    ("unknown", lambda run: (_dead(run), run.files.exit.write_text("{"))),
    ("unknown", lambda run: run.files.processes.write_text("{")),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "build"), CAUSES)
def test_a_death_has_its_word(tmp_path: Path, cause: str | None, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relight.runs.status.FOREIGN_SILENCE_S", -1.0)
    run = RunBuilder.create(tmp_path).start()
    build(run)
    assert summarize_run(run.layout, traceback=False).cause == cause


def test_imported_weights_are_not_a_death(tmp_path: Path) -> None:
    source = ImportedFrom(name="a.pth", path="/a.pth", kind="PyTorch checkpoint", sha256="0")
    assert summarize_run(RunBuilder.create(tmp_path, fill=lambda _: source).layout).cause is None


def test_an_error_of_the_code_is_never_an_interruption() -> None:
    assert not INTERRUPTIONS & {
        "exception",
        "gpu_memory",
        "disk_full",
        "fatal_signal",
        "exit_code",
        "stopped",
        "unknown",
    }
