"""What `run.evaluated` measures is filed under the step whose weights were evaluated, and decides what `best` is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from relight.metrics.series import read_series
from relight.runs.run_record import read_run_record
from tests.training.conftest import TrainedRun

pytestmark = pytest.mark.processes

SCRIPT = """
import sys
import torch
import relight

place, name, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])
run = relight.init(seed=0, checkpoint_every_s=0, **options)
model = torch.nn.Linear(1, 1, bias=False)
torch.nn.init.zeros_(model.weight)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
run.track(model=model, optimizer=optimizer)
values = [5.0, 3.0, 4.0]
for step in run.steps(12):
    model.weight.grad = -torch.ones(1, 1)  # the weight counts the steps
    optimizer.step()
    if place == "before" and step % 4 == 3:
        print("best so far:", run.evaluated({name: values[step // 4]}))
    if step == 9:
        run.step({"loss": None, "f1": "n/a", 5: 10**400, "": torch.ones(2), "\\ud800": 1j})
        run.log({"more": None})
    else:
        run.step(loss=step)
    if place == "after" and step % 4 == 3:
        print("best so far:", run.evaluated({name: values[step // 4], "other": None, "\\ud800": []}))
"""

Make = Callable[..., TrainedRun]


@pytest.mark.parametrize(
    ("place", "name", "options", "best", "said"),
    [
        ("before", "cross_entropy", "{}", 8, "with the lowest validation/cross_entropy"),
        ("after", "val/answer_f1", "{}", 4, "with the highest validation/val/answer_f1"),
        ("before", "certainty", "{}", 4, 'add higher_is_better=True or False to relight.init(best="certainty")'),
        ("after", "certainty", "{'higher_is_better': False}", 8, "with the lowest validation/certainty"),
        ("after", "val/f1", "{'best': 'val/f1'}", 4, "best so far: True"),
    ],
)
def test_the_best_checkpoint_has_the_weights_that_were_evaluated(
    make_script: Make, place: str, name: str, options: str, best: int, said: str
) -> None:
    run = make_script(SCRIPT, place, name, options)
    assert run.run() == 0, run.log
    assert said in run.log
    series = read_series(run.layout.metrics, f"validation/{name}")
    assert list(zip(series.steps.tolist(), series.values.tolist(), strict=True)) == [(4, 5.0), (8, 3.0), (12, 4.0)]
    run.wait_free()
    record = read_run_record(run.layout)
    assert record.direction_guessed == ("True or False" in said)
    found = run.store.find("best", objective=record.objective)
    assert found.step == best
    with run.store.open(found) as reader:
        assert bytes(reader.read("model.weight")) == torch.tensor([float(best)]).numpy().tobytes()


def test_bad_values_and_names_cost_a_warning_and_never_a_step(make_script: Make) -> None:
    run = make_script(SCRIPT, "after", "f1", "{}")
    assert run.run() == 0, run.log
    assert (run.outcome.outcome, run.outcome.step) == ("finished", 12)
    for warning in ("The metric 'f1' is 'n/a' (str)", "The metric '5' is 1000", "The metric 'unnamed' is a tensor"):
        assert run.log.count(warning) == 1
    assert len(read_series(run.layout.metrics, "train/loss").values) == 12
