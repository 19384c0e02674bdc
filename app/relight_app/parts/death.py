"""The card of a dead run: what ended it, what that cost, what a resume does, and the one right button."""

from __future__ import annotations

from relight.overview.death import Advice, Death, GpuUser
from relight.overview.summary import RunSummary
from relight.wording import count, describe_bytes
from relight_app.formats import describe_risk
from relight_app.icons import icon
from relight_app.markup import Markup, tag
from relight_app.navigation import address
from relight_app.parts.controls import action_button
from relight_app.parts.moments import build_moment
from relight_app.parts.notice import build_traceback

_QUIET = ("stopped",)
"""Causes that a person chose: the header says enough."""


def build_death(death: Death, run: RunSummary, *, resuming: bool = False) -> Markup | None:
    """Build the card; None for a run that a person stopped and that lost nothing."""
    if death.cause in _QUIET and not death.lost_steps and death.non_finite is None:
        return None
    frame = death.frame
    return tag(
        "section",
        tag("div", tag("strong", death.title), tag("span", build_moment(death.died_s), class_="sub push"),
            class_="row"),
        tag("p", death.sentence) if death.sentence != death.title else None,
        tag("code", frame.code, class_="text shell culprit", title=f"{frame.file}, line {frame.line}")
        if frame is not None and frame.code else None,
        _build_users(death.gpu_users),
        tag("ul", [tag("li", sentence) for sentence in _list_consequences(death)], class_="muted"),
        tag("p", death.non_finite.sentence, class_="lost") if death.non_finite is not None else None,
        tag("div", _build_button(death.advice, run, resuming, main=True),
            tag("span", death.advice.sentence, class_="sub"), class_="row"),
        _build_alternatives(death.alternatives, run, resuming),
        build_traceback(run.traceback, key="run-traceback") if run.traceback else None,
        class_=f"notice {run.status} stack death",
        aria_label="What ended this run",
    )  # fmt: skip


def build_non_finite(run: RunSummary) -> Markup | None:
    """Build the notice of a live run whose loss is not finite any more."""
    found = run.non_finite
    if found is None or not run.status.is_live:
        return None
    healthy = found.healthy_step
    return tag(
        "div",
        tag("strong", found.sentence),
        tag("a", icon("branch"), "Branch from the last healthy checkpoint", class_="button push",
            href=address("branch", id=run.run, step=str(healthy))) if healthy is not None else None,
        class_="notice bad row",
        role="alert",
    )  # fmt: skip


def _list_consequences(death: Death) -> list[str]:
    risk = describe_risk(death.lost_s, death.lost_steps)
    sentences = [f"Lost: {risk}." if death.lost_steps else "Nothing was lost."]
    if death.resume_step is None:
        sentences.append("There is no checkpoint: a resume starts from step 0.")
    else:
        checked = "read back and verified when it was saved" if death.resume_verified else "not yet read back"
        sentences.append(f"A resume continues from step {death.resume_step:,} ({checked}).")
    check = death.resume_check
    if check is not None:
        sentences.append(check.sentence)
    elif death.was_resumed:
        sentences.append("The last resume ended before it could be checked against the attempt before it.")
    return sentences


def _build_users(users: tuple[GpuUser, ...]) -> Markup | None:
    if not users:
        return None
    words = [
        tag("li", "this run" if user.pid is None else f"process {user.pid}",
            [" (", tag("a", user.run, class_="link", href=address("run", id=user.run)), ")"] if user.run else None,
            f": {describe_bytes(user.bytes)}")
        for user in users
    ]  # fmt: skip
    return tag("div", tag("span", "On the card:", class_="sub"), tag("ul", words))


def _build_alternatives(others: tuple[Advice, ...], run: RunSummary, resuming: bool) -> Markup | None:
    if not others:
        return None
    rows = [
        tag("div", _build_button(one, run, resuming, main=False), tag("span", one.sentence, class_="sub"), class_="row")
        for one in others
    ]
    return tag("details", tag("summary", f"Or: {count(len(others), 'alternative')}"), tag("div", rows, class_="stack"))


def _build_button(advice: Advice, run: RunSummary, resuming: bool, *, main: bool) -> Markup:
    class_ = "button solid" if main else "button"
    if advice.action == "branch":
        step = advice.step if advice.step is not None else run.durable_step or 0
        return tag("a", icon("branch"), f"Branch from step {step:,}", class_=class_,
                   href=address("branch", id=run.run, step=str(step)))  # fmt: skip
    if advice.action == "launch":
        return tag("a", icon("launch"), "Launch again", class_=class_, href=address("launch", **{"from": run.run}))
    where = f"Resume from step {advice.step:,}" if advice.step else "Resume from the beginning"
    return action_button(where, "resume", {"run": run.run, "attempt": run.attempt}, icon_name="resume", class_=class_,
                         busy=resuming)  # fmt: skip
