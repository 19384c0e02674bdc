"""The retention policy, and the plan that follows from it: which checkpoints are kept, why, and which are deleted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from relight.checkpoints.file_names import CheckpointName
from relight.checkpoints.listing import CheckpointInfo

PINNED = "pinned"
PARENT = "parent"
KEEPING_LABELS = {PINNED: "pinned", PARENT: "a branch started from it"}
"""Labels that keep a checkpoint as long as it has them, and the reason that people read."""

_ALWAYS_NEWEST = 2


@dataclass(frozen=True)
class BestRule:
    """Keep the best `count` checkpoints by the metric with this full name; None means the run's best metric."""

    metric: str | None = None
    higher_is_better: bool = True
    count: int = 1


def parse_best_rules(text: str) -> tuple[BestRule, ...]:
    """Parse "validation/loss:min, train/lr:max:3": a metric's name, which way is better, and how many (default 1).

    A name without a stream belongs to the stream `validation`. Raises `ValueError` with one sentence for anything else.
    """
    rules = []
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, rest = part.partition(":")
        way, _, count = rest.partition(":")
        if not name or way not in ("min", "max") or (count and not (count.isdecimal() and 0 < int(count) <= 10_000)):
            raise ValueError(
                f"{part[:80]!r} does not say what to keep: write METRIC:min or METRIC:max, such as "
                "validation/loss:min; add :3 to keep the best three"
            )
        full = name if "/" in name else f"validation/{name}"
        rules.append(BestRule(full, higher_is_better=way == "max", count=int(count or 1)))
    return tuple(rules)


@dataclass(frozen=True)
class RetentionPolicy:
    """What to keep, in addition to checkpoints that are pinned or the parent of a branch.

    The newest `newest` verified checkpoints (at least two) and all that are newer; the best by each rule of `best`; and
    the first checkpoint at or after every `every_steps` steps or `every_hours` hours.
    """

    newest: int = 2
    best: tuple[BestRule, ...] = (BestRule(),)
    every_steps: int | None = None
    every_hours: float | None = None


@dataclass(frozen=True)
class RetentionPlan:
    """What a policy does to the checkpoints of a store. `kept` has the reasons for each."""

    kept: tuple[tuple[CheckpointInfo, tuple[str, ...]], ...]
    removed: tuple[CheckpointInfo, ...]
    policy: RetentionPolicy

    @property
    def freed_bytes(self) -> int:
        """Disk space that the deletion frees, at least: packs that a kept checkpoint shares are not counted."""
        shared = {pack for info, _ in self.kept for pack in info.packs}
        return sum(info.new_bytes for info in self.removed if not shared.intersection(info.packs))


def plan_retention(checkpoints: Sequence[CheckpointInfo], policy: RetentionPolicy) -> RetentionPlan:
    """Decide from the list alone. Until `policy.newest` checkpoints are verified, nothing is removed."""
    ordered = sorted(checkpoints, key=lambda info: info.name)
    reasons: dict[CheckpointName, list[str]] = {}

    def keep(info: CheckpointInfo, why: str) -> None:
        reasons.setdefault(info.name, []).append(why)

    count = max(policy.newest, _ALWAYS_NEWEST)
    verified = [info for info in ordered if info.verified]
    newest = verified[-count:]
    for info in ordered:
        if len(verified) < count or info.name > newest[-1].name:
            keep(info, "not verified yet" if not info.verified else "among the newest")
        elif info in newest:
            keep(info, "among the newest")
        for label in info.labels:
            if label in KEEPING_LABELS:
                keep(info, KEEPING_LABELS[label])
    for rule in policy.best:
        for info in _best_of(ordered, rule):
            keep(info, f"best {rule.metric}" if rule.metric else "best")
    if policy.every_steps:
        for info in _first_of_each(ordered, policy.every_steps):
            keep(info, f"every {policy.every_steps} steps")
    if policy.every_hours:
        for info in _spaced(ordered, policy.every_hours * 3600):
            keep(info, f"every {policy.every_hours:g} hours")
    return RetentionPlan(
        kept=tuple((info, tuple(reasons[info.name])) for info in ordered if info.name in reasons),
        removed=tuple(info for info in ordered if info.name not in reasons),
        policy=policy,
    )


def _best_of(ordered: list[CheckpointInfo], rule: BestRule) -> list[CheckpointInfo]:
    scored = [(value, info) for info in ordered if (value := _value(info, rule)) is not None]
    scored.sort(key=lambda pair: (-pair[0] if rule.higher_is_better else pair[0], pair[1].name))
    return [info for _, info in scored[: rule.count]]


def _value(info: CheckpointInfo, rule: BestRule) -> float | None:
    value = info.score if rule.metric is None else info.metrics.get(rule.metric)
    return value if value is not None and math.isfinite(value) else None


def _first_of_each(ordered: list[CheckpointInfo], every_steps: int) -> list[CheckpointInfo]:
    first: dict[int, CheckpointInfo] = {}
    for info in ordered:
        if info.step >= every_steps:
            first.setdefault(info.step // every_steps, info)
    return list(first.values())


def _spaced(ordered: list[CheckpointInfo], every_s: float) -> list[CheckpointInfo]:
    # In the order of sequence numbers, not of times: a clock that jumped back only starts a new series.
    kept: list[CheckpointInfo] = []
    for info in ordered:
        if not kept or not 0 <= info.time_s - kept[-1].time_s < every_s:
            kept.append(info)
    return kept
