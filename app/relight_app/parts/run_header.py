"""The top of a run's page: its identity, its family, and the notices that a person must see first."""

from __future__ import annotations

from collections.abc import Sequence

from relight.checkpoints.listing import DamagedEntry
from relight.drill.proof import JudgedProof
from relight.overview.ranks_report import word_rank
from relight.overview.summary import RunSummary
from relight.runs.records import RunRecord
from relight.runs.status import RunStatus
from relight.supervision.gpu_choice import word_gpus
from relight.wording import count, describe_bytes, describe_duration
from relight_app.formats import describe_option, describe_risk, short_metric
from relight_app.markup import Markup, join, tag
from relight_app.navigation import address
from relight_app.parts.drill import build_proof_badge
from relight_app.parts.moments import build_age
from relight_app.parts.run_list import build_pill

_SOON_FULL_S = 86_400.0
_PHASES = {"starting": "starting: the trainer is loading", "validating": "validating", "saving": "saving"}


def build_identity(run: RunSummary, record: RunRecord, *, device: str | None, proof: JudgedProof | None) -> Markup:
    """Build one line with status, id, task, device, attempt, parent, and whether a resume is proven."""
    parent = record.parent
    return tag(
        "div",
        build_pill(run.status),
        tag("span", run.run, class_="badge mono"),
        tag("span", run.task, class_="badge") if run.task != run.name else None,
        tag("span", device, class_="badge") if device else None,
        _attempt(run),
        tag("span", count(len(run.ranks), "rank"), class_="badge", title="; ".join(map(word_rank, run.ranks)))
        if run.ranks
        else None,
        tag("span", word_gpus(run.gpus), class_="badge", title="The cards that this run may use.")
        if run.gpus
        else None,
        _resume_check(run),
        tag(
            "span",
            f"{short_metric(run.non_finite.metric)} is not finite",
            class_="badge bad",
            title=run.non_finite.sentence,
        )
        if run.non_finite is not None
        else None,
        _link(
            parent.run,
            f"branched from {parent.run} at step {parent.step:,}" + (", weights only" if parent.weights_only else ""),
            class_="badge link",
        )
        if parent is not None
        else None,
        build_proof_badge(proof),
        tag(
            "span",
            join(
                run.reason.rstrip(".") or None if run.status.is_live else None,
                _PHASES.get(run.phase or ""),
                tag(
                    "span",
                    "launched " if run.status is RunStatus.QUEUED else "started ",
                    build_age(run.started_s or run.created_s),
                ),
                tag(
                    "span",
                    "trained for ",
                    tag("span", describe_duration(run.work_s), data_live="work_s", data_format="duration"),
                )
                if run.work_s >= 1
                else None,
                f"pid {run.pids.trainer}" if run.pids.trainer else None,
                separator=" · ",
            ),
            class_="sub",
        ),
        class_="row",
    )


def build_family(record: RunRecord, branches: Sequence[RunSummary]) -> Markup | None:
    """Build what a branch changed, and links to the runs that branched from this one; None without either."""
    parts: list[Markup] = []
    if record.parent is not None:
        changes = [
            tag(
                "span",
                tag("span", key, class_="mono"),
                f" {describe_option(before)} → {describe_option(now)}",
                class_="badge kept",
            )
            for key, (before, now) in record.parent.changes.items()
        ]
        parts.append(
            tag(
                "div",
                tag("span", "Changed in this branch:" if changes else "This branch changed no options.", class_="sub"),
                changes,
                class_="row",
            )
        )
    if branches:
        links = [
            _link(other.run, f"{other.run}, from step {other.parent.step:,}" if other.parent else other.run,
                  class_="badge link")
            for other in branches
        ]  # fmt: skip
        parts.append(tag("div", tag("span", "Branches of this run:", class_="sub"), links, class_="row"))
    return tag("div", parts, class_="stack") if parts else None


def build_run_notices(run: RunSummary, *, damaged: Sequence[DamagedEntry]) -> Markup | None:
    """Build the notices: failing saves, a full disk, notes. None without any."""
    parts = [_saving_failure(run), _disk(run), _notes(run, damaged)]
    parts = [part for part in parts if part is not None]
    return tag("div", parts, class_="stack") if parts else None


def _link(run: str, text: str, *, class_: str) -> Markup:
    return tag("a", text, class_=class_, href=address("run", id=run))


def _attempt(run: RunSummary) -> Markup | None:
    if not run.attempt:
        return None
    return tag("span", f"attempt {run.attempt}", class_="badge on" if run.attempt > 1 else "badge")


def _resume_check(run: RunSummary) -> Markup | None:
    check = run.resume_check
    if check is None or check.verdict != "exact":
        return None  # a difference is a notice
    return tag("span", f"resume verified: {count(check.equal_steps, 'step')}", class_="badge on", title=check.sentence)


def _saving_failure(run: RunSummary) -> Markup | None:
    if not run.saving_failure:
        return None
    risk = describe_risk(run.work_at_risk_s, run.work_at_risk_steps)
    return tag(
        "div",
        tag("strong", "Checkpoints cannot be saved. "),
        run.saving_failure,
        tag("div", f"At risk now: {risk}, and growing. Relight retries automatically.", class_="muted"),
        class_="notice bad",
        role="alert",
    )


def _disk(run: RunSummary) -> Markup | None:
    if run.disk is None or run.disk.full_in_s is None or run.disk.full_in_s > _SOON_FULL_S or run.saving_failure:
        return None
    return tag(
        "div",
        tag("strong", f"At this rate the disk will be full in {describe_duration(run.disk.full_in_s)}. "),
        f"{describe_bytes(run.disk.free_bytes)} free. On a full disk, training continues without checkpoints.",
        class_="notice warn",
        role="status",
    )


def _notes(run: RunSummary, damaged: Sequence[DamagedEntry]) -> Markup | None:
    sentences = [*run.notes, *(f"{entry.path.name}: {entry.reason}" for entry in damaged)]
    if not sentences:
        return None
    return tag(
        "div",
        [tag("div", sentence) for sentence in sentences[:8]],
        tag("div", f"… and {count(len(sentences) - 8, 'more note')}", class_="muted") if len(sentences) > 8 else None,
        class_="notice warn",
        role="status",
    )
