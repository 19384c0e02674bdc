"""The scripts in examples/ are plain loops with at most five added lines, and resume bit for bit after kill -9."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from relight.checkpoints.export import export_weights
from relight.drill.comparison import compare_runs
from tests.training.conftest import TrainedRun

pytestmark = pytest.mark.processes

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
TINY = {
    "mnist_style.py": ["--epochs", "2", "--batch-size", "100"],
    "gpt_style.py": [
        "--max-iters", "24", "--eval-interval", "6", "--eval-iters", "2", "--batch-size", "4", "--block-size", "16",
        "--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--warmup-iters", "4",
    ],
    "gan.py": ["--epochs", "2", "--batch-size", "128"],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(TINY))
def test_an_example_has_at_most_five_added_lines(name: str) -> None:
    added = [line for line in (EXAMPLES / name).read_text().splitlines() if line.endswith("# relight")]
    assert 3 <= len(added) <= 5


@pytest.mark.parametrize("name", sorted(TINY))
def test_an_example_killed_in_mid_epoch_ends_like_the_one_that_was_not(
    make_script: Callable[..., TrainedRun], tmp_path: Path, name: str
) -> None:
    every = {"relight.checkpoint_every_steps": 2, "relight.checkpoint_every_s": 0}
    twin = make_script(EXAMPLES / name, *TINY[name], name="twin", **every)
    assert twin.run() == 0, twin.log
    run = make_script(EXAMPLES / name, *TINY[name], **every)
    run.start()
    run.wait_until(lambda: run.step >= 3 and len(run.checkpoints_now()) > 0)
    run.kill()
    start = run.checkpoints()[-1].step
    assert run.resume() == 0, run.log
    assert f"Resumed from step {start}." in run.log
    assert run.final_digest() == twin.final_digest(), compare_runs(run.layout, twin.layout)
    out = export_weights(run.store, run.checkpoints()[-1], tmp_path / "weights.safetensors")
    card = json.loads(out.card.read_text())
    assert card["tensors"] == out.tensors > 0


@pytest.mark.parametrize("name", sorted(TINY))
def test_a_resume_from_the_final_checkpoint_ends_the_same(make_script: Callable[..., TrainedRun], name: str) -> None:
    """A kill may come between the final checkpoint and the record that the training has finished."""
    run = make_script(EXAMPLES / name, *TINY[name])
    assert run.run() == 0, run.log
    last, digest = run.checkpoints()[-1], run.final_digest()
    assert run.run(reason="resume", from_sequence=last.sequence, from_step=last.step) == 0, run.log
    assert run.checkpoints()[-1].sequence > last.sequence
    assert run.final_digest() == digest


@pytest.mark.thorough
def test_a_resume_from_each_checkpoint_of_an_example_ends_the_same(make_script: Callable[..., TrainedRun]) -> None:
    name = "gpt_style.py"
    every = {"relight.checkpoint_every_steps": 1, "relight.checkpoint_every_s": 0, "relight.keep_latest": 100}
    twin = make_script(EXAMPLES / name, *TINY[name], name="twin", **every, **{"relight.keep_best": 20})
    assert twin.run() == 0, twin.log
    infos = twin.checkpoints()[:-1]
    assert infos[0].step == 0
    for info in infos:
        run = make_script(EXAMPLES / name, *TINY[name], name=f"from {info.sequence}")
        shutil.rmtree(run.layout.folder)
        shutil.copytree(twin.layout.folder, run.layout.folder)
        assert run.run(reason="resume", from_sequence=info.sequence, from_step=info.step) == 0, run.log
        assert run.final_digest() == twin.final_digest(), info
