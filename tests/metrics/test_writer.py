"""What was logged is in the file, whatever kills the process or fills the disk; and logging never stops a training."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import timeit
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relight.metrics import writer as writer_module
from relight.metrics.file_format import decode_header, metric_file_name
from relight.metrics.metric_records import read_records
from relight.metrics.series import read_series
from relight.metrics.writer import OPEN_FILES, MetricWriter, OddNames
from tests.metrics.metric_folder import losses
from tests.patience import stretch


def _steps(folder: Path, name: str = "train/loss") -> list[int]:
    return read_series(folder, name).steps.tolist()


def test_each_call_is_in_the_file_when_it_returns(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path / "metrics", stream="train", attempt=1)
    assert not (tmp_path / "metrics").exists(), "nothing is made before the first call"
    for step in range(1, 4):
        writer.log(step, {"loss": 0.1})
        assert _steps(tmp_path / "metrics") == list(range(1, step + 1))
    writer.close()


def test_a_kill_loses_nothing_that_was_logged(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from relight.metrics.writer import MetricWriter\n"
        "writer = MetricWriter(Path(sys.argv[1]), stream='train', attempt=1)\n"
        "for step in range(1, 10**9):\n"
        "    writer.log(step, {'loss': float(step), 'lr': 0.1})\n"
        "    print(step, flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        if int(line) >= 500:
            break
    os.kill(process.pid, signal.SIGKILL)
    logged = [int(line) for line in process.communicate()[0].split("\n")[:-1]] or [500]
    steps = _steps(tmp_path)
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= logged[-1]


def test_each_set_of_names_has_its_own_file_however_they_alternate(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path, stream="train", attempt=1)
    for step in range(1, 21):
        writer.log(step, {"loss": step, "lr": 0.1} if step % 5 else {"lr": 0.1, "norm": 2.0, "loss": step})
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0001-train.2.rlm", "0001-train.rlm"]
    assert _steps(tmp_path) == list(range(1, 21))
    assert _steps(tmp_path, "train/norm") == [5, 10, 15, 20]


def test_another_order_of_the_same_names_is_the_same_file(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path, stream="train", attempt=1)
    writer.log(1, {"loss": 1.0, "lr": 0.1})
    writer.log(2, {"lr": 0.2, "loss": 2.0})
    writer.log(3, {"loss": 3.0, "lr": 0.3})
    writer.close()
    assert len(list(tmp_path.iterdir())) == 1
    assert read_series(tmp_path, "train/loss").values.tolist() == [1.0, 2.0, 3.0]


def test_a_file_that_is_there_is_never_written_over(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        writer = MetricWriter(tmp_path, stream="train", attempt=1)
        writer.log(1, {"loss": value})
        writer.close()
    assert len(list(tmp_path.iterdir())) == 2


def test_logging_goes_on_after_a_close(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path, stream="train", attempt=1)
    writer.log(1, {"loss": 1.0})
    writer.close()
    writer.log(2, {"loss": 2.0})
    writer.close()
    assert _steps(tmp_path) == [1, 2]


def test_numbers_of_any_kind_are_taken_and_others_named(tmp_path: Path) -> None:
    import numpy as np

    writer = MetricWriter(tmp_path, stream="train", attempt=1)
    writer.log(1, {"loss": np.float32(0.5), "hits": 3, "done": True})
    with pytest.raises(TypeError, match=r"Metrics must be numbers.*'a lot'"):
        writer.log(2, {"loss": "a lot", "hits": 3, "done": True})  # type: ignore[dict-item]
    writer.log(3, {"loss": 0.25, "hits": 4, "done": False})
    writer.log(4, {})
    writer.close()
    assert read_series(tmp_path, "train/loss").values.tolist() == [0.5, 0.25]


class _Disk:
    """An os.pwrite that takes only some bytes of what it is given, or fails, as told."""

    def __init__(self, answers: list[int | None]) -> None:
        self.answers = answers
        self.real = os.pwrite

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        answer = self.answers.pop(0) if self.answers else len(data)
        if answer is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.real(descriptor, bytes(data[: max(1, answer)]), offset)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(answers=st.lists(st.none() | st.integers(1, 200), max_size=40), rows=st.integers(1, 30))
def test_a_disk_that_fails_in_any_way_costs_no_record_and_no_alignment(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, answers: list[int | None], rows: int
) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    disk = _Disk(list(answers))
    with monkeypatch.context() as patch:
        patch.setattr(writer_module.os, "pwrite", disk.pwrite)
        patch.setattr(writer_module, "RETRY_S", 0.0)
        writer = MetricWriter(folder, stream="train", attempt=1)
        for number, (step, values) in enumerate(losses(range(1, rows + 1))):
            writer.log(step, values, time_s=float(number))
            path = folder / metric_file_name("train", attempt=1)
            data = path.read_bytes() if path.exists() else b""
            if b"\n" in data:
                header, begin = decode_header(data)
                whole = (len(data) - begin) // header.record_bytes
                assert _steps(folder) == list(range(1, whole + 1)), "what is there is right at every moment"
        disk.answers.clear()
        assert writer.flush()
    writer.close()
    assert _steps(folder) == list(range(1, rows + 1))


def test_a_full_disk_warns_once_and_everything_is_there_when_it_has_room_again(
    tmp_path: Path,
) -> None:
    """A real limit of the kernel, in a process of its own: writes beyond it fail."""
    code = """
import resource, signal, sys; from pathlib import Path
from relight.metrics import writer as module
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
module.RETRY_S = 0.0
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
writer = module.MetricWriter(Path(sys.argv[1]), stream="train", attempt=1)
for step in range(1, 201):
    writer.log(step, {"loss": float(step)})
assert (Path(sys.argv[1]) / "0001-train.rlm").stat().st_size == 1000
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
writer.log(201, {"loss": 201.0})
writer.close()
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert _steps(tmp_path) == list(range(1, 202))
    assert done.stderr.count("cannot be written") == 1
    assert "Training continues" in done.stderr


def test_a_folder_that_cannot_be_made_warns_once_and_never_raises(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metrics").write_text("a file in its place")
    monkeypatch.setattr(writer_module, "RETRY_S", 0.0)
    with caplog.at_level(logging.WARNING):
        writer = MetricWriter(tmp_path / "metrics", stream="train", attempt=1)
        for step in range(1, 10):
            writer.log(step, {"loss": 0.1})
    assert len(caplog.records) == 1
    (tmp_path / "metrics").unlink()
    writer.log(10, {"loss": 0.1})
    writer.close()
    assert _steps(tmp_path / "metrics") == list(range(1, 11))


def test_memory_is_bounded_while_the_disk_takes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "BACKLOG_BYTES", 1000)
    disk = _Disk([None] * 10_000)
    monkeypatch.setattr(writer_module.os, "pwrite", disk.pwrite)
    writer = MetricWriter(tmp_path, stream="train", attempt=1)
    for step in range(1, 1000):
        writer.log(step, {"loss": 0.1})
    disk.answers.clear()
    writer.close()
    steps = _steps(tmp_path)
    assert steps == list(range(1, len(steps) + 1)), "the oldest are kept, whole"
    assert 30 < len(steps) < 60
    assert f"{999 - len(steps)} records were lost" in caplog.text


def test_a_torn_tail_is_ignored_by_readers(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path, stream="train", attempt=1)
    writer.log(1, {"loss": 1.0})
    writer.close()
    path = tmp_path / "0001-train.rlm"
    whole = path.read_bytes()
    for extra in range(1, 24):
        path.write_bytes(whole + b"\xff" * extra)
        assert read_records(path).steps.tolist() == [1]


def test_a_call_costs_microseconds(tmp_path: Path) -> None:
    writer = MetricWriter(tmp_path, stream="train", attempt=1)
    values = {"loss": 0.5, "lr": 0.1, "accuracy": 0.9}
    cost_s = min(timeit.repeat(lambda: writer.log(1, values), number=1000, repeat=5)) / 1000
    writer.close()
    assert cost_s < stretch(30e-6)


def test_a_new_name_in_every_step_keeps_few_files_open_and_loses_nothing(tmp_path: Path) -> None:
    def count_open() -> int:
        return len(list(Path("/proc/self/fd" if sys.platform == "linux" else "/dev/fd").iterdir()))

    before = count_open()
    writer = MetricWriter(tmp_path, stream="train", attempt=1)
    for step in range(200):
        writer.log(step, {f"loss{step}": 1.0})
        writer.log(step, {"loss": 2.0})
        writer.log(step, {f"again{step % 50}": 3.0})
    assert count_open() - before <= OPEN_FILES
    writer.close()
    assert count_open() == before
    assert len(list(tmp_path.iterdir())) == 200 + 1 + 50
    assert _steps(tmp_path) == list(range(200))
    assert _steps(tmp_path, "train/loss7") == [7]
    assert _steps(tmp_path, "train/again49") == [49, 99, 149, 199]


def test_a_name_that_a_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OddNames):
        MetricWriter(tmp_path, stream="train", attempt=1).log(1, {"\ud800": 1.0})
    assert list(tmp_path.iterdir()) == []
