"""A run that is killed at any moment and resumed ends with exactly the state that it would have had."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from relight.metrics.series import read_series

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    ("data", "workers", "accumulate"),
    [("jittered", 0, 1), ("jittered", 2, 1), ("drawn", 2, 3), ("tensors", 0, 3)],
)
def test_a_killed_and_resumed_run_has_the_state_of_an_uninterrupted_one(
    make_run: Callable, data: str, workers: int, accumulate: int
) -> None:
    config = {"data": data, "accumulate": accumulate, "epochs": 4}
    twin = make_run("twin", **config)
    assert twin.run() == 0, twin.log

    run = make_run("killed", **config, workers=workers, step_s=0.02)
    generator = random.Random(f"{data}{workers}{accumulate}")
    step = 0
    for attempt in range(3):
        run.start(reason="resume" if attempt else "launch")
        run.wait_until(lambda: run.progress is not None and run.progress.started_s > 0)
        step = min(run.step + generator.randint(1, 6), 9)
        run.wait_for_step(step)
        run.kill()
    assert run.resume() == 0, run.log
    # The runs have different pauses in their configs. The config is not part of the state, so the digests are equal.
    assert run.final_digest() == twin.final_digest()

    for name in ("train/loss", "train/lr", "validation/loss", "validation/accuracy"):
        ours, theirs = read_series(run.layout.metrics, name), read_series(twin.layout.metrics, name)
        assert ours.steps.tolist() == theirs.steps.tolist()
        np.testing.assert_array_equal(ours.values, theirs.values)


def test_a_run_killed_inside_validation_repeats_it_and_shows_it_once(make_run: Callable) -> None:
    twin = make_run("twin")
    assert twin.run() == 0, twin.log

    run = make_run("killed", validation_s=0.2)
    run.start()
    run.wait_until(lambda: run.progress is not None and run.progress.phase == "validating")
    run.kill()
    assert run.resume() == 0, run.log

    assert run.final_digest() == twin.final_digest()
    ours, theirs = (read_series(one.layout.metrics, "validation/accuracy") for one in (run, twin))
    assert ours.steps.tolist() == theirs.steps.tolist() == [8, 16, 24]
    np.testing.assert_array_equal(ours.values, theirs.values)
