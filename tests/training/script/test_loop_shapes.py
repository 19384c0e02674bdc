"""Loops as people write them end as if they had not been killed, or the log says what a resume cannot enter.

Here each shape is killed at one kind of place; `tests/exactness/loop_matrix.py` kills each at all of them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import numpy as np
import pytest

from relight.metrics.series import read_series
from relight.runs.stop_request import request_stop
from tests.training.conftest import TrainedRun
from tests.training.script.loop_shapes import BEGIN, BLOCKS, COARSE, EXACT, FOREIGN, PIECES, WARNING

pytestmark = pytest.mark.processes

Make = Callable[..., TrainedRun]


@pytest.mark.parametrize("made", ["iter(loader)", "cycle(loader)"])
def test_a_batch_that_is_fetched_ahead_is_refused_at_the_first_step(make_script: Make, made: str) -> None:
    source = f"""
batches = {made}
ahead = next(batches)
for step in run.steps(12):
    loss = loss_of(*ahead)
    ahead = next(batches)
    move(loss)
"""
    run = make_script(BEGIN + source, "", "0")
    assert run.run() == 1, run.log
    assert "A batch of 'loader1' was fetched before the loop" in run.log
    assert run.step == 0


AHEAD = "this step draws the batch of the next one, and a resume cannot restore it"


@pytest.mark.parametrize("inside", ["", "    for _ in range(1):\n    "])
def test_a_batch_that_is_drawn_ahead_without_a_loader_is_named_at_the_first_step(
    make_script: Make, inside: str
) -> None:
    source = f"""
def get_batch(size):
    return data[torch.randint(40, (size,))]

x, y = get_batch(8)
for step in run.steps(3):
{inside}    loss = loss_of(x, y)
{inside and "    "}    x, y = get_batch(8)
    loss.backward()
    move(loss)
"""
    run = make_script(BEGIN + source, "", "0")
    assert run.run() == 0, run.log
    said = [line for line in run.log.splitlines() if AHEAD in line]
    assert len(said) == 1
    assert "`x, y = get_batch(8)`: " in said[0]
    number = int(said[0].split("line ")[1].split(":")[0])
    assert (BEGIN + source).splitlines()[number - 1].strip() == "x, y = get_batch(8)"


def test_a_batch_that_each_step_draws_for_itself_raises_no_doubt(make_script: Make) -> None:
    source = """
def get_batch():
    return data[torch.randint(40, (8,))]

x, y = get_batch()
print(model(x).shape)
for step in run.steps(3):
    x, y = get_batch()
    train((x, y))
"""
    run = make_script(BEGIN + source, "", "0")
    assert run.run() == 0, run.log
    assert AHEAD not in run.log


def test_batches_that_itertools_repeats_are_noticed_when_the_first_pass_ends(make_script: Make) -> None:
    source = "batches = itertools.cycle(loader)\nfor step in run.steps(12):\n    train(next(batches))\n"
    run = make_script(BEGIN + source, "", "0")
    assert run.run() == 0, run.log
    assert run.log.count("Use a generator with `while True: yield from loader`") == 1


@pytest.mark.parametrize(
    ("loops", "named"),
    [
        (
            """
batches = cycle(plain)
for step in run.steps(6):
    train(next(batches))
""",
            "        for batch in loader:",
        ),
        (
            """
for epoch in run.epochs(2):
    batches = iter(plain)
    for step in run.steps(3):
        train(next(batches))
""",
            "        train(next(batches))",
        ),
        (
            """
more = iter(plain)
for epoch in run.epochs(1):
    for batch in loader:
        next(more)
        train(batch)
""",
            "        next(more)",
        ),
    ],
)
def test_a_loader_that_feeds_the_steps_and_is_not_relights_is_named_at_the_second_step(
    make_script: Make, loops: str, named: str
) -> None:
    source = BEGIN + "plain = DataLoader(data, batch_size=8, shuffle=True)\n" + loops
    run = make_script(source, "", "0")
    assert run.run() == 0, run.log
    said = [line for line in run.log.splitlines() if FOREIGN in line]
    assert len(said) == 1
    assert f"a run.py, line {source.splitlines().index(named) + 1}: " in said[0]


def assert_ends_as_undisturbed(make_script: Make, source: str, *options: str, deaths: tuple[str, ...]) -> TrainedRun:
    twin = make_script(source, *options, name="twin")
    assert twin.run() == 0, twin.log
    run = make_script(source, *options, *deaths)
    assert run.run() == -signal.SIGKILL, run.log
    for _ in deaths[1:]:
        assert run.resume() == -signal.SIGKILL, run.log
    assert run.resume() == 0, run.log
    for name in ("train/loss", "validation/accuracy"):
        ours, theirs = (read_series(one.layout.metrics, name) for one in (run, twin))
        assert ours.steps.tolist() == theirs.steps.tolist(), name
        np.testing.assert_array_equal(ours.values, theirs.values)
    assert run.final_digest() == twin.final_digest()
    return run


@pytest.mark.parametrize(
    ("shape", "place", "workers"),
    [
        (shape, place, workers)
        for number, shape in enumerate(EXACT)
        for place, workers in [
            (("before the update", "after the update", "after the edge")[number % 3], "02"[number % 4 == 1])
        ]
    ],
)
def test_a_loop_killed_twice_in_one_epoch_ends_as_if_it_had_not_been(
    make_script: Make, shape: str, place: str, workers: str
) -> None:
    run = assert_ends_as_undisturbed(make_script, BEGIN + EXACT[shape], place, workers, deaths=("7", "8"))
    said = run.layout.attempt(1).log.read_text() + run.log
    assert not any(doubt in said for doubt in (WARNING, FOREIGN, AHEAD))


@pytest.mark.parametrize("shape", COARSE)
def test_a_loop_that_no_resume_can_enter_is_named_at_once_and_resumes_between_epochs(
    make_script: Make, shape: str
) -> None:
    source, named = COARSE[shape]
    run = assert_ends_as_undisturbed(make_script, BEGIN + source, "after the edge", "0", deaths=("6", "7"))
    log = run.layout.attempt(1).log.read_text()
    assert log.count(WARNING) == 1
    line = next(line for line in log.splitlines() if WARNING in line)
    assert named in line and ".py, line " in line


@pytest.mark.parametrize(
    "shape",
    ["the plain loop", "an endless generator made before the loop", "a rate that is set at the top of each step"],
)
def test_a_training_stopped_before_its_first_step_resumes_from_step_0(make_script: Make, shape: str) -> None:
    twin = make_script(BEGIN + EXACT[shape], "", "0", name="twin")
    assert twin.run() == 0, twin.log
    run = make_script(BEGIN + EXACT[shape], "", "0")
    trainer = run.start()
    request_stop(run.layout)  # long before it has imported what it needs
    assert trainer.wait(60) == 130, run.log
    assert [info.step for info in run.checkpoints()] == [0]
    assert run.resume() == 0, run.log
    assert run.final_digest() == twin.final_digest()


@pytest.mark.parametrize(
    "shape",
    [pytest.param(shape, marks=[pytest.mark.thorough] if number % 5 else []) for number, shape in enumerate(EXACT)],
)
def test_a_resume_that_is_stopped_at_once_has_the_very_state_of_its_checkpoint(make_script: Make, shape: str) -> None:
    run = make_script(BEGIN + EXACT[shape], "after the update", "0", "7")
    assert run.run() == -signal.SIGKILL, run.log
    before = run.checkpoints()[-1]
    trainer = run.start(reason="resume")
    request_stop(run.layout)  # long before it has imported what it needs
    assert trainer.wait(60) == 130, run.log
    after = run.checkpoints()[-1]
    assert (after.step, after.attempt) == (before.step, 2)
    assert run.store.digest(after) == run.store.digest(before)


def test_a_resume_from_the_best_checkpoint_of_step_0_keeps_what_the_first_step_has_set(make_script: Make) -> None:
    source = BEGIN + EXACT["a rate that is set at the top of each step"]
    run = assert_ends_as_undisturbed(make_script, source, "after the update", "0", deaths=("0", "1"))
    assert "Resumed from step 0." in run.layout.attempt(2).log.read_text()


def test_a_default_device_and_type_of_the_script_do_not_reach_what_relight_reads(make_script: Make) -> None:
    source = """
torch.set_default_device("meta")  # stands for a GPU: a tensor there cannot be read into
torch.set_default_dtype(torch.float64)
own = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
run.track(own=own, total=(total := torch.zeros(3, device="cpu")), seen={})
for epoch in run.epochs(3):
    for x, y in loader:
        loss_of(x, y).backward()
        own.step()
        own.zero_grad()
        total += 0.1
        die("after the update")
        run.step(loss=0.5)
    run.evaluated(accuracy=0.5)
"""
    assert_ends_as_undisturbed(make_script, BEGIN + source, "after the update", "0", deaths=("7", "8"))


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_loop_of_the_guide_is_exact_as_it_is_written(make_script: Make, number: int) -> None:
    assert len(BLOCKS) >= 7
    run = assert_ends_as_undisturbed(
        make_script, BEGIN + PIECES + BLOCKS[number], "after the update", "0", deaths=("7", "8")
    )
    assert WARNING not in run.log
