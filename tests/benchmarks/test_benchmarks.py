"""The benchmark scripts start, measure something, and report it; what they measure is judged by people."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.compiler import with_compiler
from tests.patience import stretch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in BENCHMARKS.glob("*.py"))


def run(script: str, *arguments: str, cwd: Path, compiler: bool = False) -> str:
    result = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=240, check=False,
        env=with_compiler(os.environ) if compiler else None,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_benchmark_explains_itself(script: str, tmp_path: Path) -> None:
    assert "--results" in run(script, "--help", cwd=tmp_path)


def test_a_result_is_written_under_its_date_and_nothing_else_is_left(tmp_path: Path) -> None:
    printed = run("list_runs.py", "--runs", "3", "--repeats", "2", "--results", "results", cwd=tmp_path)
    (page,) = (tmp_path / "results").glob("20??-??-??-list_runs.md")
    assert page.read_text() in printed
    record = json.loads(page.with_suffix(".json").read_text())
    assert record["data"]["runs"] == 3 and record["machine"]["python"] == sys.version.split()[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


@pytest.mark.thorough
def test_saving_is_measured_beside_every_peer(tmp_path: Path) -> None:
    printed = run("checkpoint_save.py", "--size-mb", "2", "--rounds", "1", "--dry", cwd=tmp_path)
    for way in ("Relight: writer process", "torch.save", "safetensors.save_file", "torch.distributed", "O_DIRECT"):
        assert way in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_saving_a_split_model_is_measured_beside_every_peer(tmp_path: Path) -> None:
    options = ["--size-mb", "2", "--rounds", "1", "--folder", str(tmp_path), "--dry"]
    printed = run("sharded_save.py", *options, cwd=tmp_path, compiler=True)  # DTensor needs it
    for way in ("**Relight**", "torch.distributed.checkpoint.save", "O_DIRECT, one process", "each rank half"):
        assert way in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_the_cost_of_a_checkpoint_is_measured_in_both_loops_beside_every_peer(tmp_path: Path) -> None:
    options = ["--size", "tiny", "--rounds", "1", "--steps", "2", "--warm-up", "1", "--dry"]
    printed = run("checkpoint_cost.py", *options, cwd=tmp_path)
    assert "## busy," in printed and "## half-idle," in printed
    for way in ("**Relight**", "nothing", "torch.save", "safetensors.save_file", "DCP async_save", "Lightning"):
        assert printed.count(f"| {way}") == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_benchmark_that_a_signal_ends_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    options = ["--size", "tiny", "--rounds", "1000", "--way", "relight", "--dry", "--folder", str(tmp_path)]
    script = str(BENCHMARKS / "checkpoint_cost.py")
    with subprocess.Popen([sys.executable, script, *options], cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + stretch(60)
        while not list(tmp_path.glob("relight-cost-*/relight/manifests/*")):
            assert process.poll() is None and time.monotonic() < deadline, "it does not save"
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(stretch(60)) != 0
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_a_comparison_is_measured_over_http(tmp_path: Path) -> None:
    printed = run("compare_runs.py", "--runs", "2", "--steps", "50", "--repeats", "1", "--dry", cwd=tmp_path)
    assert all(f"| {what} |" in printed for what in ("first", "changed", "again"))
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
@pytest.mark.processes
def test_resuming_is_compared_with_an_uninterrupted_training(tmp_path: Path) -> None:
    printed = run("exactness.py", "--way", "relight", "--dry", cwd=tmp_path)
    assert "| Relight | **bit-exact** | **bit-exact** |" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
@pytest.mark.processes
def test_loops_are_measured_in_turns(tmp_path: Path) -> None:
    options = ["--rounds", "1", "--threads", "1", "--workload", "one-layer", "--dry"]
    printed = run("loop_overhead.py", *options, cwd=tmp_path)
    assert all(f"| {loop} |" in printed for loop in ("bare", "relight", "lightning"))


@pytest.mark.thorough
def test_loading_space_and_memory_are_measured(tmp_path: Path) -> None:
    printed = run("checkpoint_load.py", "--size-mb", "2", "--rounds", "1", "--dry", cwd=tmp_path)
    assert all(way in printed for way in ("Relight: every digest compared", "torch.load", "safetensors.load_file"))
    printed = run("checkpoint_space.py", "--size-mb", "2", "--rounds", "2", "--dry", cwd=tmp_path)
    assert all(way in printed for way in ("bytes that differ", "| Relight |", "Relight: commit", "AdamW"))
    printed = run("checkpoint_memory.py", "--size-mb", "2", "--rounds", "1", "--dry", cwd=tmp_path)
    assert "beyond, at its highest" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_two_ranks_are_measured_beside_torchrun_alone(tmp_path: Path) -> None:
    printed = run("ranks.py", "--rounds", "1", "--width", "8", "--batch", "8", "--dry", cwd=tmp_path)
    for way in ("| torchrun alone", "| **Relight**", "| the question alone"):
        assert way in printed
    assert not list(tmp_path.iterdir())
