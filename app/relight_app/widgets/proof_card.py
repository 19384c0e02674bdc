"""What a drill has shown: a badge at the head of a run's page, and a card with date, environment, cause and cure."""

from __future__ import annotations

from relight.drill.proof import DrillProof, FirstDifference, JudgedProof
from relight.runs.fingerprint import word_changes
from relight_app.formats import count, describe_duration, describe_moment
from relight_app.icons import icon
from relight_app.jobs import Job
from relight_app.markup import Markup, tag
from relight_app.problems import explain
from relight_app.widgets.notice import build_problem


def build_proof_badge(view: JudgedProof | None) -> Markup | None:
    """Say "resume proven": greyed when something has changed since, red when there was a difference; None without."""
    if view is None:
        return None
    proof = view.proof
    told = f"Held {describe_moment(proof.time_s)}: {_say_verdict(proof)} {_say_environment(proof)}"
    if view.changes:
        label = "resume proven before a change" if proof.bit_exact else "resume not exact before a change"
        return tag("span", label, class_="badge", title=f"{told} Out of date: {word_changes(view.changes)}.")
    if proof.bit_exact:
        return tag("span", icon("verified"), "resume proven", class_="badge best", title=told)
    return tag("span", icon("crashed"), "resume not exact", class_="badge bad", title=told)


def build_proof_card(view: JudgedProof | None, job: Job | None, *, key: str) -> Markup | None:
    """A drill under way, why it could not be held, or what the newest one has shown; None when there was none."""
    if job is not None and job.state == "running":
        return _build_progress(job)
    if job is not None and job.error is not None:
        return build_problem(explain(job.error), key=key)
    return _build_verdict(view) if view is not None else None


def build_report_card(job: Job | None, *, key: str) -> Markup | None:
    """As `build_proof_card`, of a drill that was held just now with a task that has no run yet."""
    if job is not None and job.state == "done" and isinstance(job.result, DrillProof):
        report = job.result
        facts = (
            f"Killed -9 at step {report.killed_at_step}, resumed from step {report.resumed_from_step} in a new "
            f"process, and compared {count(report.tensors_compared, 'tensor')} and all other state at "
            f"{count(report.checkpoints_compared, 'step')} with a run that nobody killed."
        )
        return _build_result(report.bit_exact, facts, report.first_difference, seconds=report.duration_s)
    return build_proof_card(None, job, key=key)


def _build_progress(job: Job) -> Markup:
    return tag(
        "div",
        tag("span", class_="spinner", aria_hidden="true"),
        tag("strong", "Proving that a killed run comes back bit for bit."),
        tag("ul", [tag("li", sentence) for sentence in job.told], class_="whole sub"),
        class_="notice plain row",
        role="status",
    )


def _build_verdict(view: JudgedProof) -> Markup:
    proof = view.proof
    return _build_result(
        proof.bit_exact,
        f"{describe_moment(proof.time_s)}: {_say_verdict(proof)} {_say_environment(proof)}",
        proof.first_difference,
        outdated=word_changes(view.changes),
    )


def _build_result(
    bit_exact: bool, facts: str, first: FirstDifference | None, *, outdated: str = "", seconds: float | None = None
) -> Markup:
    parts: list[object] = [
        tag("strong", "Bit-exact: it came back from kill -9 as if nothing had happened.")
        if bit_exact
        else tag("strong", "Not bit-exact after a kill -9.")
    ]
    if first is not None:
        where = f"First difference: {first.part} {first.name}, at step {first.step}: {first.detail}."
        more = f" {count(first.others, 'other thing')} differ there, too." if first.others else ""
        parts += [
            tag("div", where, more),
            tag("div", tag("strong", "Cause: "), first.cause),
            tag("div", tag("strong", "Cure: "), first.cure),
        ]
    took = f" It took {describe_duration(seconds)}." if seconds is not None else ""
    parts.append(tag("div", facts, took, class_="muted"))
    if outdated:
        parts.append(tag("div", f"Out of date: {outdated}. Prove it again.", class_="muted"))
    look = "plain" if outdated or bit_exact else "bad"
    return tag("div", parts, class_=f"notice {look}", role="status")


def _say_verdict(proof: DrillProof) -> str:
    compared = f"{count(proof.tensors_compared, 'tensor')} at {count(proof.checkpoints_compared, 'step')}"
    killed = f"killed at step {proof.killed_at_step}, resumed from {proof.resumed_from_step}"
    verdict = "every bit equal" if proof.bit_exact else "not equal"
    return f"{killed}, {compared} compared with a run that nobody killed, {verdict}."


def _say_environment(proof: DrillProof) -> str:
    known = proof.fingerprint
    parts = [
        f"torch {known['torch']}" if known.get("torch") else None,
        str(known.get("gpu") or known.get("device") or "") or None,
        count(int(known["threads"]), "thread") if isinstance(known.get("threads"), int) else None,
        *(f"{key} {proof.config[key]}" for key in ("workers", "precision") if proof.config.get(key)),
        f"code {str(known['code.digest'])[:8]}" if known.get("code.digest") else None,
    ]
    told = ", ".join(part for part in parts if part)
    return f"With {told}." if told else ""
