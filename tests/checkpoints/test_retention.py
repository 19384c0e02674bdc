"""Retention: rules that hold for every history of checkpoints, and the meaning of each part of the policy."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from relight.checkpoints.deletion import apply_retention
from relight.checkpoints.file_names import CheckpointName
from relight.checkpoints.listing import CheckpointInfo, find_best
from relight.checkpoints.quarantine import quarantine_checkpoint
from relight.checkpoints.recovery import verify_store
from relight.checkpoints.retention import BestRule, RetentionPolicy, plan_retention
from relight.checkpoints.store import CheckpointStore
from tests.checkpoints.snapshots import make_snapshot


def make_info(
    sequence: int,
    *,
    step: int | None = None,
    score: float | None = None,
    verified: bool = True,
    labels: tuple[str, ...] = (),
    time_s: float = 0.0,
    metrics: dict[str, float] | None = None,
) -> CheckpointInfo:
    name = CheckpointName(sequence, sequence * 10 if step is None else step, "00000000")
    return CheckpointInfo(
        step=name.step,
        epoch=0,
        attempt=1,
        reason="periodic",
        time_s=time_s,
        score=score,
        name=name,
        path=Path(name.manifest),
        metrics=metrics or {},
        bytes=8,
        new_bytes=8,
        packs=(name.pack,),
        verified=verified,
        labels=labels,
    )


_histories = st.lists(
    st.builds(
        lambda step, score, verified, labels, time_s: (step, score, verified, labels, time_s),
        st.integers(0, 60),
        st.none() | st.floats(-2, 2) | st.sampled_from([math.nan, math.inf, 0.5]),
        st.booleans(),
        st.sampled_from([(), (), (), ("pinned",), ("parent",), ("exported",)]),
        st.floats(0, 1e5),
    ),
    max_size=25,
).map(
    lambda entries: [
        make_info(place + 1, step=step, score=score, verified=verified, labels=labels, time_s=time_s)
        for place, (step, score, verified, labels, time_s) in enumerate(entries)
    ]
)
_policies = st.builds(
    RetentionPolicy,
    newest=st.integers(0, 4),
    best=st.lists(st.builds(BestRule, higher_is_better=st.booleans(), count=st.integers(0, 3)), max_size=2).map(tuple),
    every_steps=st.none() | st.integers(1, 20),
    every_hours=st.none() | st.floats(0.1, 5),
)


@given(_histories, _policies)
def test_the_rules_that_must_never_be_broken_hold(history: list[CheckpointInfo], policy: RetentionPolicy) -> None:
    plan = plan_retention(history, policy)
    kept = [info for info, _ in plan.kept]
    removed = set(map(id, plan.removed))
    assert sorted(map(id, [*kept, *plan.removed])) == sorted(map(id, history))
    assert all(reasons for _, reasons in plan.kept)
    verified = [info for info in history if info.verified]
    assert all(id(info) not in removed for info in verified[-2:])
    for info in plan.removed:
        assert len(verified) >= 2
        assert verified[-1].sequence > info.sequence
        assert not {"pinned", "parent"} & set(info.labels)
    for rule in policy.best:
        best = find_best(history, higher_is_better=rule.higher_is_better)
        assert not (rule.count and best is not None) or best in kept


@given(_histories, _policies)
def test_applying_a_plan_twice_removes_nothing_more(history: list[CheckpointInfo], policy: RetentionPolicy) -> None:
    kept = [info for info, _ in plan_retention(history, policy).kept]
    assert plan_retention(kept, policy).removed == ()


@given(_histories, _policies, st.randoms())
def test_the_order_of_the_list_does_not_matter(
    history: list[CheckpointInfo], policy: RetentionPolicy, random: object
) -> None:
    shuffled = list(history)
    random.shuffle(shuffled)
    assert plan_retention(shuffled, policy) == plan_retention(history, policy)


def steps_kept(history: list[CheckpointInfo], policy: RetentionPolicy) -> list[int]:
    return [info.step for info, _ in plan_retention(history, policy).kept]


def test_the_newest_two_verified_and_what_is_newer_stay() -> None:
    history = [make_info(i, verified=i not in (3, 5)) for i in range(1, 6)]
    assert steps_kept(history, RetentionPolicy()) == [20, 40, 50]


def test_nothing_is_removed_before_two_are_verified() -> None:
    history = [make_info(i, verified=i == 1) for i in range(1, 6)]
    assert steps_kept(history, RetentionPolicy()) == [10, 20, 30, 40, 50]


def test_nan_is_never_best_and_the_earliest_of_equal_scores_is() -> None:
    scores = [None, 0.5, math.nan, 0.7, 0.7, math.inf, 0.1, 0.2]
    history = [make_info(i, score=score) for i, score in enumerate(scores, 1)]
    assert steps_kept(history, RetentionPolicy()) == [40, 70, 80]
    lowest = RetentionPolicy(best=(BestRule(higher_is_better=False, count=2),))
    assert steps_kept(history, lowest) == [70, 80]


def test_best_may_follow_any_logged_metric() -> None:
    history = [make_info(i, metrics={"validation/loss": loss}) for i, loss in enumerate([3, 1, 2, 4, 5], 1)]
    policy = RetentionPolicy(best=(BestRule("validation/loss", higher_is_better=False, count=2),))
    assert steps_kept(history, policy) == [20, 30, 40, 50]


def test_the_first_at_or_after_every_n_steps_stays() -> None:
    history = [make_info(i, step=i * 40) for i in range(1, 11)]
    assert steps_kept(history, RetentionPolicy(best=(), every_steps=100)) == [120, 200, 320, 360, 400]


def test_a_clock_that_jumps_back_only_keeps_more() -> None:
    times = [0, 1800, 3600, 5400, 100, 1900, 3700, 4000]
    history = [make_info(i, time_s=time_s) for i, time_s in enumerate(times, 1)]
    assert steps_kept(history, RetentionPolicy(best=(), every_hours=1)) == [10, 30, 50, 70, 80]


def test_the_plan_gives_reasons_and_the_space_that_it_frees() -> None:
    history = [make_info(i, labels=("pinned",) if i == 1 else ()) for i in range(1, 5)]
    shared = replace(history[1], packs=history[0].packs)
    plan = plan_retention([history[0], shared, *history[2:]], RetentionPolicy(best=()))
    assert plan.kept[0][1] == ("pinned",)
    assert [info.step for info in plan.removed] == [20]
    assert plan.freed_bytes == 0
    assert plan_retention(history, RetentionPolicy(best=())).freed_bytes == 8


def test_removing_frees_packs_that_no_checkpoint_shares(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in range(1, 6):
        store.mark_verified(store.commit(*make_snapshot(step, frozen=5000)))
    removed = apply_retention(store, plan_retention(store.list().checkpoints, RetentionPolicy(best=())))
    assert [info.step for info in removed] == [1, 2, 3]
    left = {path.name.split("-")[1] for path in store.layout.packs.iterdir()}
    assert left == {"s1", "s4", "s5"}
    assert {path.name.split("-")[1] for path in store.layout.labels.iterdir()} == {"s4", "s5"}
    assert verify_store(store).damaged == []


def test_a_pin_made_after_the_plan_still_counts(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    infos = [store.commit(*make_snapshot(step)) for step in range(1, 5)]
    for info in infos:
        store.mark_verified(info)
    plan = plan_retention(store.list().checkpoints, RetentionPolicy(best=()))
    CheckpointStore(tmp_path).pin(infos[0])
    assert [info.step for info in apply_retention(store, plan)] == [2]


@pytest.mark.parametrize(("count", "left"), [(1, [2, 3]), (2, [1, 2]), (3, [1])])
def test_an_outdated_plan_never_empties_a_store(tmp_path: Path, count: int, left: list[int]) -> None:
    store = CheckpointStore(tmp_path)
    for step in range(1, 5):
        store.mark_verified(store.commit(*make_snapshot(step)))
    plan = plan_retention(store.list().checkpoints, RetentionPolicy(best=()))
    for info in store.list().checkpoints[-count:]:
        quarantine_checkpoint(store, info.name)
    apply_retention(store, plan)
    assert [info.step for info in store.list().checkpoints] == left
