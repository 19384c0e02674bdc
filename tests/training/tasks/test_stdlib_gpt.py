"""stdlib-gpt: every machine has its text, the windows cover all of it, and the loss falls."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from relight.errors import TaskError
from relight.tasks.stdlib_gpt_config import StdlibGptConfig, list_sources, stdlib_root
from relight.training.tasks import stdlib_gpt
from relight.training.tasks.stdlib_gpt import RandomWindows, StdlibGpt, Windows, read_corpus, stack_windows
from tests.training.tasks.bare_loop import train


def config(**changes: object) -> StdlibGptConfig:
    small = {"context": 64, "batch_size": 16, "samples_per_epoch": 1024, "validation_samples": 64, "warmup_steps": 10}
    return StdlibGptConfig(**{**small, **changes})


def test_it_learns_the_bytes_of_python() -> None:
    outcome = train(StdlibGpt(config(max_steps=60, lr=3e-3)))
    assert outcome.losses[0] > 5.0
    assert outcome.validation["loss"] < outcome.losses[0] - 2  # 2.8 to 3.1: each Python has another library
    assert outcome.validation["bits_per_byte"] == pytest.approx(outcome.validation["loss"] / math.log(2), rel=1e-5)
    assert 0.2 < outcome.validation["accuracy"] < 1


@pytest.mark.parametrize("size", ["mini", "small"])
def test_larger_sizes_train_as_well(size: str) -> None:
    outcome = train(StdlibGpt(config(size=size, max_steps=2, batch_size=2, context=16, validation_samples=2)))
    assert len(outcome.losses) == 2 and all(map(math.isfinite, outcome.losses))


def test_the_text_is_large_python_and_split_by_files() -> None:
    training, validation = read_corpus(stdlib_root())
    assert len(training) > 5_000_000
    assert 0.01 < len(validation) / len(training) < 0.15
    assert b"import " in bytes(training[:100_000]) and b"import " in bytes(validation[:100_000])


def test_sources_come_in_one_order_and_leave_out_what_differs_between_machines(tmp_path: Path) -> None:
    for name in ("b.py", "a/z.py", "a.py", "site-packages/x.py", "test/t.py", "a/__pycache__/q.py", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "_sysconfigdata__linux_x86_64-linux-gnu.py").write_text("paths = 'of this machine'\n")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [path.as_posix() for path in list_sources(tmp_path)] == ["a.py", "a/z.py", "b.py"]


def test_files_that_cannot_be_read_are_counted_and_named_as_such(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "good.py").write_bytes(b"\xff\x00 not even text\n" * 100)
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    with caplog.at_level(logging.INFO, logger="relight"):
        training, validation = read_corpus(tmp_path)
    assert len(training) + len(validation) == 1700
    assert "1 files of the standard library" in caplog.text


def test_a_python_without_sources_gets_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.py").write_text("x\n")
    monkeypatch.setattr(stdlib_gpt, "stdlib_root", lambda: tmp_path)
    with pytest.raises(TaskError, match="found only 2 bytes of Python source"):
        StdlibGpt(config()).build_data()


def test_validation_windows_are_spread_over_the_whole_text() -> None:
    text = np.arange(1000, dtype=np.uint16).astype(np.uint8)
    windows = Windows(text, context=9, count=100)
    assert len(windows) == 100
    assert windows[0].tolist() == list(range(10))
    assert windows[99].tolist() == text[-10:].tolist()
    assert all(len(windows[index]) == 10 for index in range(100))
    assert len(Windows(text, context=999, count=3)[2]) == 1000
    assert len(Windows(text, context=9, count=1)[0]) == 10


def test_random_windows_come_from_their_generator_alone_and_reach_both_ends() -> None:
    windows = RandomWindows(np.arange(12, dtype=np.uint8), context=9, count=5)
    seen = {int(windows.sample(0, torch.Generator().manual_seed(seed))[0]) for seed in range(50)}
    assert seen == {0, 1, 2}
    first, again = (windows.sample(3, torch.Generator().manual_seed(7)) for _ in range(2))
    assert first.tolist() == again.tolist()


def test_a_batch_is_bytes_and_its_targets_are_the_next_bytes() -> None:
    batch = stack_windows([np.arange(5, dtype=np.uint8), np.arange(5, 10, dtype=np.uint8)])
    assert batch.dtype == torch.uint8 and batch.shape == (2, 5)

    class Echo(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(tokens + 1, 256).float() * 100

    metrics = StdlibGpt(config()).step(Echo(), batch)
    assert metrics["accuracy"] == 1.0
    assert metrics["loss"] < 1e-6
