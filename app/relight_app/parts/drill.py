"""The result of a drill: a badge at the top of a run's page, and a card with date, environment, cause and cure."""

from __future__ import annotations

import msgspec

from relight.drill.proof import DrillProof, FirstDifference, JudgedProof, word_kills
from relight.runs.fingerprint import word_changes
from relight.wording import count, describe_duration
from relight_app.icons import icon
from relight_app.jobs import Job
from relight_app.markup import Markup, tag
from relight_app.parts.moments import build_moment
from relight_app.parts.notice import build_problem
from relight_app.problems import explain

DRILL_HELP = (
    "Trains it once undisturbed, and again with kill -9 at different places, each time resumed in a new process, and "
    "compares every bit. The drill continues when you leave this page."
)


def build_proof_badge(judged: JudgedProof | None) -> Markup | None:
    """Build the badge "resume proven": gray when it is out of date, red after a difference; None without a drill."""
    if judged is None:
        return None
    proof = judged.proof
    details = f"{_describe_verdict(proof)} {_describe_environment(proof)}"
    if judged.changes:
        label = "resume proven before a change" if proof.bit_exact else "resume not exact before a change"
        return tag("span", label, class_="badge", title=f"{details} Out of date: {word_changes(judged.changes)}.")
    if proof.bit_exact:
        return tag("span", icon("verified"), "resume proven", class_="badge best", title=details)
    return tag("span", icon("crashed"), "resume not exact", class_="badge bad", title=details)


def build_proof_card(judged: JudgedProof | None, job: Job | None, *, key: str) -> Markup | None:
    """Build the progress of a drill, its error, or the newest result; None without a drill."""
    if job is not None and job.state == "running":
        return _build_progress(job)
    if job is not None and job.error is not None:
        return build_problem(explain(job.error), key=key)
    if judged is None:
        return None
    return _build_result(judged.proof, outdated=word_changes(judged.changes), disagreement=judged.disagreement)


def build_drill_card(job: Job | None, *, key: str) -> Markup | None:
    """Do the same as `build_proof_card` for a task that has no run yet."""
    if job is not None and job.state == "done":
        proof = msgspec.convert(job.result["proof"], DrillProof)
        return _build_result(proof, seconds=proof.duration_s)
    return build_proof_card(None, job, key=key)


def _build_progress(job: Job) -> Markup:
    return tag(
        "div",
        tag("span", class_="spinner", aria_hidden="true"),
        tag("strong", "Proving that a killed run resumes bit for bit."),
        tag("ul", [tag("li", sentence) for sentence in job.told], class_="whole sub"),
        class_="notice plain row",
        role="status",
    )


def _build_result(
    proof: DrillProof, *, outdated: str = "", disagreement: str = "", seconds: float | None = None
) -> Markup:
    verdict = (
        "Bit-exact: after kill -9, the run resumed as if nothing had happened."
        if proof.bit_exact
        else "Not bit-exact after kill -9."
    )
    facts = [build_moment(proof.time_s), f": {_describe_verdict(proof)} {_describe_environment(proof)}"]
    took = f" The drill took {describe_duration(seconds)}." if seconds is not None else ""
    return tag(
        "div",
        tag("strong", verdict),
        tag("div", disagreement) if disagreement else None,
        _build_difference(proof.first_difference) if proof.first_difference is not None else None,
        tag("div", facts, took, class_="muted"),
        tag("div", f"Out of date: {outdated}. Click “Prove resume” to prove it again.", class_="muted")
        if outdated
        else None,
        class_=f"notice {'plain' if outdated or (proof.bit_exact and not disagreement) else 'bad'}",
        role="status",
    )


def _build_difference(first: FirstDifference) -> list[Markup]:
    others = count(first.others, "other value")
    more = f" {others} also {'differs' if first.others == 1 else 'differ'} there." if first.others else ""
    where = f"First difference: {first.part} {first.name}, at step {first.step}: {first.detail}."
    return [
        tag("div", where, more),
        tag("div", tag("strong", "Cause: "), first.cause),
        tag("div", tag("strong", "Cure: "), first.cure),
    ]


def _describe_verdict(proof: DrillProof) -> str:
    compared = f"{count(proof.tensors_compared, 'tensor')} at {count(proof.checkpoints_compared, 'step')}"
    verdict = "every bit equal" if proof.bit_exact else "not equal"
    return f"killed {word_kills(proof)}; {compared} compared with an uninterrupted run: {verdict}."


def _describe_environment(proof: DrillProof) -> str:
    known = proof.fingerprint
    parts = [
        f"torch {known['torch']}" if known.get("torch") else None,
        str(known.get("gpu") or known.get("device") or "") or None,
        count(proof.world_size, "rank") if proof.world_size > 1 else None,
        count(int(known["threads"]), "thread") if isinstance(known.get("threads"), int) else None,
        *(f"{key} {proof.config[key]}" for key in ("workers", "precision") if proof.config.get(key)),
        f"code {str(known['code.digest'])[:8]}" if known.get("code.digest") else None,
    ]
    environment = ", ".join(part for part in parts if part)
    return f"With {environment}." if environment else ""
