"""Work at risk: what would be lost now, and for a dead run what was lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.overview.work_at_risk import UNPACED_LIMIT_S, WorkAtRisk, limit_risk, measure_work_at_risk
from relight.runs.evidence import Evidence
from relight.runs.layout import RunLayout
from relight.runs.progress import Progress
from relight.runs.records import AttemptStart, Pace, SavingState

NOW = 1000.0


def _progress(step: int, *, first_step: int = 0, time_s: float = 990.0, started_s: float = 900.0) -> Progress:
    return Progress(step=step, first_step=first_step, time_s=time_s, started_s=started_s, steps_per_s=1.0)


def _measure(
    progress: Progress | None,
    saving: SavingState | None = None,
    *,
    newest: int | None = None,
    from_step: int = 0,
    live: bool = True,
) -> WorkAtRisk:
    evidence = Evidence(
        layout=RunLayout(Path("run")),
        now_s=NOW,
        launched_s=0.0,
        start=AttemptStart(attempt=1, time_s=0.0, reason="launch", from_step=from_step),
        progress=progress,
        saving=saving,
    )
    return measure_work_at_risk(evidence, newest_step=newest, live=live)


def _saved(step: int, time_s: float) -> SavingState:
    return SavingState(time_s=time_s + 1, durable_step=step, durable_time_s=time_s)


def test_before_the_first_checkpoint_everything_is_at_risk() -> None:
    assert _measure(_progress(90)) == WorkAtRisk(90, None, 90, 100.0)


def test_a_durable_step_edge_counts_from_when_it_was_not_from_when_it_became_durable() -> None:
    assert _measure(_progress(90), _saved(50, 950.0), newest=50) == WorkAtRisk(90, 50, 40, 50.0)


def test_for_a_dead_run_it_is_what_was_lost_and_grows_no_more() -> None:
    assert _measure(_progress(90), _saved(50, 950.0), newest=50, live=False) == WorkAtRisk(90, 50, 40, 40.0)


def test_a_checkpoint_at_the_last_step_edge_means_nothing_was_lost() -> None:
    assert _measure(_progress(90), _saved(50, 950.0), newest=90, live=False) == WorkAtRisk(90, 90, 0, 0.0)


def test_a_checkpoint_that_the_writer_finished_alone_is_dated_by_the_rate() -> None:
    assert _measure(_progress(90), _saved(50, 950.0), newest=80, live=False) == WorkAtRisk(90, 80, 10, 10.0)


def test_after_a_resume_only_this_attempts_steps_are_at_risk() -> None:
    assert _measure(_progress(510, first_step=500), newest=500, from_step=500) == WorkAtRisk(510, 500, 10, 100.0)


def test_after_a_resume_from_an_older_checkpoint_the_newest_one_saves_nothing_of_this_line() -> None:
    risk = _measure(_progress(210, first_step=200), newest=500, from_step=200)
    assert (risk.durable_step, risk.steps) == (200, 10)


def test_a_checkpoint_newer_than_a_progress_that_a_power_cut_ate_counts() -> None:
    risk = _measure(_progress(40), _saved(50, 950.0), newest=50, live=False)
    assert (risk.step, risk.durable_step, risk.steps) == (50, 50, 0)


def test_before_the_first_step_of_an_attempt_nothing_is_at_risk() -> None:
    assert _measure(None, newest=500, from_step=500) == WorkAtRisk(500, 500, 0, 0.0)
    assert _measure(Progress(step=500, first_step=500), newest=500, from_step=500) == WorkAtRisk(500, 500, 0, 0.0)


def test_a_checkpoint_that_was_removed_by_hand_does_not_count() -> None:
    assert _measure(_progress(90), _saved(50, 950.0), newest=None).durable_step is None


STEPS = st.integers(0, 1000)


@given(
    progress=st.none() | st.builds(_progress, STEPS, time_s=st.floats(0, 2000), started_s=st.floats(0, 2000)),
    saving=st.none() | st.builds(_saved, STEPS, st.floats(0, 2000)),
    newest=st.none() | STEPS,
    from_step=STEPS,
    live=st.booleans(),
)
def test_the_figures_always_add_up(
    progress: Progress | None, saving: SavingState | None, newest: int | None, from_step: int, live: bool
) -> None:
    risk = _measure(progress, saving, newest=newest, from_step=from_step, live=live)
    assert risk.seconds >= 0
    assert risk.steps == max(0, risk.step - (risk.durable_step or 0))
    assert risk.durable_step in (None, newest, from_step)


def test_seconds_need_no_rate() -> None:
    progress = Progress(step=90, time_s=990.0, started_s=0.0)
    assert _measure(progress, newest=80).seconds == 0.0
    assert _measure(_progress(90), newest=80).seconds == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("pace", "limit_s"),
    [
        (Pace(reason="loss", interval_s=290.0, at_risk_s=300.0), 300.0),
        (Pace(reason="balance", interval_s=30.0, at_risk_s=31.0), 300.0),
        (Pace(reason="balance", interval_s=30.0, at_risk_s=31.0, max_loss_s=60.0), 60.0),
        (Pace(reason="loss", interval_s=400.0, at_risk_s=830.0), 830.0),
        (Pace(reason="first", interval_s=20.0, at_risk_s=20.0), 300.0),
        (Pace(reason="fixed", interval_s=30.0, at_risk_s=33.0), 66.0),
        (Pace(reason="fixed", every_steps=50), 300.0),
        (Pace(reason="off"), 300.0),
        (None, UNPACED_LIMIT_S),
    ],
)
def test_work_at_risk_deserves_a_warning_beyond_what_was_promised_or_planned(pace: Pace | None, limit_s: float) -> None:
    assert limit_risk(SavingState(time_s=0.0, pace=pace)) == limit_s
    assert limit_risk(None) == UNPACED_LIMIT_S
