"""A loss that becomes NaN or infinite is noticed with its step, on the main line, at no cost while all is well."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import pytest

from relight.metrics import series
from relight.overview import non_finite
from relight.overview.non_finite import NonFinite, notice_non_finite, trace_non_finite
from relight.overview.summary import summarize_run
from tests.opened_files import count_reads
from tests.runs.run_builder import RunBuilder, dead_process

NAN = math.nan


def _train(folder: Path, losses: Iterable[float], *, checkpoints: Iterable[int] = ()) -> RunBuilder:
    run = RunBuilder.create(folder).start().processes(dead_process(), dead_process())
    run.log("train", {step: {"loss": loss, "lr": 0.1} for step, loss in enumerate(losses, 1)})
    for sequence, step in enumerate(checkpoints, 1):
        run.checkpoint(sequence, step)
    return run


def _trace(run: RunBuilder) -> NonFinite | None:
    return summarize_run(run.layout).non_finite


def test_it_names_the_first_bad_step_and_the_checkpoint_whose_weights_still_gave_a_finite_loss(tmp_path: Path) -> None:
    run = _train(tmp_path, [3, 2, 1, NAN, NAN], checkpoints=[1, 2, 3, 4])
    # The loss of step 3 was computed with the weights of step 2: those of step 3 may be bad already.
    assert _trace(run) == NonFinite(metric="train/loss", value="nan", since_step=4, last_finite_step=3, healthy_step=2)
    sentence = "train/loss is NaN since step 4. The last healthy checkpoint is at step 2."
    assert sentence in summarize_run(run.layout).notes


def test_a_validation_judges_the_weights_of_its_own_step(tmp_path: Path) -> None:
    run = _train(tmp_path, [3, 2, 1], checkpoints=[1, 2, 3])
    run.log("validation", {1: {"accuracy": 0.5}, 2: {"accuracy": 0.6}, 3: {"accuracy": NAN}})
    found = _trace(run)
    assert found is not None
    assert (found.metric, found.since_step, found.healthy_step) == ("validation/accuracy", 3, 2)


@pytest.mark.parametrize("losses", [[3, 2, 1], [3, NAN, 1], [], [NAN, 1]])
def test_a_finite_or_recovered_loss_is_nothing(tmp_path: Path, losses: list[float]) -> None:
    assert _trace(_train(tmp_path, losses)) is None


def test_without_any_finite_value_there_is_no_healthy_checkpoint(tmp_path: Path) -> None:
    found = _trace(_train(tmp_path, [math.inf, math.inf], checkpoints=[1]))
    assert found is not None
    assert (found.value, found.since_step, found.last_finite_step, found.healthy_step) == ("inf", 1, None, None)
    assert found.sentence == "train/loss is infinite since step 1, and no checkpoint is from before that."


def test_the_main_line_counts_over_attempts_and_not_what_will_be_trained_again(tmp_path: Path) -> None:
    run = _train(tmp_path, [3, 2, 1, NAN, NAN, NAN, NAN], checkpoints=[2])
    run.start(from_step=2).log("train", {3: {"loss": 1.0, "lr": 0.1}})
    assert _trace(run) is None
    run.start(from_step=3).log("train", {4: {"loss": NAN, "lr": 0.1}, 5: {"loss": -math.inf, "lr": 0.1}})
    found = _trace(run)
    assert found is not None
    assert (found.value, found.since_step, found.last_finite_step) == ("-inf", 4, 3)


def test_good_steps_that_will_be_trained_again_do_not_hide_a_bad_one(tmp_path: Path) -> None:
    run = _train(tmp_path, [3, 2, 1, 1, 1, 1], checkpoints=[2])
    run.start(from_step=2).log("train", {3: {"loss": NAN, "lr": 0.1}, 4: {"loss": NAN, "lr": 0.1}})
    found = _trace(run)
    assert found is not None
    assert (found.since_step, found.last_finite_step) == (3, 2)


def test_what_becomes_bad_first_is_named(tmp_path: Path) -> None:
    run = _train(tmp_path, [3, 2, NAN, NAN])
    run.log("validation", {2: {"accuracy": NAN}, 4: {"accuracy": NAN}})
    found = _trace(run)
    assert found is not None
    assert (found.metric, found.since_step) == ("validation/accuracy", 2)


def test_only_losses_of_the_training_and_the_best_metric_count() -> None:
    harmless = {"train/grad_norm": math.inf, "train/lossless": NAN, "validation/loss": NAN, "system/loss": NAN}
    assert notice_non_finite(harmless, "validation/accuracy") is None
    for name in ("train/loss", "train/ce_loss", "train/Loss2", "train/loss/total", "train/ppl"):
        found = notice_non_finite({**harmless, name: NAN}, None)
        assert found is not None
        assert (found.metric, found.since_step, found.sentence) == (name, None, f"{name} is NaN.")


def test_a_list_says_only_which_metric_it_is(tmp_path: Path) -> None:
    run = _train(tmp_path, [1, NAN])
    assert summarize_run(run.layout, traceback=False).non_finite == NonFinite(metric="train/loss", value="nan")


def test_while_all_is_finite_nothing_is_read_and_later_only_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _train(tmp_path, [3.0] * 50)
    with count_reads(tmp_path) as reads:
        assert trace_non_finite(run.layout, {"train/loss": 3.0}, "train/loss") is None
    assert not reads
    bad = _train(tmp_path, [*[3.0] * 50, *[NAN] * 50])
    found = _trace(bad)
    assert found is not None

    def refuse(*_: object) -> None:
        raise AssertionError("the whole metric was read again")

    monkeypatch.setattr(series, "read_series", refuse)
    assert _trace(bad) == found
    rows = {step: {"loss": NAN, "lr": 0.1} for step in range(101, 110)}
    _append(bad, rows)
    assert _trace(bad) == found
    monkeypatch.undo()
    _append(bad, {110: {"loss": 1.0, "lr": 0.1}, 111: {"loss": NAN, "lr": 0.1}})
    again = _trace(bad)
    assert again is not None
    assert (again.since_step, again.last_finite_step) == (111, 110)


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(non_finite, "_REMEMBERED", 3)
    monkeypatch.setattr(non_finite, "_seen", {})
    for place in range(8):
        assert _trace(_train(tmp_path / str(place), [1, NAN])) is not None
    assert len(non_finite._seen) <= 3


def _append(run: RunBuilder, rows: dict[int, dict[str, float]]) -> None:
    """Append records to the newest attempt's file, as its trainer does."""
    import struct

    (file,) = run.layout.metrics.glob("0001-train.rlm")
    with file.open("ab") as appended:
        for step, values in rows.items():
            appended.write(struct.pack(f"<qd{len(values)}d", step, 0.0, *values.values()))
