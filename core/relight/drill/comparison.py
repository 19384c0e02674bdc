"""Compares what two runs of the same training left behind: every checkpoint that both have, and every logged value."""

from __future__ import annotations

from dataclasses import dataclass

from relight.checkpoints.digest import state_digest
from relight.checkpoints.store import CheckpointStore
from relight.drill.differences import (
    MetricRows,
    StateDifference,
    find_differences,
    find_metric_difference,
    find_witness_difference,
    sort_differences,
)
from relight.metrics.metric_scan import scan_metrics
from relight.metrics.series import read_series
from relight.metrics.witness_file import Digests, read_witnesses
from relight.runs.layout import RunLayout

_COMPARED_STREAMS = ("train/", "validation/")


@dataclass(frozen=True)
class Comparison:
    """What a resumed and an uninterrupted run have in common, and where they first differ."""

    last_step: int
    """Of the last checkpoint that both have."""
    digest: str
    """State digest of the resumed run's checkpoint at that step."""
    uninterrupted_digest: str
    checkpoints: int
    tensors: int
    """In the last checkpoint."""
    metric_steps: int
    step: int
    """Where `differences` are from: the earliest checkpoint that differs, else the first logged value."""
    differences: list[StateDifference]
    """Causes before effects; empty when everything is equal."""
    first_step: int | None
    """First step whose witness or logged values differ."""
    saved_again: bool
    """Whether the checkpoint that differs was saved again after a resume from one of the same step that was equal."""

    @property
    def bit_exact(self) -> bool:
        """Whether both runs computed the same, bit for bit."""
        return not self.differences and self.digest == self.uninterrupted_digest


def compare_runs(resumed: RunLayout, uninterrupted: RunLayout, *, nproc: int = 1) -> Comparison | None:
    """Compare two runs of the same training of `nproc` ranks; None when they have no checkpoint in common."""
    ours, theirs = CheckpointStore(resumed.checkpoints), CheckpointStore(uninterrupted.checkpoints)
    mine = {info.step: info for info in ours.list().checkpoints}
    other = {info.step: info for info in theirs.list().checkpoints}
    steps = sorted(mine.keys() & other.keys())
    if not steps:
        return None
    rows, other_rows = _read_metrics(resumed), _read_metrics(uninterrupted)
    logged = find_metric_difference(rows, other_rows)
    at, found, saved_again = 0, [], False
    for step in steps:
        manifest, other_manifest = ours.read_manifest(mine[step]), theirs.read_manifest(other[step])
        if state_digest(manifest) != state_digest(other_manifest):
            with ours.open(mine[step]) as reader, theirs.open(other[step]) as other_reader:
                found = find_differences(
                    manifest, other_manifest, read_resumed=reader.read, read_uninterrupted=other_reader.read
                )
            at = step
            earlier = [info for info in ours.list().checkpoints if info.step == step and info != mine[step]]
            saved_again = any(ours.digest(info) == state_digest(other_manifest) for info in earlier)
            break
    last = steps[-1]
    if not found and max(mine) != max(other):
        detail = f"the training ended at step {max(mine)} after the resume, at step {max(other)} without it"
        at, found = last, [StateDifference("state", "number of steps", detail)]
    if not found and logged is not None:
        at, found = logged[0], [logged[1]]
    witnessed = _compare_witnesses(resumed, uninterrupted, nproc=nproc) if found else None
    if witnessed is not None:
        found = sort_differences([*found, witnessed[1]])
        at = witnessed[0] if found[0] is witnessed[1] else at
    first_steps = [difference[0] for difference in (logged, witnessed) if difference is not None]
    return Comparison(
        last_step=last,
        digest=ours.digest(mine[last]),
        uninterrupted_digest=theirs.digest(other[last]),
        checkpoints=len(steps),
        tensors=len(ours.read_manifest(mine[last]).tensors),
        metric_steps=len(rows.keys() & other_rows.keys()),
        step=at,
        differences=found,
        first_step=min(first_steps, default=None),
        saved_again=saved_again,
    )


def _compare_witnesses(
    resumed: RunLayout, uninterrupted: RunLayout, *, nproc: int
) -> tuple[int, StateDifference] | None:
    """Return the first step at which a rank's witnesses differ, and what differs there; None when all are equal."""
    compared = (
        find_witness_difference(_read_witnesses(resumed.of_rank(rank)), _read_witnesses(uninterrupted.of_rank(rank)))
        for rank in range(nproc)
    )
    return min((found for found in compared if found is not None), key=lambda found: found[0], default=None)


def _read_witnesses(layout: RunLayout) -> dict[int, Digests]:
    """Read what each step left behind as its witness, from the latest attempt that has the step."""
    found: dict[int, Digests] = {}
    for attempt in layout.list_attempts():
        found.update(read_witnesses(layout.attempt(attempt).witness, after_step=0))
    return found


def _read_metrics(layout: RunLayout) -> MetricRows:
    """Read what training and validation logged, from the latest attempt that has the step; no times and no rates."""
    rows: dict[int, dict[str, float]] = {}
    for name in scan_metrics(layout.metrics).names:
        if name.startswith(_COMPARED_STREAMS) and not _depends_on_clock(name):
            series = read_series(layout.metrics, name)
            for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True):
                rows.setdefault(step, {})[name] = value
    return rows


def _depends_on_clock(name: str) -> bool:
    return name.endswith("_s") or "per_s" in name or "seconds" in name
