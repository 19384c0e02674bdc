"""One sentence says how often checkpoints are made and why, the same in every place that shows it."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from relight.overview.pacing_report import explain_pace, report_pacing
from relight.overview.summary import summarize_run
from relight.overview.summary_wording import word_risk
from relight.runs.layout import RunLayout
from relight.runs.record_file import write_record
from relight.runs.records import Pace, PaceReason, SavingState
from tests.cli.conftest import Ask, RunMaker

GB = 1_000_000_000


def _pace(reason: PaceReason, interval_s: float | None, cost_s: float | None = 1.3, **more: Any) -> Pace:
    facts = {"durable_s": 3.0, "step_s": 0.5, "at_risk_s": interval_s and interval_s + 4.8, "checkpoint_bytes": 1_000}
    return Pace(**{**facts, "reason": reason, "interval_s": interval_s, "cost_s": cost_s, **more})


@pytest.mark.parametrize(
    ("pace", "sentence"),
    [
        (
            _pace("balance", 130.0, 0.092),
            "Every 2 min 10 s: a checkpoint costs 92 ms of training, 0.071 % of your time.",
        ),
        (
            _pace("overhead", 130.0),
            "Every 2 min 10 s: a checkpoint costs 1.3 s of training, 1 % of your time; more often would exceed "
            "max_overhead.",
        ),
        (
            _pace("bytes", 648.0, checkpoint_bytes=1.5 * GB, bytes_a_day=200.0 * GB),
            "Every 10 min 48 s: a checkpoint costs 1.3 s of training, 0.2 % of your time, and writes 200 GB a day; "
            "more often would exceed the 200 GB a day that the disk is made for.",
        ),
        (
            _pace("loss", 295.0, checkpoint_bytes=1.5 * GB),
            "Every 4 min 55 s, so that at most 5 min are at risk: a checkpoint costs 1.3 s of training, 0.44 % of "
            "your time, and writes 439 GB a day.",
        ),
        (
            _pace("loss", 160.0, 30.0, at_risk_s=300.0, checkpoint_bytes=1.5 * GB, bytes_a_day=84.0 * GB),
            "Every 2 min 40 s, so that at most 5 min are at risk: a checkpoint costs 30 s of training, 19 % of your "
            "time, and writes 810 GB a day; that is more than the 1 % of max_overhead and the 84 GB a day that the "
            "disk is made for: a larger max_loss_s saves less often.",
        ),
        (
            _pace("loss", 400.0, 30.0, at_risk_s=830.0, durable_s=400.0),
            "Every 6 min 40 s, as fast as possible: up to 13 min 50 s are at risk, more than max_loss_s, since a "
            "checkpoint takes 6 min 40 s to become durable.",
        ),
        (
            _pace("loss", 3.0, at_risk_s=607.0, step_s=600.0),
            "Every 3.0 s, as fast as possible: up to 10 min 7 s are at risk, more than max_loss_s, since a step takes "
            "10 min.",
        ),
        (_pace("balance", 93.0, None), "Every 1 min 33 s, until the cost of a checkpoint is measured."),
        (_pace("first", 20.0, None), "The first checkpoint is made after 20 s; its cost then decides how often."),
        (
            _pace("fixed", 30.0),
            "Every 30 s, as checkpoint_every_s says: a checkpoint costs 1.3 s of training, 4.3 % of your time.",
        ),
        (_pace("fixed", 30.0, None), "Every 30 s, as checkpoint_every_s says."),
        (
            _pace("fixed", 50.0, every_steps=500),
            "Every 500 steps, as checkpoint_every_steps says: a checkpoint costs 1.3 s of training, 2.6 % of your "
            "time.",
        ),
        (_pace("fixed", None, None, every_steps=1), "Every step, as checkpoint_every_steps says."),
        (
            _pace("fixed", 30.0, None, every_steps=500, every_s=30.0),
            "Every 30 s and every 500 steps, as checkpoint_every_s and checkpoint_every_steps say.",
        ),
        (_pace("off", None), "Checkpoints at regular times are off (checkpoint_every_s=0)."),
    ],
)
def test_the_sentence(pace: Pace, sentence: str) -> None:
    assert explain_pace(pace) == sentence


def _record(layout: RunLayout, *, durable_ago_s: float, pace: Pace) -> None:
    saving = SavingState(
        time_s=time.time(), durable_step=20, durable_time_s=time.time() - durable_ago_s, spent_s=2.6, pace=pace
    )
    write_record(layout.attempt(1).saving, saving)


def test_show_says_it_and_its_json_has_the_figures(ask: Ask, make_run: RunMaker) -> None:
    layout = make_run(outcome=None, step=23)
    pace = _pace("overhead", 130.0, failure_every_s=3_600.0)
    _record(layout, durable_ago_s=1.0, pace=pace)
    sentence = explain_pace(pace)
    assert f"checkpoints  {sentence}" in re.sub(" {2,}", "  ", ask("show", layout.run_id).stdout)
    shown = ask("show", layout.run_id, "--json").json["pacing"]
    assert shown == {
        "sentence": sentence,
        "reason": "overhead",
        "interval_s": 130.0,
        "every_steps": None,
        "cost_s": 1.3,
        "overhead": 0.01,
        "spent_s": 2.6,
        "durable_s": 3.0,
        "at_risk_limit_s": 300.0,
        "bytes_a_day": pytest.approx(664_615, rel=1e-3),
        "failure_every_s": 3_600.0,
    }


def test_work_at_risk_beyond_the_budget_is_called_so(make_run: RunMaker) -> None:
    layout = make_run(outcome=None, step=23)
    _record(layout, durable_ago_s=290.0, pace=_pace("loss", 295.0, at_risk_s=300.0))
    assert "planned" not in word_risk(summarize_run(layout))
    _record(layout, durable_ago_s=330.0, pace=_pace("loss", 295.0, at_risk_s=300.0))
    assert word_risk(summarize_run(layout)) == "3 steps, 5 min 30 s: more than the 5 min that was planned"


def test_a_run_of_an_older_version_has_no_report() -> None:
    assert report_pacing(None) is None
    assert report_pacing(SavingState(time_s=0.0, durable_step=3)) is None
