"""Each cause that a drill can find is named, with its cure."""

from __future__ import annotations

from typing import Any

import pytest

from relight.drill.differences import Part, StateDifference
from relight.drill.explanation import Evidence, Explanation, explain_difference
from relight.drill.suspects import Kind, Suspect


def explain(part: Part = "tensor", *kinds: Kind, **facts: Any) -> Explanation:
    """A difference at step 22 of a training that was resumed from step 11, with suspects of those kinds."""
    suspects = tuple(Suspect(kind, "task.py", 7, f"the {kind}") for kind in kinds)
    base: dict[str, Any] = {
        "step": 22, "resumed_from": 11, "first_step": None, "saved_again": False, "steps_per_epoch": 23, "on_cpu": True,
        "is_script": False,
        "suspects": suspects, "kernels": (), "changed_data": None, "nothing_tracked": False,
    }  # fmt: skip
    return explain_difference(StateDifference(part, "x", ""), Evidence(**base | facts))


@pytest.mark.parametrize(
    ("step", "first_step", "said"),
    [
        (11, 5, "Two uninterrupted runs differ as well"),
        (22, 12, "The very first step after the resume (step 12)"),
        (33, 24, "after the epoch ended at step 23"),
        (22, None, "untracked object"),
    ],
)
def test_the_cause_depends_on_where_it_shows_first(step: int, first_step: int | None, said: str) -> None:
    assert said in explain(step=step, first_step=first_step).cause


def test_a_checkpoint_that_was_equal_before_the_resume_from_it_is_no_chance() -> None:
    assert "Two uninterrupted runs" in explain("state", step=11).cause
    assert "Two uninterrupted runs" not in explain("state", step=11, saved_again=True).cause


@pytest.mark.parametrize(
    ("part", "kinds", "facts", "cause", "cure"),
    [
        ("tensor", ("clock",), {"first_step": 3}, "the clock, which no checkpoint", "Count steps instead"),
        (
            "tensor",
            ("hash",),
            {"first_step": 3},
            "depends on Python's hashes: the hash on line 7 of task.py",
            "PYTHONHASHSEED",
        ),
        ("tensor", ("entropy",), {"first_step": 3}, "from the operating system", "Seed that generator"),
        ("tensor", (), {"first_step": 3, "kernels": ("cumsum_cuda",)}, "deterministic one for cumsum_cuda", "Replace"),
        (
            "tensor",
            (),
            {"first_step": 3, "on_cpu": False},
            "non-deterministic GPU kernel",
            "use_deterministic_algorithms",
        ),
        ("tensor", ("attribute",), {}, "an untracked object", "register_buffer"),
        ("tensor", ("own generator",), {}, "a generator of the task's own", "Seed it for each sample"),
        ("generator", ("numpy",), {}, "NumPy's global generator, used in a worker", "Draw in __getitem__"),
        ("tensor", ("clock",), {"changed_data": "/data"}, "The data changed during the drill: /data", "a copy"),
    ],
)
def test_each_cause_has_a_name_and_a_cure(
    part: Part, kinds: tuple[Kind, ...], facts: dict[str, Any], cause: str, cure: str
) -> None:
    told = explain(part, *kinds, **facts)
    assert cause in told.cause
    assert cure in told.cure


def test_a_clock_is_named_after_likelier_causes() -> None:
    said = explain("tensor", "clock", "entropy", step=11, first_step=1)
    assert said.cause.index("the entropy on line 7") < said.cause.index("the clock on line 7")


def test_a_script_that_tracks_nothing_is_named_as_the_cause() -> None:
    said = explain("metric", nothing_tracked=True)
    assert "tracks nothing" in said.cause
    assert "run.track" in said.cure


@pytest.mark.parametrize(
    ("part", "kinds", "cure"),
    [
        ("tensor", (), "run.track(name=…)"),
        ("tensor", ("attribute",), "run.track(name=…)"),
        ("generator", ("own generator",), "run.track(generator=generator)"),
        ("generator", ("entropy",), "relight.init(seed=…)"),
        ("data position", (), "run.loader"),
        ("schedule", (), "run.track(scheduler=scheduler)"),
        ("generator", (), "run.step() last in the body of your loop"),
    ],
)
def test_a_script_is_explained_in_the_words_of_scripts(part: Part, kinds: tuple[Kind, ...], cure: str) -> None:
    told = explain(part, *kinds, is_script=True)
    assert cure in told.cure
    for word in ("config", "the task", "build_model", "step()", "register_buffer"):
        assert word not in told.cause.replace("run.step()", "") + told.cure.replace("run.step()", "")


def test_the_two_likeliest_causes_are_both_named() -> None:
    told = explain("tensor", "own generator", "attribute")
    assert told.cause.index("untracked object") < told.cause.index("Or: Likely a generator of the task's own")
    assert "register_buffer" in told.cure and "Seed it for each sample" in told.cure


@pytest.mark.parametrize(
    "part", ["data position", "generator", "schedule", "state", "buffer", "tensor", "optimizer", "metric"]
)
def test_a_difference_without_a_suspect_is_explained_too(part: Part) -> None:
    for facts in ({}, {"first_step": 3}, {"first_step": 12}):
        told = explain(part, **facts)
        assert "ikely" in told.cause
        assert told.cure.endswith(".")
