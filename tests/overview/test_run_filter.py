"""A search finds what it says, or says in one sentence where it stops making sense."""

from __future__ import annotations

import datetime
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relight.overview.run_filter import FILTER_HELP, FilterError, parse_filter, select_runs
from relight.overview.summary import BestSoFar, RunSummary, summarize_run
from relight.runs.records import Parent
from relight.runs.status import RunStatus
from tests.runs.run_builder import RunBuilder

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunSummary:
    """The summary of a finished run; tests change its fields."""
    return summarize_run(RunBuilder.create(tmp_path_factory.mktemp("runs")).finished().layout, traceback=False)


@pytest.fixture(scope="module")
def some_runs(plain: RunSummary) -> list[RunSummary]:
    """Four runs that differ in what a search can name."""

    def make(run: str, **fields: Any) -> RunSummary:
        return msgspec.structs.replace(plain, run=run, **({"updated_s": NOW_S - 10 * DAY_S, "metrics": {}} | fields))

    return [
        make(
            "a-1", name="No Dropout", tags=("vision", "baseline"), starred=True, task="digits",
            config={"lr": 0.01, "amp": True, "model": {"depth": 4, "kind": "resnet"}, "epochs": 5},
            metrics={"train/accuracy": 0.5, "validation/accuracy": 0.95}, updated_s=NOW_S - DAY_S, step=12_000,
            best=BestSoFar(step=3, metric="validation/accuracy", value=0.97),
        ),
        make(
            "b-2", name="spiral", status=RunStatus.CRASHED, note="diverges after\n3 epochs", task="spiral.py:Spiral",
            config={"lr": 0.1, "amp": False, "model": {"depth": 12, "kind": "vit"}, "name": None},
            metrics={"train/loss": math.nan, "train/accuracy": 0.1}, work_s=7200.0, step=50, steps_total=200, best=None,
            work_at_risk_s=71.0, work_at_risk_steps=5,
        ),
        make(
            "c-10", status=RunStatus.RUNNING, archived=True, tags=("old",), config={"lr": 3e-4, "optimizer": "adamw"},
            parent=Parent(run="a-1", step=3, sequence=1), eta_s=600.0, best=None,
        ),
        make("c-9", status=RunStatus.STOPPED, archived=True, config={}, best=None),
    ]  # fmt: skip


FOUND = {
    "": "a b c10 c9",
    "digits": "a c10 c9",
    "DROPOUT": "a",
    '"no dropout"': "a",
    "'after\n3'": "b",
    "adamw": "c10",
    "lr=0.01": "a",
    "baseline": "a",
    "crashed": "b",
    "-digits": "b",
    "status:crashed": "b",
    "status:Crashed,running": "b c10",
    "status!=crashed": "a c10 c9",
    "status:live": "c10",
    "status:ended": "a b c9",
    "tag:VISION": "a",
    "tag:vis": "",
    "tags:vision,old": "a c10",
    "-tag:vision": "b c10 c9",
    "tag!=vision": "b c10 c9",
    "starred": "a",
    "star:no": "b c10 c9",
    "-starred": "b c10 c9",
    "archived": "c10 c9",
    "-archived": "a b",
    '"archived"': "",
    'name:"no dropout"': "a",
    "name:dropout": "a",
    "name=dropout": "",
    'task:"spiral.py:Spiral"': "b",
    "task=spiral.py:Spiral": "b",
    "note:diverges": "b",
    "parent:a-1": "c10",
    "parent:none": "a b c9",
    "id:c-": "c10 c9",
    "lr<0.01": "c10",
    "lr<=1e-2": "a c10",
    "lr:0.1": "b",
    "lr:.10": "b",
    "lr!=0.1": "a c10",
    "-lr=0.1": "a c10 c9",
    "lr=0.1,0.0003": "b c10",
    "lr!=0.1,0.01": "c10",
    "config.lr>0.05": "b",
    "amp:true": "a",
    "amp:no": "b",
    "amp:none": "c10 c9",
    "model.depth>4": "b",
    "model.kind:res": "a",
    "model.kind=res": "",
    "epochs>=5": "a",
    "accuracy>0.9": "a",
    "train/accuracy<0.2": "b",
    "loss:nan": "b",
    "loss<1": "",
    "best>0.9": "a",
    "best_step<5": "a",
    "step>10k": "a",
    "progress<50%": "b",
    "progress=0.25": "b",
    "work>1h": "b",
    "lost>60s": "b",
    "risk>70": "b",
    "eta<30min": "c10",
    "updated<2d": "a",
    "updated>1w": "b c10 c9",
    "lr<1 amp:false crashed": "b",
    "  lr<1   -tag:old  ": "a b",
}


@pytest.mark.parametrize("text", FOUND)
def test_a_search_finds(some_runs: list[RunSummary], text: str) -> None:
    search = parse_filter(text, now_s=NOW_S)
    short = {"a-1": "a", "b-2": "b", "c-10": "c10", "c-9": "c9"}
    assert " ".join(short[run.run] for run in some_runs if search.matches(run)) == FOUND[text]


def test_a_date_is_a_day_of_this_time_zone(some_runs: list[RunSummary]) -> None:
    day = datetime.datetime.fromtimestamp(NOW_S - DAY_S).date()
    for text in (f"updated:{day}", f"updated>={day}", f"updated>{day}T00:00"):
        assert [run.run for run in some_runs if parse_filter(text).matches(run)] == ["a-1"], text


@pytest.mark.parametrize(
    ("text", "position", "cure"),
    [
        ("lr<", 3, "such as lr<0.01"),
        ("digits lr< 3", 10, "such as lr<0.01"),
        ("lr < 3", 3, "without spaces"),
        ("<3", 0, "without spaces"),
        ("a !=3", 2, "without spaces"),
        ('name:"no', 5, "not closed"),
        ("'", 0, "not closed"),
        ("tag:a,", 6, "such as tag:vision"),
        ("status:crash", 0, "crashed, interrupted"),
        ("status>crashed", 0, "no order"),
        ("tag<3", 0, "tags:vision"),
        ("step<many", 0, "not a number"),
        ("lr<abc", 0, "lr<0.01"),
        ("step>10m", 0, "not a number"),
        ("updated<soon", 0, "updated<2d"),
        ("updated=2d", 0, "updated<2d"),
        ("work>long", 0, "work>90s"),
        ("starred:maybe", 0, "starred:true"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_with_the_place_and_a_cure(text: str, position: int, cure: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    assert caught.value.position == position
    assert f"at character {position + 1}:" in str(caught.value)
    assert cure in str(caught.value)


@given(st.one_of(st.text(max_size=40), st.text("lr<>=!:,\"' -1.sktag5%\n", max_size=20)))
def test_any_text_is_a_search_or_one_clear_error(text: str) -> None:
    try:
        parse_filter(text)
    except FilterError as error:
        assert 0 <= error.position <= len(text)
        assert "\n" not in str(error)


@given(st.text(st.characters(blacklist_characters="\"'", blacklist_categories=("Cs",)), min_size=1, max_size=20))
def test_quoted_text_is_found_whatever_it_is(plain: RunSummary, text: str) -> None:
    run = msgspec.structs.replace(plain, note=f"before {text} behind")
    assert parse_filter(f'"{text}"').matches(run)
    assert parse_filter(f"note:'{text}'").matches(run)


def test_every_example_of_the_help_is_understood() -> None:
    for example, meaning in FILTER_HELP:
        assert parse_filter(example)
        assert meaning


def test_archived_runs_are_left_out_and_counted_unless_live_or_asked_for(some_runs: list[RunSummary]) -> None:
    chosen = select_runs(some_runs)
    assert ([run.run for run in chosen.runs], chosen.hidden, chosen.hint) == (["a-1", "b-2", "c-10"], 1, "")
    assert [run.run for run in select_runs(some_runs, text="archived").runs] == ["c-10", "c-9"]
    everything = select_runs(some_runs, archived=True)
    assert (len(everything.runs), everything.hidden) == (4, 0)
    assert select_runs(some_runs, text="status:stopped").hidden == 1


def test_a_name_that_no_run_has_gets_a_hint(some_runs: list[RunSummary]) -> None:
    assert select_runs(some_runs, text="lrr<1").hint.startswith("No run has 'lrr'. Did you mean 'lr'?")
    assert "in quotes" in select_runs(some_runs, text="spiral.py:Spiral").hint
    assert select_runs(some_runs, text="lr<0").hint == ""
    assert select_runs([], text="lrr<1").hint == ""


def test_a_list_is_sorted_and_searched_in_one_call(some_runs: list[RunSummary]) -> None:
    assert [run.run for run in select_runs(some_runs, text="lr>0", sort="-lr", archived=True).runs] == [
        "b-2", "a-1", "c-10",
    ]  # fmt: skip


def test_the_help_names_only_columns_that_there_are(tmp_path: Path) -> None:
    run = summarize_run(RunBuilder.create(tmp_path).finished().layout)
    known = {"lr", "amp", "epochs", "accuracy", "train/loss", "loss"}
    for example, meaning in FILTER_HELP:
        named = set(re.findall(r"([a-z_/]+)[:<>]", example)) - known
        search = parse_filter(" ".join(f"{key}:1" for key in named - {"status", "updated", "created"}))
        assert search.explain_unknown([run]) == "", (example, meaning)
