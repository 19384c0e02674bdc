"""The writer process: submitted snapshots survive the death of either process; failures are reported and retried."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from relight.checkpoints import writer_client
from relight.checkpoints.deletion import sweep
from relight.checkpoints.pack import order_for_pack
from relight.checkpoints.recovery import find_newest_good, verify_store
from relight.checkpoints.retention import BestRule, RetentionPolicy
from relight.checkpoints.store import CheckpointStore
from relight.checkpoints.writer_channel import (
    Durable,
    SaveFailed,
    Verified,
    Warned,
    WriterDied,
    WriterEvent,
    WriterStarted,
)
from relight.checkpoints.writer_client import WriterClient
from relight.errors import SaveError, UnsupportedState
from tests.checkpoints.snapshots import make_snapshot, stage_snapshot
from tests.checkpoints.trainer_stand_in import TRAINED
from tests.patience import stretch

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
Event = TypeVar("Event", bound=WriterEvent)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "a 0"
    run.mkdir()
    return run / "checkpoints"


@pytest.fixture
def all_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Announce small snapshots as well, so that their writes begin while they are copied."""
    monkeypatch.setattr(writer_client, "ANNOUNCED_BYTES", 0)


@contextmanager
def started(folder: Path, policy: RetentionPolicy | None = None) -> Iterator[WriterClient]:
    client = WriterClient(folder, policy=policy)
    try:
        yield client
    finally:
        client.close(timeout_s=PATIENCE_S)
        assert client._process.poll() is not None, "the writer did not exit"


def save(client: WriterClient, step: int, **others: object) -> None:
    stage_snapshot(client, *make_snapshot(step, **others))
    client.submit()


def wait_for(client: WriterClient, kind: type[Event], seen: list[WriterEvent] | None = None) -> Event:
    deadline = time.monotonic() + PATIENCE_S
    seen = [] if seen is None else seen
    while time.monotonic() < deadline:
        events = client.poll()
        while events:
            event = events.pop(0)
            seen.append(event)
            if isinstance(event, kind):
                client._events.extendleft(reversed(events))  # keep them for the next wait
                return event
        time.sleep(0.002)
    raise AssertionError(f"no {kind.__name__} in {PATIENCE_S} s, but {seen}")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {PATIENCE_S} s"
        time.sleep(0.005)


def test_a_submitted_snapshot_becomes_durable_and_verified(folder: Path) -> None:
    with started(folder) as client:
        begun_s = time.monotonic()
        save(client, 3, frozen=50)
        durable = wait_for(client, Durable)
        assert begun_s < durable.at_s < time.monotonic()
        info = CheckpointStore(folder).find(3)
        assert (durable.step, durable.sequence, durable.bytes) == (3, info.sequence, info.new_bytes)
        assert durable.edge_time_s == info.time_s
        assert wait_for(client, Verified).sequence == info.sequence
    store = CheckpointStore(folder)
    assert store.find(3).verified
    with store.open(store.find(3)) as reader:
        for spec, data in zip(
            *(part for part in (make_snapshot(3, frozen=50)[0].tensors, make_snapshot(3, frozen=50)[1])), strict=True
        ):
            assert reader.read(spec.name) == data


def test_the_writer_keeps_what_the_policy_keeps(folder: Path) -> None:
    with started(folder) as client:
        for step in range(1, 7):
            save(client, step, score=float(-abs(step - 2)))
            wait_for(client, Verified)
    assert [info.step for info in CheckpointStore(folder).list().checkpoints] == [2, 5, 6]


def test_lower_is_better_reaches_the_retention(folder: Path) -> None:
    client = WriterClient(folder, policy=RetentionPolicy(best=(BestRule(higher_is_better=False),)))
    for step in range(1, 6):
        save(client, step, score=float(step))
        wait_for(client, Verified)
    client.close(timeout_s=PATIENCE_S)
    assert [info.step for info in CheckpointStore(folder).list().checkpoints] == [1, 4, 5]


def test_drain_waits_until_everything_is_durable(folder: Path) -> None:
    with started(folder) as client:
        save(client, 1)
        save(client, 2)
        events = client.drain(PATIENCE_S)
        assert [event.step for event in events if isinstance(event, Durable)] == [1, 2]
        assert client.pending == 0


def test_close_loses_nothing_that_was_submitted(folder: Path) -> None:
    with started(folder) as client:
        save(client, 1)
        save(client, 2)
    assert [info.step for info in CheckpointStore(folder).list().checkpoints] == [1, 2]


def test_snapshots_may_grow_and_shrink(folder: Path) -> None:
    with started(folder) as client:
        for step, trained in enumerate([10, 3_000_000, 0, 4_000_000, 5], 1):
            save(client, step, trained=trained)
            wait_for(client, Verified)
    store = CheckpointStore(folder)
    assert store.find("latest").step == 5
    assert verify_store(store).damaged == []


def test_with_memory_for_one_snapshot_saving_continues(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(folder) as client:
        save(client, 1)
        monkeypatch.setattr("relight.checkpoints.staging.available_bytes", lambda: 1000)
        for step in (2, 3, 4):
            save(client, step, score=1.0)
        events = client.drain(PATIENCE_S)
    assert sum(isinstance(event, Warned) and "only one snapshot" in event.sentence for event in events) == 1
    assert CheckpointStore(folder).find("latest").step == 4


def test_without_memory_for_any_snapshot_the_error_says_how_much_is_needed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relight.checkpoints.staging.available_bytes", lambda: 1000)
    with (
        started(folder) as client,
        pytest.raises(SaveError, match=r"MB of memory, but only 1 kB is available"),
    ):
        client.stage(make_snapshot(1)[0])


def test_a_newer_snapshot_replaces_one_that_waits_but_never_a_scored_one(folder: Path) -> None:
    with started(folder) as client:
        wait_until(lambda: _is_ready(client), "the writer being ready")
        os.kill(client.pid, signal.SIGSTOP)
        save(client, 1, score=0.5)
        save(client, 2)
        stopped = client.pid

        def go_on() -> None:
            time.sleep(0.3)
            os.kill(stopped, signal.SIGCONT)

        import threading

        thread = threading.Thread(target=go_on)
        thread.start()
        save(client, 3)
        thread.join()
        steps = [event.step for event in client.drain(PATIENCE_S) if isinstance(event, Durable)]
    assert steps[0] == 1
    assert steps[-1] == 3


def test_snapshots_become_durable_in_the_order_of_their_step_edges(folder: Path) -> None:
    with started(folder) as client:
        wait_until(lambda: _is_ready(client), "the writer being ready")
        os.kill(client.pid, signal.SIGSTOP)
        save(client, 1)
        save(client, 2)
        os.kill(client.pid, signal.SIGCONT)
        assert [event.step for event in client.drain(PATIENCE_S) if isinstance(event, Durable)] == [1, 2]


def _is_ready(client: WriterClient) -> bool:
    return any("writer_process" in word for word in psutil.Process(client.pid).cmdline())


def test_an_unsubmitted_snapshot_is_forgotten(folder: Path) -> None:
    with started(folder) as client:
        client.stage(make_snapshot(1)[0])
        client.discard()
        save(client, 2)
        client.stage(make_snapshot(3)[0])
    assert [info.step for info in CheckpointStore(folder).list().checkpoints] == [2]


@pytest.mark.usefixtures("all_announced")
def test_an_announced_snapshot_is_written_before_it_is_complete_and_is_a_checkpoint_only_afterwards(
    folder: Path,
) -> None:
    store = CheckpointStore(folder)
    with started(folder) as client:
        save(client, 1, trained=900_000)
        wait_for(client, Verified)
        header, buffers = make_snapshot(2, trained=900_000)
        order = order_for_pack(header.tensors)
        memory = client.stage(header)
        for count, i in enumerate(order[:-1], 1):
            memory[i][:] = buffers[i]
            client.note_copied(count)
        wait_until(lambda: _begun_bytes(store) > 3_000_000, "the write of the first tensors")
        assert [info.step for info in store.list().checkpoints] == [1]
        memory[order[-1]][:] = buffers[order[-1]]
        client.submit()
        assert wait_for(client, Durable).step == 2
    with store.open(store.find(2)) as reader:
        assert [reader.read(spec.name) for spec in header.tensors] == buffers
    assert _begun_bytes(store) == 0


def _begun_bytes(store: CheckpointStore) -> int:
    """Return the bytes of unfinished packs on the disk, without reserved space that has not been written yet."""
    found = 0
    for path in store.layout.temporary.glob("*.safetensors"):
        with suppress(FileNotFoundError):
            found += len(path.read_bytes().rstrip(b"\0"))
    return found


@pytest.mark.usefixtures("all_announced")
def test_an_abandoned_announced_snapshot_leaves_nothing_and_the_next_one_is_intact(folder: Path) -> None:
    store = CheckpointStore(folder)
    with started(folder) as client:
        save(client, 1, trained=900_000)
        wait_for(client, Verified)
        for step in range(2, 6):
            stage_snapshot(client, *make_snapshot(step, trained=900_000))
            if step % 2:
                wait_until(lambda: _begun_bytes(store) > 0, "the write of the unsubmitted snapshot")
            client.discard()
        wait_until(lambda: _begun_bytes(store) == 0, "the removal of the last one")
        save(client, 6, trained=900_000)
        assert wait_for(client, Durable).step == 6
    assert [info.step for info in store.list().checkpoints] == [1, 6]
    assert verify_store(store).damaged == []


def test_what_is_shared_is_the_same_whether_a_snapshot_is_announced_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = []
    for name, announced_bytes in (("early", 0), ("late", 1 << 30)):
        monkeypatch.setattr(writer_client, "ANNOUNCED_BYTES", announced_bytes)
        with started(tmp_path / name, RetentionPolicy(newest=100)) as client:
            for step, frozen in enumerate([0, 4000, 4000, 4000, 0, 300, 300], 1):
                save(client, step, frozen=frozen, trained=1000 if step != 4 else 2000)
                wait_for(client, Verified)
        stores.append(CheckpointStore(tmp_path / name))
    early, late = ([store.read_manifest(info) for info in store.list().checkpoints] for store in stores)
    assert [m.step for m in early] == list(range(1, 8))
    for one, other in zip(early, late, strict=True):
        assert one.tensors == other.tensors
        assert [pack.bytes for pack in one.packs] == [pack.bytes for pack in other.packs]
    assert [verify_store(store).damaged for store in stores] == [[], []]


@pytest.mark.usefixtures("all_announced")
def test_a_failure_to_write_an_announced_snapshot_is_reported_when_it_is_submitted(folder: Path) -> None:
    store = CheckpointStore(folder)
    store.commit(*make_snapshot(1))
    store.layout.temporary.rmdir()
    store.layout.temporary.write_text("in the way")
    with started(folder) as client:
        stage_snapshot(client, *make_snapshot(2))
        assert client.drain(0.3) == []
        client.submit()
        assert wait_for(client, SaveFailed).step == 2
        store.layout.temporary.unlink()
        store.layout.temporary.mkdir()
        assert wait_for(client, Durable).step == 2


@pytest.mark.usefixtures("all_announced")
def test_a_writer_that_is_killed_in_the_middle_of_an_announced_snapshot_is_replaced(folder: Path) -> None:
    store = CheckpointStore(folder)
    with started(folder) as client:
        save(client, 1, trained=900_000)
        wait_for(client, Verified)
        stage_snapshot(client, *make_snapshot(2, trained=900_000))
        wait_until(lambda: _begun_bytes(store) > 0, "the write of the unsubmitted snapshot")
        os.kill(client.pid, signal.SIGKILL)
        client.submit()
        assert wait_for(client, Durable).step == 2
    assert verify_store(store).damaged == []
    assert _begun_bytes(store) == 0


def test_a_state_that_cannot_be_saved_is_refused_at_once(folder: Path) -> None:
    with started(folder) as client, pytest.raises(UnsupportedState, match=r"state\['f'\]"):
        client.stage(make_snapshot(1, state={"f": len})[0])


def test_a_failed_save_is_reported_and_retried(folder: Path) -> None:
    store = CheckpointStore(folder)
    store.commit(*make_snapshot(1))
    store.layout.temporary.rmdir()
    store.layout.temporary.write_text("in the way")
    with started(folder) as client:
        save(client, 2)
        failed = wait_for(client, SaveFailed)
        assert failed.step == 2
        assert "step 2 was not saved" in failed.sentence
        assert client.drain(0.0) == []
        store.layout.temporary.unlink()
        store.layout.temporary.mkdir()
        assert wait_for(client, Durable).step == 2, "the same snapshot is tried again"
    assert [info.step for info in store.list().checkpoints] == [1, 2]


def test_while_saving_fails_the_newest_snapshot_is_the_one_that_waits(folder: Path) -> None:
    store = CheckpointStore(folder)
    store.commit(*make_snapshot(1))
    store.layout.temporary.rmdir()
    store.layout.temporary.write_text("in the way")
    with started(folder) as client:
        for step in range(2, 7):
            save(client, step, score=1.0)
            while wait_for(client, SaveFailed).step != step:
                pass
        store.layout.temporary.unlink()
        store.layout.temporary.mkdir()
        wait_for(client, Durable)
        client.drain(PATIENCE_S)
    steps = [info.step for info in store.list().checkpoints]
    assert steps[-1] == 6
    assert steps == sorted(steps)


def test_a_full_disk_stops_nothing_and_saving_recovers(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 3) as disk:
        ballast = disk / "ballast"
        with started(disk / "checkpoints") as client:
            save(client, 1, trained=100_000)
            wait_for(client, Verified)
            with suppress(OSError):
                ballast.write_bytes(bytes(3 << 20))
            save(client, 2, trained=100_000)
            failed = wait_for(client, SaveFailed)
            assert "the disk is full" in failed.sentence
            store = CheckpointStore(disk / "checkpoints")
            assert [info.step for info in store.list().checkpoints] == [1]
            assert verify_store(store).damaged == []
            ballast.unlink()
            assert wait_for(client, Durable).step == 2
        assert [info.step for info in store.list().checkpoints] == [1, 2]


@contextmanager
def small_disk(mount_point: Path, megabytes: int) -> Iterator[Path]:
    mount_point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "relight-test", str(mount_point)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)


def test_a_writer_that_dies_is_replaced_and_its_work_is_done(folder: Path) -> None:
    with started(folder) as client:
        save(client, 1)
        wait_for(client, Durable)
        killed = client.pid
        os.kill(killed, signal.SIGKILL)
        save(client, 2)
        seen: list[WriterEvent] = []
        assert wait_for(client, Durable, seen).step == 2
        died = next(event for event in seen if isinstance(event, WriterDied))
        assert died.restarted
        assert "signal 9" in died.sentence
        assert client.pid != killed
        assert client.identity.pid == client.pid


def test_a_writer_that_is_killed_while_it_writes_loses_nothing(folder: Path) -> None:
    chance = random.Random(5)
    with started(folder, RetentionPolicy(best=())) as client:
        for step in range(1, 13):
            save(client, step, trained=400_000)
            time.sleep(chance.random() * 0.03)
            if step % 4:
                with suppress(ProcessLookupError):
                    os.kill(client.pid, signal.SIGKILL)
            assert wait_for(client, Durable).step == step
            # Otherwise the client would pause after so many deaths.
            client._deaths.clear()
    store = CheckpointStore(folder)
    assert verify_store(store).damaged == []
    assert store.find("latest").step == 12


def test_a_writer_that_always_dies_costs_no_time_and_the_newest_snapshots_wait_for_the_next_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relight.checkpoints.writer_client._LONGEST_PAUSE_S", 1.0)
    with started(folder) as client:
        with monkeypatch.context() as patch:
            patch.setattr("relight.checkpoints.writer_client.sys.executable", "/bin/false")
            os.kill(client.pid, signal.SIGKILL)
            wait_until(lambda: _has_given_up(client), "giving up")
            begun = time.monotonic()
            for step in range(1, 301):
                save(client, step, score=1.0 if step == 2 else None)
            assert time.monotonic() - begun < stretch(1.0)
            assert client.pending == 2
        events: list[WriterEvent] = []
        wait_for(client, WriterStarted, events)
        events += client.drain(PATIENCE_S)
        assert [event.step for event in events if isinstance(event, Durable)] == [2, 300], "the scored one, the newest"
    assert verify_store(CheckpointStore(folder)).damaged == []


def _has_given_up(client: WriterClient) -> bool:
    return any(isinstance(event, WriterDied) and not event.restarted for event in client.poll())


def test_a_machine_that_can_start_no_process_costs_checkpoints_and_not_the_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relight.checkpoints.writer_client._LONGEST_PAUSE_S", 0.1)
    with started(folder) as client:
        with monkeypatch.context() as patch:
            patch.setattr("relight.checkpoints.writer_client.sys.executable", "/nowhere/python")
            os.kill(client.pid, signal.SIGKILL)
            save(client, 1)
            assert "No such file" in wait_for(client, WriterDied).sentence
            with pytest.raises(SaveError, match="The checkpoint writer cannot be started: No such file"):
                WriterClient(folder)
        assert wait_for(client, Durable).step == 1


def test_damage_right_after_the_write_is_reported_and_the_next_save_is_intact(folder: Path) -> None:
    with started(folder) as client:
        save(client, 1, frozen=50_000)
        wait_for(client, Verified)
        store = CheckpointStore(folder)
        pack = store.layout.packs / store.find(1).packs[0]
        data = bytearray(pack.read_bytes())
        data[-1] ^= 1
        data[8192] ^= 1
        pack.write_bytes(data)
        save(client, 2, frozen=50_000)
        warned = wait_for(client, Warned)
        assert "step 2 is damaged" in warned.sentence
        assert "No good checkpoint is left" in warned.sentence
        save(client, 3, frozen=50_000)
        assert wait_for(client, Verified).step == 3
    assert [info.step for info in store.list().checkpoints] == [3]


def test_the_writer_loads_no_heavy_library() -> None:
    code = (
        "import sys, relight.checkpoints.writer_process\n"
        "print(sorted({'torch', 'numpy', 'pydantic', 'rich', 'typer', 'streamlit'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


class StandIn:
    """A stand-in trainer in a separate process. Collects the lines that it prints."""

    def __init__(self, folder: Path, first: int, scenario: str) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.checkpoints.trainer_stand_in", str(folder), str(first), scenario],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: list[str] = []
        self.lock = folder.parent / "lock"

    def read_until(self, word: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if line.startswith(word):
                return line.strip()
        raise AssertionError(f"it ended without '{word}': {self.lines}")

    def newest(self, word: str) -> int:
        return max((int(line.split()[1]) for line in self.lines if line.startswith(f"{word} ")), default=0)

    def last(self, word: str) -> int:
        return next(int(line.split()[1]) for line in reversed(self.lines) if line.startswith(f"{word} "))

    def kill(self) -> None:
        self.process.kill()
        assert self.process.stdout is not None
        # A forked child may keep the pipe open: read only what is there.
        os.set_blocking(self.process.stdout.fileno(), False)
        with suppress(OSError, TypeError):
            self.lines += (self.process.stdout.read() or "").splitlines()
        self.process.wait(PATIENCE_S)

    def wait_for_the_writer(self) -> None:
        """Wait until the run's lock, which the writer inherited, is free."""

        def is_free() -> bool:
            with self.lock.open("r+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
                return True

        wait_until(is_free, "the exit of the writer")


@pytest.mark.processes
def test_what_was_submitted_survives_a_trainer_that_is_killed(folder: Path) -> None:
    trainer = StandIn(folder, 7, "submit, then hang")
    trainer.read_until("submitted")
    trainer.kill()
    trainer.wait_for_the_writer()
    info = CheckpointStore(folder).find("latest")
    assert (info.step, info.verified) == (7, True)
    header, buffers = make_snapshot(7, trained=TRAINED, frozen=1000)
    with CheckpointStore(folder).open(info) as reader:
        assert [reader.read(spec.name) for spec in header.tensors] == buffers


@pytest.mark.processes
def test_a_snapshot_that_was_only_half_staged_never_becomes_a_checkpoint(folder: Path) -> None:
    store = CheckpointStore(folder)
    trainer = StandIn(folder, 7, "stage half of the second, then hang")
    trainer.read_until("staged")
    wait_until(lambda: _begun_bytes(store) > 0, "the write of the first half")
    trainer.kill()
    trainer.wait_for_the_writer()
    assert [info.step for info in store.list().checkpoints] == [7]
    assert list(store.layout.temporary.iterdir()) == []


@pytest.mark.processes
def test_the_writer_exits_although_a_forked_child_of_the_trainer_lives_on(folder: Path) -> None:
    trainer = StandIn(folder, 7, "fork, then hang")
    child = int(trainer.read_until("child").split()[1])
    try:
        writer = trainer.last("writer")
        trainer.process.kill()
        trainer.process.wait(PATIENCE_S)
        wait_until(lambda: not _is_alive(writer), "the exit of the writer")
        assert CheckpointStore(folder).find("latest").step == 7
    finally:
        os.kill(child, signal.SIGKILL)
        assert trainer.process.stdout is not None
        trainer.process.stdout.close()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.processes
@pytest.mark.parametrize("victims", ["trainer", "writer", "both"])
def test_random_kills_never_lose_what_was_acknowledged(folder: Path, victims: str) -> None:
    chance = random.Random(victims)
    rounds = int(os.environ.get("RELIGHT_KILLS", "4"))
    store = CheckpointStore(folder)
    first = 1
    for _ in range(rounds):
        trainer = StandIn(folder, first, "save at every step")
        trainer.read_until("durable")
        time.sleep(chance.random() * 0.15)
        if victims in ("writer", "both"):
            with suppress(ProcessLookupError):
                os.kill(trainer.last("writer"), signal.SIGKILL)
            if victims == "writer":
                trainer.read_until("writer")
                trainer.read_until("durable")
        trainer.kill()
        trainer.wait_for_the_writer()
        sweep(store)
        good, passed = find_newest_good(store)
        assert list(passed) == []
        assert good is not None
        assert good.step >= trainer.newest("durable")
        if victims != "both":
            # The newest complete snapshot is there, not only the newest acknowledged one.
            assert good.step >= trainer.newest("submitted")
        header, buffers = make_snapshot(good.step, trained=TRAINED, frozen=1000)
        with store.open(good) as reader:
            assert [reader.read(spec.name) for spec in header.tensors] == buffers
        first = good.step + 1
