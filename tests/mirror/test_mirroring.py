"""The process that copies: it retries, says why it waits, ends with the run, and never waits forever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relight.checkpoints.listing import CheckpointInfo
from relight.errors import RelightError, UsageError
from relight.mirror import mirroring
from relight.mirror.address import parse_mirror
from relight.mirror.copier import Copier
from relight.mirror.mirroring import BUSY, REFUSED, Mirroring, MirrorLock, copy_now, serve
from relight.mirror.remote import MirrorError
from relight.mirror.report import MirrorReport, read_mirror_report, set_mirror
from relight.runs.lock import RunLock
from relight.runs.process_identity import current_process
from relight.runs.records import MirrorState
from tests.mirror.conftest import Place, Trained
from tests.patience import stretch


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("POLL_S", 0.02), ("LONGEST_WAIT_S", 0.05), ("FOLLOW_S", 0.02)):
        monkeypatch.setattr(mirroring, name, seconds)


@pytest.fixture
def mirrored(trained: Trained, place: Place) -> Trained:
    set_mirror(trained.layout, place.address)
    return trained


def _wait_for(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + stretch(20)
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def _report(trained: Trained) -> MirrorReport:
    report = read_mirror_report(trained.layout)
    assert report is not None
    return report


@pytest.fixture
def start(trained: Trained) -> Iterator[Callable[[Place], threading.Thread]]:
    """Run the loop of the process in a thread, until the mirror is taken away."""
    threads: list[threading.Thread] = []

    def start(place: Place) -> threading.Thread:
        thread = threading.Thread(target=lambda: codes.append(Mirroring(trained.layout, place.address).run()))
        codes: list[int] = thread.__dict__.setdefault("codes", [])
        thread.start()
        threads.append(thread)
        return thread

    yield start
    trained.layout.mirror.unlink(missing_ok=True)
    for thread in threads:
        thread.join(stretch(20))
        assert not thread.is_alive()


def _train(trained: Trained) -> None:
    """Let the run count as training: this process is its trainer."""
    trained.builder.processes(current_process(), current_process())


def test_an_ended_run_is_copied_to_its_end_and_the_process_ends(mirrored: Trained, place: Place) -> None:
    mirrored.save(1)
    mirrored.save(2, verified=False)
    mirrored.builder.exit("crashed", step=2)
    assert Mirroring(mirrored.layout, place.address).run() == 0
    assert len(place.manifests(mirrored.layout.run_id)) == 2
    assert "attempts/0001/exit.json" in place.files(mirrored.layout.run_id)
    report = _report(mirrored)
    assert (report.copied_step, report.waiting_checkpoints, report.copying) == (2, 0, False)


def test_each_checkpoint_of_a_training_follows(
    mirrored: Trained, place: Place, start: Callable[[Place], threading.Thread]
) -> None:
    _train(mirrored)
    thread = start(place)
    for step in (1, 2, 3):
        info = mirrored.save(step)
        _wait_for(lambda name=info.name.manifest: name in place.manifests(mirrored.layout.run_id))
    _wait_for(lambda: _report(mirrored).copied_step == 3)
    assert _report(mirrored).copying
    mirrored.builder.processes(mirrored.builder.layout and _gone(), _gone()).exit("finished", step=3)
    thread.join(stretch(20))
    assert thread.__dict__["codes"] == [0]


def test_a_supervisor_that_is_done_with_the_run_and_waits_for_the_copy_is_not_waited_for(
    mirrored: Trained, place: Place, start: Callable[[Place], threading.Thread]
) -> None:
    mirrored.builder.processes(current_process(), _gone())
    mirrored.save(1)
    with RunLock.acquire(mirrored.layout):
        thread = start(place)
        _wait_for(lambda: _report(mirrored).copied_step == 1)
        mirrored.builder.exit("finished", step=1)
        thread.join(0.2)
        assert thread.is_alive(), "it may start another attempt"
    thread.join(stretch(20))
    assert thread.__dict__["codes"] == [0]


def _gone() -> Any:
    from tests.runs.run_builder import dead_process

    return dead_process()


def test_a_server_that_is_down_is_told_and_retried(
    trained: Trained, s3: Place, start: Callable[[Place], threading.Thread]
) -> None:
    assert s3.server is not None
    set_mirror(trained.layout, s3.address)
    _train(trained)
    s3.server.stop()
    trained.save(1)
    start(s3)
    report = _wait_for(lambda: (found := _report(trained)).failure and found)
    assert report.failure == "Connection refused."
    assert (report.waiting_checkpoints, report.copied_step, report.refused) == (1, None, False)
    assert report.waiting_bytes > 1_000
    assert report.failing_since_s == pytest.approx(time.time(), abs=stretch(20))
    s3.server.start()
    report = _wait_for(lambda: (found := _report(trained)).copied_step and found)
    assert (report.failure, report.failing_since_s, report.waiting_checkpoints) == (None, None, 0)


def test_the_wait_grows_only_while_no_checkpoint_gets_through(
    mirrored: Trained, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        mirrored.store.pin(mirrored.save(step))
    failing = iter([True, True, False, True, False, True, True, False, False])
    slept: list[float] = []

    def fail_sometimes(copier: Copier, info: CheckpointInfo) -> None:
        if next(failing):
            raise MirrorError("It broke.")
        copy(copier, info)

    copy = Copier.copy
    monkeypatch.setattr(Copier, "copy", fail_sometimes)
    monkeypatch.setattr(Mirroring, "_sleep", lambda _, duration_s: slept.append(duration_s))
    assert Mirroring(mirrored.layout, place.address).run() == 0
    assert slept == [0.02, 0.04, 0.02, 0.02, 0.04]
    assert len(place.manifests(mirrored.layout.run_id)) == 3


def test_after_the_end_a_dead_server_is_given_up(trained: Trained, s3: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert s3.server is not None
    monkeypatch.setattr(mirroring, "GIVE_UP_S", 0.1)
    set_mirror(trained.layout, s3.address)
    trained.save(1)
    s3.server.stop()
    assert Mirroring(trained.layout, s3.address).run() == 1
    report = _report(trained)
    assert (report.failure, report.waiting_checkpoints, report.copying) == ("Connection refused.", 1, False)
    s3.server.start()


def test_a_bucket_that_lies_ends_the_copying_with_a_sentence(trained: Trained, s3: Place) -> None:
    assert s3.server is not None
    s3.server.bucket.lies = True
    set_mirror(trained.layout, s3.address)
    trained.save(1)
    assert Mirroring(trained.layout, s3.address).run() == REFUSED
    report = _report(trained)
    assert report.refused
    assert "does not honor conditional writes" in (report.failure or "")
    assert s3.server.bucket.keys() == []


def test_a_mirror_that_is_changed_or_taken_away_ends_the_process(
    mirrored: Trained, place: Place, tmp_path: Path, start: Callable[[Place], threading.Thread]
) -> None:
    _train(mirrored)
    thread = start(place)
    _wait_for(lambda: _report(mirrored).copying)
    set_mirror(mirrored.layout, parse_mirror(str(tmp_path)))
    thread.join(stretch(20))
    assert thread.__dict__["codes"] == [0]


def test_only_one_process_copies_a_run(mirrored: Trained) -> None:
    with MirrorLock(mirrored.layout):
        assert serve(mirrored.layout) == BUSY


def test_copying_now_answers_with_what_is_there(mirrored: Trained, place: Place) -> None:
    mirrored.save(1)
    states: list[MirrorState] = []
    state = copy_now(mirrored.layout, on_state=states.append)
    assert (state.copied_step, state.waiting_checkpoints) == (1, 0)
    assert any(one.waiting_checkpoints for one in states)
    assert copy_now(mirrored.layout).copied_step == 1


def test_copying_now_waits_for_the_process_that_copies_already(
    mirrored: Trained, place: Place, start: Callable[[Place], threading.Thread]
) -> None:
    _train(mirrored)
    with MirrorLock(mirrored.layout):
        start(place)
        _wait_for(lambda: _report(mirrored).copying)
        mirrored.save(1)
        assert copy_now(mirrored.layout).copied_step == 1


def test_copying_now_does_not_retry(trained: Trained, s3: Place) -> None:
    assert s3.server is not None
    with pytest.raises(UsageError, match="has no mirror"):
        copy_now(trained.layout)
    set_mirror(trained.layout, s3.address)
    s3.server.bucket.failure = (403, "AccessDenied")
    with pytest.raises(MirrorError, match="Access denied"):
        copy_now(trained.layout)
    assert "Access denied" in (_report(trained).failure or "")


def test_a_run_that_is_removed_ends_the_process(
    mirrored: Trained, place: Place, start: Callable[[Place], threading.Thread]
) -> None:
    import shutil

    _train(mirrored)
    thread = start(place)
    _wait_for(lambda: _report(mirrored).copying)
    shutil.rmtree(mirrored.layout.folder)
    thread.join(stretch(20))
    assert thread.__dict__["codes"] == [0]
    assert not mirrored.layout.folder.exists()


def test_a_process_that_is_asked_to_end_copies_what_waits_first(mirrored: Trained, place: Place) -> None:
    _train(mirrored)
    process = subprocess.Popen([sys.executable, "-P", "-m", "relight.mirror", str(mirrored.layout.folder)])
    try:
        _wait_for(lambda: _report(mirrored).copying)
        process.send_signal(signal.SIGTERM)
        info = mirrored.save(1)
        mirrored.builder.processes(_gone(), _gone()).exit("stopped", step=1)
        assert process.wait(stretch(20)) == 0
    finally:
        process.kill()
        process.wait()
    assert place.manifests(mirrored.layout.run_id) == [info.name.manifest]
    assert "attempts/0001/exit.json" in place.files(mirrored.layout.run_id)


def test_a_full_disk_here_does_not_end_the_copying(
    mirrored: Trained, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(mirroring, "write_record", refuse)
    mirrored.save(1)
    assert Mirroring(mirrored.layout, place.address).run() == 0
    assert len(place.manifests(mirrored.layout.run_id)) == 1


def test_a_changed_mirror_is_an_error_for_the_person_who_waits(mirrored: Trained, place: Place, tmp_path: Path) -> None:
    mirrored.save(1)

    def change(_: MirrorState) -> None:
        set_mirror(mirrored.layout, parse_mirror(str(tmp_path)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirroring, "TOLD_EVERY_S", 0.0)
        with pytest.raises(RelightError, match="was changed while it was being copied"):
            copy_now(mirrored.layout, on_state=change)
